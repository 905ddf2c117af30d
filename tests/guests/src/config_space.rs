//! What a holder of a function tries on its configuration space: anything into every register, those that would move
//! memory, make a bus master, send messages or enable virtual functions among them.
//!
//! Only Command with Status and Device Control with Device Status take a write, and of those only what concerns nobody
//! else; all others must be refused, and whatever can be read must be as it was.

use alloc::vec::Vec;
use cap_spec::abi::Error;
use userlib::cap::{Cap, Fault, PciFunction};

/// Bytes of configuration space.
const BYTES: u16 = 4096;
/// Command, and Status in the high half (PCI Local Bus Specification, 6.2).
const COMMAND: u16 = 0x04;
/// Header Type is the third byte here.
const HEADER_TYPE: u16 = 0x0c;
/// The first capability, and the first extended one.
const CAPABILITIES: u16 = 0x34;
const EXTENDED: u16 = 0x100;
/// Identifiers of capabilities (PCI Express Base Specification, 7.5.3, 7.7.2, 9.3.3).
const EXPRESS: u32 = 0x10;
const MSIX: u32 = 0x11;
const SRIOV: u32 = 0x10;
/// Device Control, and Device Status in the high half, from the capability on; Max_Read_Request_Size of it.
const DEVICE_CONTROL: u16 = 8;
const MAX_READ_REQUEST: u32 = 7 << 12;
/// Most capabilities of a list that are looked at.
const CAPABILITIES_MOST: usize = 64;

/// What became of the attempts.
#[derive(Debug, Default)]
pub struct Tried {
    /// Writes that were tried.
    pub attempts: u64,
    /// Where the capability of MSI-X is, which is tried with all else; 0 for none.
    pub msix: u16,
    /// Where that of SR-IOV is.
    pub sriov: u16,
    /// What was not as it must be: at which offset.
    pub wrong: Vec<(u16, &'static str)>,
}

/// True if the function is no bridge, so that it has no windows.
pub fn is_endpoint(function: Cap<PciFunction>) -> Result<bool, Fault> {
    function.read_config(HEADER_TYPE).map(|word| word >> 16 & 0x7f == 0)
}

/// Where a capability is, 0 for none.
fn capability(function: Cap<PciFunction>, id: u32) -> Result<u16, Fault> {
    let mut at = function.read_config(CAPABILITIES)? & 0xfc;
    for _ in 0..CAPABILITIES_MOST {
        let head = function.read_config(at as u16)?;
        if at == 0 || head & 0xff == id {
            return Ok(at as u16);
        }
        at = head >> 8 & 0xfc;
    }
    Ok(0)
}

/// As [`capability`], of those in extended configuration space.
fn extended_capability(function: Cap<PciFunction>, id: u32) -> Result<u16, Fault> {
    let mut at = EXTENDED;
    for _ in 0..CAPABILITIES_MOST {
        let head = function.read_config(at)?;
        if head & 0xffff == id {
            return Ok(at);
        }
        at = (head >> 20) as u16 & 0xffc;
        if at < EXTENDED {
            break;
        }
    }
    Ok(0)
}

/// Tries every register of a function with its bits turned, with ones and with zeroes.
pub fn try_everything(function: Cap<PciFunction>) -> Result<Tried, Fault> {
    let read = || (0..BYTES).step_by(4).map(|offset| function.read_config(offset)).collect::<Result<Vec<u32>, Fault>>();
    let before = read()?;
    let control = capability(function, EXPRESS)? + DEVICE_CONTROL;
    let (msix, sriov) = (capability(function, MSIX)?, extended_capability(function, SRIOV)?);
    let mut tried = Tried { attempts: 0, msix, sriov, wrong: Vec::new() };
    for (offset, &value) in (0..BYTES).step_by(4).zip(&before) {
        if offset == COMMAND || offset == control {
            continue;
        }
        for written in [!value, u32::MAX, 0] {
            tried.expect(offset, function.write_config(offset, written), Some(Error::Forbidden));
        }
    }
    for offset in [1, 2, 3, COMMAND + 2, control + 1, control + 2] {
        tried.expect(offset, function.write_config(offset, u32::MAX), Some(Error::Misaligned));
    }
    for offset in [BYTES, BYTES + COMMAND, BYTES + control, u16::MAX - 3] {
        tried.expect(offset, function.write_config(offset, u32::MAX), Some(Error::OutOfRange));
    }
    // Of what takes a write: nothing clears errors, and nothing else but the size of reads is changed, which is put
    // back.
    let command = before[usize::from(COMMAND) / 4] & 0xffff;
    tried.expect(COMMAND, function.write_config(COMMAND, command ^ 0xffff), None);
    let kept = before[usize::from(control) / 4] & 0xffff;
    tried.expect(control, function.write_config(control, kept | MAX_READ_REQUEST), Some(Error::Forbidden));
    let turned = kept & MAX_READ_REQUEST | !kept & 0xffff & !MAX_READ_REQUEST;
    tried.expect(control, function.write_config(control, turned), None);
    for (offset, (before, after)) in (0..).step_by(4).zip(before.into_iter().zip(read()?)) {
        if before != after {
            tried.wrong.push((offset, "it has changed"));
        }
    }
    // A reset would have begun.
    if function.info().is_err() {
        tried.wrong.push((control, "the function is busy"));
    }
    Ok(tried)
}

impl Tried {
    /// A write ended with this error, or with none.
    fn expect(&mut self, offset: u16, result: Result<(), Fault>, wanted: Option<Error>) {
        self.attempts += 1;
        if result.err().map(|fault| fault.error) != wanted {
            self.wrong.push((offset, "it was answered otherwise"));
        }
    }
}
