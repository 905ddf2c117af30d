//! The program of `cargo xtask` as a user meets it: for tests of what it prints, asks and leaves.
//!
//! All runs of it write to one folder, so a test that starts one holds [`one_at_a_time`] until it has looked.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};
use xtask::{build, paths};

/// All runs of the program write to one folder, so there is one at a time.
pub fn one_at_a_time() -> MutexGuard<'static, ()> {
    static ONE: Mutex<()> = Mutex::new(());
    ONE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Where the program is; built once per test program.
///
/// # Panics
/// When it doesn't build.
pub fn path() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let status = build::cargo().args(["build", "--quiet", "--package", "xtask"]).status().expect("cargo runs");
        assert!(status.success(), "xtask does not build");
        paths::target().join("debug/xtask")
    })
}

/// The program, to be started in the workspace with nothing to read.
pub fn xtask() -> Command {
    let mut command = Command::new(path());
    command.current_dir(paths::root()).stdin(Stdio::null());
    command
}

/// What a command printed and how it ended.
///
/// # Panics
/// When it can't be started.
pub fn output(command: &mut Command) -> Output {
    command.output().expect("the program starts")
}

/// What was printed, as text.
pub fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

/// A file below the run's folder.
///
/// # Panics
/// When there is none.
pub fn left(name: &str) -> Vec<u8> {
    left_in(&paths::target(), name)
}

/// As [`left`], of a run with another target folder.
///
/// # Panics
/// As [`left`].
pub fn left_in(target: &Path, name: &str) -> Vec<u8> {
    let path = target.join("run").join(name);
    std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// A folder of the target folder for files of tests.
///
/// # Panics
/// When it can't be made.
pub fn folder(name: &str) -> PathBuf {
    let folder = paths::target().join("e2e").join(name);
    std::fs::create_dir_all(&folder).expect("the target folder can be written");
    folder
}

/// A file that a test hands to the program.
///
/// # Panics
/// When it can't be written.
pub fn file(name: &str, contents: &[u8]) -> PathBuf {
    let path = folder("files").join(name);
    std::fs::write(&path, contents).expect("the target folder can be written");
    path
}

/// The processes that any thread of a process has started and that have not ended.
pub fn children(id: u32) -> Vec<u32> {
    let threads = std::fs::read_dir(format!("/proc/{id}/task")).into_iter().flatten().flatten();
    let lists = threads.filter_map(|thread| std::fs::read_to_string(thread.path().join("children")).ok());
    lists.flat_map(|list| list.split_whitespace().filter_map(|id| id.parse().ok()).collect::<Vec<_>>()).collect()
}

/// True while there is a process with this number.
pub fn is_there(id: u32) -> bool {
    Path::new(&format!("/proc/{id}")).exists()
}

/// Sends a signal, such as `INT`, to a process.
///
/// # Panics
/// When there is no such process.
pub fn signal(id: u32, name: &str) {
    let sent = Command::new("kill").args([&format!("-{name}"), &id.to_string()]).status().expect("kill runs");
    assert!(sent.success(), "process {id} takes no {name}");
}
