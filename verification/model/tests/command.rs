//! The command line: what it lists, what it says of a wrong file and of a question that fails, its exit statuses, and
//! that the Explorer is served.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};

fn model(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_model"));
    command.args(arguments);
    command
}

/// Runs it: the exit status, what it says, and what it says of errors.
fn run(arguments: &[&str]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = model(arguments).output().expect("the command runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (status.code().expect("it ends by itself"), text(stdout), text(stderr))
}

/// A question in a file of its own.
fn file(name: &str, text: &str) -> PathBuf {
    let path = PathBuf::from(env!("CARGO_TARGET_TMPDIR")).join(name);
    std::fs::write(&path, text).expect("the file can be written");
    path
}

#[test]
fn without_a_name_it_lists_what_is_here() {
    let (status, said, _) = run(&[]);
    assert_eq!(status, 0);
    for name in ["questions:", "configurations:", "revocation-reaches-grantees", "derivation-4"] {
        assert!(said.contains(name), "{name} is not listed:\n{said}");
    }
    let failing = said.lines().find(|line| line.contains("moved-capability-escapes")).expect("it is listed");
    assert!(failing.ends_with("(fails on purpose)"), "{failing}");
}

#[test]
fn what_holds_ends_with_0() {
    let (status, said, _) = run(&["revocation-reaches-grantees"]);
    assert_eq!(status, 0, "{said}");
    assert!(said.contains("  holds\n") && said.contains(" states, "), "{said}");
}

#[test]
fn what_fails_ends_with_1_and_the_shortest_path() {
    let (status, said, _) = run(&["moved-capability-escapes"]);
    assert_eq!(status, 1, "{said}");
    assert!(said.contains("COUNTEREXAMPLE") && said.contains("after 4 steps"), "{said}");
    assert!(said.contains("  4. ") && !said.contains("  5. "), "{said}");
    let (status, said, _) = run(&["moved-capability-escapes", "--json"]);
    assert_eq!((status, said.lines().count()), (1, 1), "{said}");
    let json: serde_json::Value = serde_json::from_str(&said).expect("a line of JSON");
    assert_eq!(json["answer"], "counterexample");
    assert_eq!(json["steps"].as_array().map(Vec::len), Some(4));
}

#[test]
fn a_wrong_question_ends_with_2_its_place_and_what_to_write() {
    let path = file(
        "wrong.toml",
        "question = \"?\"\n\n[vm.A]\nslots = 2\nmay = [\"Copi\"]\n\n[property]\nnever = \"A.holds(x)\"\n",
    );
    let (status, _, error) = run(&[path.to_str().expect("a path in ASCII")]);
    assert_eq!(status, 2, "{error}");
    assert!(error.contains("wrong.toml:5:9") && error.contains("Copi"), "{error}");
}

#[test]
fn an_unknown_name_says_where_the_names_are() {
    let (status, _, error) = run(&["no-such-question"]);
    assert_eq!(status, 1);
    assert!(error.contains("no-such-question") && error.contains("cargo xtask model"), "{error}");
}

#[test]
fn a_search_that_ends_early_ends_with_3() {
    let (status, said, _) = run(&["derivation-4", "--limit", "10"]);
    assert_eq!(status, 3, "{said}");
    assert!(said.contains("NOT EXHAUSTED"), "{said}");
}

#[test]
fn a_mistake_is_found() {
    let (status, said, _) = run(&["derivation-4", "--mistake", "retype-ignores-watermark"]);
    assert_eq!(status, 1, "{said}");
    assert!(said.contains("clean-before-reuse"), "{said}");
    let (status, said, _) = run(&["--mistake", "list"]);
    assert_eq!(status, 0);
    assert!(said.contains("copy-adds-rights"), "{said}");
    assert_eq!(run(&["derivation-4", "--mistake", "none-such"]).0, 2);
}

/// A process that ends with the test.
struct Served(Child);

impl Drop for Served {
    fn drop(&mut self) {
        // It serves until it is ended; an error says that it has ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a server answers; `None` while nothing listens.
fn get(address: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(address).ok()?;
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    Some(answer)
}

#[test]
fn the_explorer_is_served() {
    let child = model(&["moved-capability-escapes", "--explore", "127.0.0.1:0"]).stdout(Stdio::piped()).spawn();
    let mut served = Served(child.expect("the command runs"));
    let mut line = String::new();
    BufReader::new(served.0.stdout.take().expect("its output is piped")).read_line(&mut line).expect("a line");
    let address = line.split('/').nth(2).unwrap_or_else(|| panic!("no address in {line}")).to_owned();
    // It says where before it listens there.
    let page = loop {
        if let Some(page) = get(&address, "/") {
            break page;
        }
        let ended = served.0.try_wait().expect("its status");
        assert!(ended.is_none(), "it ended instead of serving: {ended:?}");
        std::thread::yield_now();
    };
    assert!(page.starts_with("HTTP/1.1 200"), "{page}");
    let status = get(&address, "/.status").expect("it still serves");
    assert!(status.starts_with("HTTP/1.1 200") && status.contains("B.can.read(frame)"), "{status}");
    let first = get(&address, "/.states/").expect("it still serves");
    assert!(first.starts_with("HTTP/1.1 200") && first.contains("frame"), "{first}");
}
