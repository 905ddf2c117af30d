//! What an invocation on the fine machine may be answered, and may have changed.

use cap_spec::abi::{Error, Label};
use cap_spec::machine::fine::{Answer, Fine};
use cap_spec::machine::{Call, State, VcpuId, step};
use cap_spec::properties::Property;

/// Checks what an event in which `invoker` invoked has answered and left: an invocation that is refused, or does not
/// happen, changes nothing; what is done in one step is answered, and leaves, what the atomic machine says at that instant.
/// After the IOMMU has failed, which the atomic machine does not know of, it may be refused for that instead.
///
/// # Errors
/// The property that does not hold, and how.
pub fn check_answer(
    before: &State,
    after: &Fine,
    invoker: VcpuId,
    call: Call,
    answer: Answer,
) -> Result<(), (Property, String)> {
    let is_long = matches!(Label::from_number(call.label), Some(Label::CNodeDelete | Label::CNodeRevoke));
    let mut atomic = before.clone();
    let expected = step(&mut atomic, invoker, call);
    let is_changed = *before != after.state;
    let is_kept_back = after.quarantine.has_failed
        && expected.is_ok()
        && matches!(answer, Answer::Answered(_, Err(fault))
            if matches!(fault.error, Error::InvalidCapability | Error::Forbidden | Error::InUse));
    match answer {
        Answer::Answered(_, Err(_)) | Answer::Waits | Answer::Impossible if is_changed => {
            Err((Property::FailureChangesNothing, format!("{answer:x?} has changed the state")))
        }
        Answer::Answered(..) if is_kept_back => Ok(()),
        Answer::Answered(_, found) if !(is_long && found.is_ok()) && found != expected => {
            Err((Property::Refinement, format!("answered {found:x?}, not {expected:x?}")))
        }
        Answer::Answered(_, Ok(_)) if !is_long && atomic != after.state => {
            Err((Property::Refinement, "it leaves another state".into()))
        }
        _ => Ok(()),
    }
}
