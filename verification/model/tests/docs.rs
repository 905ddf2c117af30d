//! What docs/model.md shows is what the tool says.

use std::path::Path;

use model::answer::answer;
use model::question::Question;
use model::search::Limits;

fn repository(file: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").join(file);
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

#[test]
fn the_example_is_the_question_and_its_answer() {
    let page = repository("docs/model.md");
    let file = "verification/model/questions/moved-capability-escapes.toml";
    assert!(page.contains(&repository(file)), "docs/model.md lacks {file} as it is");
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("questions/moved-capability-escapes.toml");
    let question = Question::read(&path, true).unwrap_or_else(|wrong| panic!("{wrong}"));
    let answer = answer(question, None, Limits::default(), &mut |_, _| {}).expect("a path of the machine");
    // Time and memory differ from run to run.
    let text = answer.text();
    let shown = &text[..text.rfind(';').expect("figures end with time and memory")];
    assert!(page.contains(shown), "docs/model.md lacks:\n{shown}");
}

#[test]
fn every_key_is_on_the_page() {
    let (page, keys) = (repository("docs/model.md"), repository("verification/model/src/question/file.rs"));
    let names = keys.lines().filter_map(|line| line.trim().strip_prefix("pub ")?.split_once(':').map(|(name, _)| name));
    let written = |name: &str| match name {
        "object" => "type".into(),
        "invocation" => "do".into(),
        "otherwise" => "else".into(),
        // Tables of their own.
        "vm" | "capability" | "channel" => format!("[{name}.NAME]"),
        name => name.to_owned(),
    };
    let missing: Vec<String> = names.map(written).filter(|name| !page.contains(name.as_str())).collect();
    assert!(missing.is_empty(), "docs/model.md lacks {missing:?}");
}
