//! `cargo xtask new NAME`: what it makes builds, has a test that passes, boots and bids; a name that won't do is refused.
//!
//! All of it happens in a copy of the workspace with a target folder of its own, so that the tree stays clean and no
//! other test sees the new application.

use e2e::program::{left_in, output, path, text};
use e2e::xtask::{build, paths, process};
use serde_json::Value;
use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// A copy of the workspace's tracked files, below the target folder; gone with the test.
struct Copy {
    folder: PathBuf,
}

impl Copy {
    fn new(name: &str) -> Copy {
        let folder = paths::target().join("e2e").join(format!("new-{name}"));
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).expect("the target folder can be written");
        let copy = Copy { folder };
        let list = process::output(Command::new("git").current_dir(paths::root()).args(["ls-files", "-z"]));
        let list = list.expect("the tests run in a clone");
        for name in list.split('\0').filter(|name| paths::root().join(name).is_file()) {
            let to = copy.tree().join(name);
            std::fs::create_dir_all(to.parent().expect("it is a file")).expect("as above");
            std::fs::copy(paths::root().join(name), to).expect("as above");
        }
        copy
    }

    fn tree(&self) -> PathBuf {
        self.folder.join("tree")
    }

    fn target(&self) -> PathBuf {
        self.folder.join("target")
    }

    /// As cargo runs `xtask` there.
    fn xtask(&self, arguments: &[&str]) -> Command {
        let mut command = Command::new(path());
        command.current_dir(self.tree()).stdin(Stdio::null()).args(arguments);
        command.env("CARGO_PKG_NAME", "xtask").env("CARGO_MANIFEST_DIR", self.tree().join("xtask"));
        command.env("CARGO_TARGET_DIR", self.target());
        command
    }
}

impl Drop for Copy {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[test]
fn new_application_builds_passes_its_test_boots_and_bids() {
    let copy = Copy::new("made");
    let made = output(&mut copy.xtask(&["new", "my-app"]));
    assert!(made.status.success(), "{}", text(&made.stderr));
    let said = text(&made.stdout);
    assert!(said.starts_with("made apps/my-app; next, type:\n"), "{said}");

    // Its host test passes, with the lints of the workspace.
    let mut cargo = build::cargo();
    cargo.current_dir(copy.tree()).env("CARGO_TARGET_DIR", copy.target());
    let tested = output(cargo.args(["test", "--package", "my-app", "--lib"]));
    let told = text(&tested.stdout);
    assert!(tested.status.success(), "{told}\n{}", text(&tested.stderr));
    assert!(told.contains("test result: ok. ") && !told.contains(" 0 passed"), "{told}");

    // What it says to type next is typed.
    let lines = said.lines().filter_map(|line| line.strip_prefix("  cargo xtask "));
    let typed: Vec<Vec<&str>> = lines.map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(typed.iter().map(|words| words[0]).collect::<Vec<_>>(), ["build", "run"]);
    for words in &typed {
        let done = output(&mut copy.xtask(words));
        assert!(done.status.success(), "{words:?}: {}\n{}", text(&done.stdout), text(&done.stderr));
    }
    let result: Value = serde_json::from_slice(&left_in(&copy.target(), "result.json")).expect("result.json is JSON");
    let app = &result["apps"][0];
    assert_eq!((&app["end"]["kind"], &app["end"]["status"]), (&"exit".into(), &0.into()));
    assert_eq!(app["work"], app["work_total"]);
    assert!(app["cpu_ticks_bought"].as_u64() > Some(0), "it bids: {app}");
    assert!(app["lines"][0].as_str().is_some_and(|line| line.ends_with(" lines")), "{app}");

    // The tree that the tests run in has none of it.
    assert!(!paths::root().join("apps/my-app").exists());
}

#[test]
fn names_that_will_not_do_are_refused() {
    let copy = Copy::new("refused");
    let apps = || {
        let entries = std::fs::read_dir(copy.tree().join("apps")).expect("there are applications");
        entries.map(|app| app.expect("as above").file_name()).collect::<BTreeSet<_>>()
    };
    let before = apps();
    for (name, reason) in [
        ("digest", "apps/digest exists already"),
        ("My-App", "lower-case letters, digits and hyphens, a letter first"),
        ("../elsewhere", "lower-case letters, digits and hyphens, a letter first"),
        ("a-name-that-is-much-too-long", "up to 24 "),
        ("userlib", "the workspace has a package or a program `userlib` already"),
        ("hostile", "the workspace has a package or a program `hostile` already"),
        ("core", "`core` won't do: Rust, cargo or the template use it"),
    ] {
        let refused = output(&mut copy.xtask(&["new", name]));
        let error = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(1), "{name}: {error}");
        assert!(error.starts_with("error: ") && error.contains(reason), "{name}: {error}");
    }
    assert_eq!(apps(), before, "nothing was made");
    assert!(!copy.folder.join("elsewhere").exists() && !copy.tree().join("elsewhere").exists());
}
