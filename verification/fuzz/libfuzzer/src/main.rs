//! One target under libFuzzer, the one that the environment names ([`fuzz::NAME`]): one program for all, as each build of
//! them with coverage takes minutes.
#![no_main]

use fuzz::Target;
use libfuzzer_sys::fuzz_target;
use std::sync::OnceLock;

static TARGET: OnceLock<&'static Target> = OnceLock::new();

fuzz_target!(|bytes: &[u8]| {
    let target = TARGET.get_or_init(|| {
        let name = std::env::var(fuzz::NAME).unwrap_or_default();
        Target::from_name(&name).unwrap_or_else(|error| panic!("{}: {error}", fuzz::NAME))
    });
    if let Err(error) = (target.check)(bytes) {
        panic!("{}: {error}", target.name);
    }
});
