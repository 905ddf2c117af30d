//! The image: everything is in the library.
#![no_std]
#![no_main]

userlib::main!(compress::run);
