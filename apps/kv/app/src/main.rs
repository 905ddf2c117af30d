//! The image of `kv`: everything is in the library, so that it can be tested on the host.
#![no_std]
#![no_main]

userlib::main!(application::run, keep = application::pages_kept);
