//! What applications and servers link: everything between `main` and the kernel's one hypercall.
//!
//! An application owns its VM. This library is how it starts in it ([`entry!`]), names and uses its capabilities
//! ([`cap`]), talks to others ([`ring`], [`channel`]), sleeps and is woken ([`events`]). All of it is ordinary code of
//! the application: it can be replaced, and nobody else's safety depends on it.
//!
//! What needs a VM is in `arch` and compiled for it only. The rest also builds on the host, where its tests run.
#![no_std]
#![warn(missing_docs)]

extern crate alloc;
#[cfg(not(target_os = "none"))]
extern crate std;

#[cfg(target_os = "none")]
pub mod arch;
pub mod cap;
pub mod channel;
pub mod end;
pub mod events;
pub mod heap;
pub mod invoke;
pub mod ring;
pub mod shared;

/// Names the function that an image begins with: `fn() -> !`. It runs with a stack, a heap and exceptions that are
/// reported; everything else is its own business. Servers and small test guests begin like this.
#[macro_export]
macro_rules! entry {
    ($main:path) => {
        #[cfg(target_os = "none")]
        #[unsafe(no_mangle)]
        fn userlib_main() -> ! {
            let main: fn() -> ! = $main;
            main()
        }
    };
}
