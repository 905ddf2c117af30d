//! Makes copies of the kernel's `protocol/turns.rs` and `protocol.rs` that use loom's atomics in place of `core`'s: as they
//! are, and with one mistake each, which the models must find. Nothing else is changed but that loom's constructors are not
//! `const`, and that tests and submodules are left out.

use std::fs;
use std::path::Path;

/// A mistake: its name, the file, the text that stands there once, and by what it is replaced.
const MISTAKES: [(&str, &str, &str, &str); 6] = [
    (
        "end_relaxed",
        "turns",
        "serving.wrapping_add(1), Ordering::Release)",
        "serving.wrapping_add(1), Ordering::Relaxed)",
    ),
    (
        "come_relaxed",
        "turns",
        "self.serving.load(Ordering::Acquire) == turn.0",
        "self.serving.load(Ordering::Relaxed) == turn.0",
    ),
    (
        "queue_torn",
        "turns",
        "Turn(self.next.fetch_add(1, Ordering::Relaxed))",
        "{ let next = self.next.load(Ordering::Relaxed); self.next.store(next.wrapping_add(1), Ordering::Relaxed); Turn(next) }",
    ),
    (
        "left_relaxed",
        "gate",
        "self.place.store(IN_KERNEL, Ordering::Release)",
        "self.place.store(IN_KERNEL, Ordering::Relaxed)",
    ),
    (
        "acknowledged_relaxed",
        "gate",
        "self.place.load(Ordering::Acquire) == IN_GUEST",
        "self.place.load(Ordering::Relaxed) == IN_GUEST",
    ),
    ("call_forgotten", "gate", "self.attention.store(true, Ordering::Relaxed);", ""),
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let folder = std::env::var("CARGO_MANIFEST_DIR").expect("cargo sets CARGO_MANIFEST_DIR");
    let out = std::env::var("OUT_DIR").expect("cargo sets OUT_DIR");
    let [turns, gate] = ["protocol/turns.rs", "protocol.rs"].map(|file| {
        let file = Path::new(&folder).join("../../kernel/src").join(file);
        println!("cargo:rerun-if-changed={}", file.display());
        prepared(&fs::read_to_string(&file).unwrap_or_else(|error| panic!("{}: {error}", file.display())))
    });
    let write = |name: &str, turns: &str, gate: &str| {
        let text = format!("pub mod turns {{\n{turns}\n}}\npub mod gate {{\n{gate}\n}}\n");
        fs::write(Path::new(&out).join(format!("{name}.rs")), text).expect("OUT_DIR can be written");
    };
    write("as_it_is", &turns, &gate);
    for (name, file, find, replace) in MISTAKES {
        let changed = |of: &str, text: &str| {
            if of != file {
                return text.to_string();
            }
            assert_eq!(text.matches(find).count(), 1, "{name}: its text is not in {file} exactly once");
            text.replacen(find, replace, 1)
        };
        write(name, &changed("turns", &turns), &changed("gate", &gate));
    }
}

/// A file of the kernel for loom.
fn prepared(text: &str) -> String {
    let text = text.split("#[cfg(test)]").next().unwrap_or_default();
    let kept = text.lines().filter(|line| !line.starts_with("//!") && !line.starts_with("pub mod "));
    let text = kept.collect::<Vec<_>>().join("\n");
    text.replace("core::sync::atomic", "loom::sync::atomic").replace("pub const fn new()", "pub fn new()")
}
