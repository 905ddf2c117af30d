//! Launch in steps: a base of which so much is derived that one step does not see all of it.

use cap_spec::abi::{Error, Fault, Label, ObjectType, Rights};
use cap_spec::machine::fine::{Answer, Event, Fine, LAUNCH_STEP, check, run, step};
use cap_spec::machine::{Call, Outcome, VcpuId};
use lockstep::script::{self, Step, tenant};
use lockstep::system::{ROOT_VCPU, place};
use specification::world::run_script;

/// A slot of the root VM's CNode that the script of a tenant leaves free.
const MORE: u64 = 50;
/// Copies that lie in a second CNode of the tenant.
const COPIES: u64 = 62;

/// A tenant that is handed over, with a second CNode full of copies of one of its frames, and of its channel's end besides.
fn large_tenant() -> Fine {
    let all = Rights::all().bits().into();
    let mut steps = script::build_tenant(1);
    for number in 0..2 {
        steps.push(script::retype(tenant::BASE, ObjectType::CNode, 6, MORE + number, 1));
        let copies =
            (1..=COPIES).map(|index| script::root(Label::CNodeCopy, MORE + number, &[index, tenant::FRAMES[0], all]));
        steps.extend(copies);
        steps.push(script::root(Label::CNodeMove, tenant::CNODE, &[40 + number, MORE + number]));
    }
    steps.extend(script::hand_over());
    Fine::new(run_script(steps))
}

fn call_of(step: Step) -> Call {
    match step {
        Step::Invoke(_, call) => call,
        _ => panic!("not an invocation"),
    }
}

fn launch() -> Call {
    call_of(script::launch()[0])
}

/// Repeats a call until it is answered; how many steps it took.
fn repeat(fine: &mut Fine, invoker: VcpuId, call: Call) -> (Answer, usize) {
    let (answer, steps) = run(fine, invoker, call);
    assert_eq!(check(fine), Ok(()));
    (answer, steps)
}

#[test]
fn it_takes_as_many_steps_as_there_is_to_check() {
    let mut fine = large_tenant();
    let derived = 2 * COPIES as usize + 10;
    let mut atomic = fine.state.clone();
    assert_eq!(cap_spec::machine::step(&mut atomic, ROOT_VCPU, launch()), Ok(Outcome::NOTHING));
    let (answer, steps) = repeat(&mut fine, ROOT_VCPU, launch());
    assert_eq!(answer, Answer::Answered(ROOT_VCPU, Ok(Outcome::NOTHING)));
    assert_eq!(steps, derived.div_ceil(LAUNCH_STEP));
    assert!(fine.state == atomic && fine.checks.is_empty());
}

#[test]
fn what_changes_meanwhile_is_seen() {
    let all: u64 = Rights::all().bits().into();
    // A copy of the Vcpu that stays outside is made when some have passed.
    let mut fine = large_tenant();
    assert_eq!(step(&mut fine, Event::Invoke(ROOT_VCPU, launch())), Answer::Again(ROOT_VCPU));
    assert_eq!(fine.checks[&ROOT_VCPU].passed.len(), 1 + LAUNCH_STEP);
    let copy = call_of(script::root(Label::CNodeCopy, place::CNODE, &[MORE, tenant::VCPU, all]));
    let (answer, _) = repeat(&mut fine, ROOT_VCPU, copy);
    assert_eq!(answer, Answer::Answered(ROOT_VCPU, Ok(Outcome::NOTHING)));
    let (answer, _) = repeat(&mut fine, ROOT_VCPU, launch());
    let refused = Err(Fault::new(Error::NotConfined, 1));
    assert_eq!(answer, Answer::Answered(ROOT_VCPU, refused));
    let mut atomic = fine.state.clone();
    assert_eq!(cap_spec::machine::step(&mut atomic, ROOT_VCPU, launch()), refused);

    // It goes again before the launch is repeated: the check has begun again, and the launch succeeds.
    let mut fine = large_tenant();
    let passed = |fine: &Fine| fine.checks.get(&ROOT_VCPU).map_or(0, |check| check.passed.len());
    while !fine.checks.get(&ROOT_VCPU).is_some_and(|check| check.passed.contains(&check.invoked)) {
        assert_eq!(
            step(&mut fine, Event::Invoke(ROOT_VCPU, launch())),
            Answer::Again(ROOT_VCPU),
            "the Vcpu is not passed"
        );
    }
    assert!(passed(&fine) > LAUNCH_STEP);
    repeat(&mut fine, ROOT_VCPU, copy);
    assert_eq!(passed(&fine), 0, "the check begins again");
    let delete = call_of(script::root(Label::CNodeDelete, place::CNODE, &[MORE]));
    repeat(&mut fine, ROOT_VCPU, delete);
    let (answer, steps) = repeat(&mut fine, ROOT_VCPU, launch());
    assert_eq!(answer, Answer::Answered(ROOT_VCPU, Ok(Outcome::NOTHING)));
    assert_eq!(steps, (2 * COPIES as usize + 10).div_ceil(LAUNCH_STEP));
}
