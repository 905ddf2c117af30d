//! Inputs for runs, the same every time.

use std::path::PathBuf;
use xtask::paths;

/// A file that a run takes as its input. Every test has its own, as they run side by side.
#[must_use]
pub fn file_for_a_run(name: &str, contents: &[u8]) -> PathBuf {
    let folder = paths::target().join("e2e");
    std::fs::create_dir_all(&folder).expect("the target folder can be written");
    let thread = format!("{:?}", std::thread::current().id()).replace(['(', ')'], "");
    let path = folder.join(format!("{name}-{}-{thread}", std::process::id()));
    std::fs::write(&path, contents).expect("as above");
    path
}

/// A linear congruential generator (Knuth's MMIX): each call gives a number below its argument, the same ones for the same
/// seed.
pub fn random_numbers(seed: u64) -> impl FnMut(u64) -> u64 {
    let mut state = seed;
    move |below| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    }
}

/// A trace in which few keys are asked for often and many seldom, the same for everybody.
pub fn trace_for_a_run() -> PathBuf {
    use std::fmt::Write as _;
    let mut draw = random_numbers(1);
    let mut text = String::from("# trace\n");
    for _ in 0..30_000 {
        // The least of three draws: small numbers come often.
        let key = draw(2_000).min(draw(2_000)).min(draw(2_000));
        let _ = writeln!(text, "{key}");
    }
    file_for_a_run("trace", text.as_bytes())
}

/// A text of so many bytes, the same in every run: lines of words, of which every other one stands once more some
/// kilobytes later, so that a large window finds what a small one has forgotten.
pub fn text_for_a_run(bytes: usize) -> PathBuf {
    const WORDS: u64 = 2_000;
    let mut draw = random_numbers(5);
    let mut lines: Vec<String> = Vec::new();
    let mut text = String::new();
    while text.len() < bytes {
        let back = 150 + draw(250) as usize;
        let line = match lines.len().checked_sub(back).filter(|_| draw(2) == 0) {
            Some(at) => lines[at].clone(),
            // Short words, that is small numbers, are more frequent.
            None => (0..8).map(|_| format!("{:x} ", draw(WORDS).min(draw(WORDS)).min(draw(WORDS)) * 7_919)).collect(),
        };
        text.push_str(&line);
        text.push('\n');
        lines.push(line);
    }
    file_for_a_run(&format!("text-{bytes}"), &text.as_bytes()[..bytes])
}
