//! What applications and servers link: everything between `main` and the kernel's one hypercall.
//!
//! An application owns its VM. This library is how it starts in it ([`main!`]) and finds what it was given ([`App`]),
//! names and uses its capabilities ([`cap`]), buys CPU time and memory ([`market`], [`pager`], [`heap`]), drives devices of
//! its own ([`dma`]), talks to others ([`ring`], [`channel`], [`console`]), sleeps and is woken ([`events`], [`clock`]), or interrupted
//! ([`upcalls`]). All of it is ordinary code of the
//! application: it can be replaced, and nobody else's safety depends on it.
//!
//! A whole application:
//! ```ignore
//! #![no_std]
//! #![no_main]
//!
//! use userlib::{App, Error, println};
//!
//! userlib::main!(run);
//!
//! fn run(app: &mut App) -> Result<(), Error> {
//!     let lines = app.input().iter().filter(|&&byte| byte == b'\n').count();
//!     println!("{} has {lines} lines", app.name());
//!     app.work_done(lines as u64, lines as u64);
//!     Ok(())
//! }
//! ```
//!
//! What needs a VM is in `arch` and compiled for it only. The rest also builds on the host, where its tests run.
#![no_std]
#![warn(missing_docs)]

extern crate alloc;
#[cfg(not(target_os = "none"))]
extern crate std;

mod app;
#[cfg(target_os = "none")]
pub mod arch;
pub mod cap;
pub mod channel;
pub mod clock;
pub mod console;
mod device_caps;
pub mod dma;
pub mod draw;
pub mod end;
mod error;
pub mod events;
pub mod heap;
pub mod invoke;
pub mod market;
#[cfg(target_os = "none")]
pub mod nic;
#[cfg(target_os = "none")]
mod own_device;
pub mod pager;
pub mod ring;
pub mod shared;
pub mod slots;
#[cfg(target_os = "none")]
pub mod start_page;
#[cfg(target_os = "none")]
pub mod stopped;
#[cfg(target_os = "none")]
pub mod storage;
pub mod upcalls;
#[cfg(target_os = "none")]
pub mod usage;
#[cfg(target_os = "none")]
pub mod virtual_function;

pub use app::{App, MarketInUse};
pub use error::Error;
pub use proto::start::Start;

#[doc(hidden)]
pub use app::{keeps_nothing, start};

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

/// As [`entry!`], for the program of a server that the market server starts. On the host the program only says so.
#[macro_export]
macro_rules! server {
    ($main:path, $name:literal) => {
        #[cfg(target_os = "none")]
        $crate::entry!($main);

        #[cfg(not(target_os = "none"))]
        fn main() {
            eprintln!(concat!("the ", $name, " server is started by the market server: cargo xtask run"));
            std::process::exit(2);
        }
    };
}

/// Names the function that an application begins with: `fn(&mut App) -> Result<(), Error>`. It runs with market and
/// console connected. When it returns, output is flushed and the market is told that the application has ended: with
/// status 0, or 1 for an error, which is printed; a panic ends it with status 101.
///
/// What an application maps of its base itself (`App::market().pager().map_base`) must be there: all but some 256 pages of a
/// base become the heap. With `keep = FUNCTION`, a `fn(&Start) -> u32`, so many pages more stay out of it.
///
/// On the host the image is a program that says where it belongs.
#[macro_export]
macro_rules! main {
    ($run:path) => {
        $crate::main!($run, keep = $crate::keeps_nothing);
    };
    ($run:path, keep = $keep:path) => {
        #[cfg(target_os = "none")]
        #[unsafe(no_mangle)]
        fn userlib_main() -> ! {
            $crate::start($run, $keep)
        }

        #[cfg(not(target_os = "none"))]
        #[unsafe(no_mangle)]
        extern "C" fn main() -> i32 {
            $crate::start($run, $keep)
        }
    };
}
