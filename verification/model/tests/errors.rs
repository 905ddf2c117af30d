//! A wrong question is refused with the place, what is wrong, and what to write.

use std::path::PathBuf;

use model::question::{Question, Source};

/// A question with one line exchanged.
fn refusal(line: &str, by: &str) -> String {
    let text = r#"question = "B never holds the frame."

[vm.A]
slots = 2
may = ["Grant(frame)"]

[vm.B]
slots = 2
may = ["Accept"]

[capability.frame]
type = "Frame"
holder = "A"

[channel.link]
between = ["A", "B"]

[property]
never = "B.holds(frame)"
"#;
    assert!(text.contains(line), "{line}");
    let source = Source { file: PathBuf::from("question.toml"), text: text.replace(line, by) };
    match Question::of(source, true) {
        Ok(_) => panic!("{by}: accepted"),
        Err(wrong) => wrong.to_string(),
    }
}

#[test]
fn mistakes_are_told_with_their_place_and_what_to_write() {
    let cases = [
        ("B.holds(frame)", "C.holds(frame)", "question.toml:19:10: there is no VM `C`", "write A or B"),
        (
            "B.holds(frame)",
            "B.holds(page)",
            "question.toml:19:18: there is no capability `page`",
            "write frame or link",
        ),
        ("B.holds(frame)", "B.can.grant(frame)", "question.toml:19:16: memory is not reached by `grant`", "can.read"),
        ("Grant(frame)", "Give(frame)", "question.toml:5:9: there is no invocation `Give`", "docs/specification.md"),
        (
            "Grant(frame)",
            "Map(frame)",
            "question.toml:5:9: several types have an invocation `Map`",
            "write Frame.Map or PageTable.Map",
        ),
        ("Grant(frame)", "Grant(right = all)", "question.toml:5:15: Channel.Grant has no argument `right`", "rights"),
        ("Grant(frame)", "Grant(rights = reed)", "question.toml:5:24: `reed` is no right", "read, write, execute"),
        ("Grant(frame)", "Retype", "question.toml:5:9: Untyped.Retype must say which `type`", "write type ="),
        (r#"holder = "A""#, r#"holder = "Z""#, "question.toml:13:10: there is no VM `Z`", "write A or B"),
        (r#"type = "Frame""#, r#"type = "Page""#, "question.toml:12:8: there is no type `Page`", "Frame"),
        (
            "slots = 2\nmay = [\"Accept\"]",
            "slots = 0\nmay = [\"Accept\"]",
            "question.toml:8:9: a VM works with",
            "1 to 40",
        ),
        (
            "slots = 2\nmay = [\"Grant(frame)\"]",
            "slots = 1\nmay = [\"Grant(frame)\"]",
            "VM A has no slot left",
            "write slots = 2 or more",
        ),
        ("never =", "sometimes =", "question.toml:19:1: unknown field `sometimes`", "docs/model.md"),
    ];
    for (line, by, what, help) in cases {
        let told = refusal(line, by);
        assert!(told.contains(what) && told.contains(help), "{by}:\n{told}\nlacks: {what} / {help}");
    }
}
