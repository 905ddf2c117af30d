//! README.md shows a whole application. What it shows is what `cargo xtask new` makes, is built as `apps/lines`, and
//! does what README says it does.

use e2e::{Change, Machine, xtask};
use proto::host::End;
use std::fs;
use std::path::PathBuf;

fn root() -> PathBuf {
    xtask::paths::root()
}

fn text(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The text between a fence of README that is opened right after this mark, and its end.
fn shown(readme: &str, mark: &str) -> String {
    let (_, after) = readme.split_once(mark).expect("the mark is in README.md");
    let (_, code) = after.split_once("```rust\n").expect("a fence after the mark");
    code.split_once("```").expect("the fence ends").0.to_string()
}

#[test]
fn readme_shows_the_application_that_is_built() {
    let readme = text("README.md");
    for (mark, file) in [("`apps/lines/src/main.rs`", "main.rs"), ("`apps/lines/src/lib.rs`", "lib.rs")] {
        let built = text(&format!("apps/lines/src/{file}"));
        let from_template = text(&format!("userlib/template/src/{file}")).replace("{{name}}", "lines");
        assert_eq!(from_template, built, "what `cargo xtask new lines` makes is apps/lines");
        assert_eq!(shown(&readme, mark), built, "README.md shows {file} of apps/lines");
    }
}

#[test]
fn readme_application_counts_the_lines_of_its_input() {
    let scenario =
        e2e::scenario("tiny", &Change::set("app.digest.image=lines")).expect("the tiny scenario with another image");
    let input = scenario.inputs[0].as_deref().expect("an input");
    let lines = input.iter().filter(|&&byte| byte == b'\n').count();
    let run = Machine::start_with(&scenario, xtask::emulator::Acceleration::InstructionClock)
        .and_then(Machine::finish)
        .expect("a run");
    run.expect_good();
    assert_eq!(run.end("digest"), &End::Exit { status: 0 });
    assert!(run.console_has(&format!("{lines} lines")), "{lines} lines are counted");
}
