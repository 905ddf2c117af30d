//! The image of `blkbench`: everything is in the library, so that it can be tested on the host.
#![no_std]
#![no_main]

userlib::main!(application::run);
