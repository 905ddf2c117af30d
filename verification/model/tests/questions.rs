//! Every question and configuration that ships is answered as its file says, length of the shortest path included.

use std::path::{Path, PathBuf};

use model::answer::{Verdict, answer, claims};
use model::question::{Expected, Question};
use model::search::Limits;

fn files(folder: &str) -> Vec<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
    let entries = std::fs::read_dir(folder).expect("the folder is here").map(|entry| entry.expect("an entry").path());
    let mut files: Vec<PathBuf> = entries.collect();
    files.sort();
    files
}

/// Answers all of a folder but the long ones; returns how many hold and how many do not.
fn answer_all(folder: &str) -> (usize, usize) {
    let (mut holding, mut failing) = (0, 0);
    let mut unexpected = Vec::new();
    for file in files(folder) {
        let question = Question::read(&file, true).unwrap_or_else(|wrong| panic!("{wrong}"));
        if question.long {
            continue;
        }
        if question.expect == Expected::Counterexample {
            assert!(question.because.is_some(), "{}: it does not say why", question.name);
            assert!(question.steps.is_some(), "{}: it does not say after how many steps", question.name);
        }
        let answer = answer(question.clone(), None, Limits::default(), &mut |_, _| {});
        let answer = answer.expect("the path is one of the machine");
        print!("{}", answer.text());
        if !answer.as_expected {
            unexpected.push(answer.name.clone());
        }
        claims(&question, &answer).iter().for_each(::claims::Established::tell);
        match answer.answer {
            Verdict::Holds => holding += 1,
            _ => failing += 1,
        }
    }
    assert!(unexpected.is_empty(), "not as expected: {unexpected:?}");
    (holding, failing)
}

#[test]
fn questions_are_answered_as_their_files_say() {
    let (holding, failing) = answer_all("questions");
    assert!(holding >= 10 && failing >= 5, "{holding} hold, {failing} fail");
}

#[test]
fn configurations_hold() {
    let (holding, failing) = answer_all("configurations");
    assert!(holding >= 8 && failing == 0, "{holding} hold, {failing} fail");
}
