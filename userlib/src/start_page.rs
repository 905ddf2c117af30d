//! The start-up page, on which the launcher tells a VM about itself.

use alloc::vec;

use cap_spec::abi::START_PAGE;

use crate::shared::SharedMemory;
use proto::start::Start;

const PAGE: usize = 4096;
/// Bytes of the length before the contents.
const LENGTH_BYTES: usize = 4;

/// What the launcher said. `None` if that is nothing, or of another version than [`proto::VERSION`].
pub fn read() -> Option<Start> {
    // SAFETY: the launcher maps the page for as long as the VM lives.
    let page = unsafe { SharedMemory::new(START_PAGE, PAGE) };
    let mut length = [0; LENGTH_BYTES];
    page.read_bytes(0, &mut length);
    let mut bytes = vec![0; (u32::from_le_bytes(length) as usize).min(PAGE - LENGTH_BYTES)];
    page.read_bytes(LENGTH_BYTES, &mut bytes);
    postcard::from_bytes::<Start>(&bytes).ok().filter(|start| start.version == proto::VERSION)
}
