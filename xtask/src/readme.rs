//! The tables of README.md that commands write: each between two marks of its own.

use crate::paths;
use anyhow::{Context, Result, bail};
use std::fs;

/// Puts the table of a command (`tcb`, `bench`) into README.md, and says so if that changes it.
///
/// # Errors
/// When README.md lacks the marks or cannot be written.
pub fn bring_up_to_date(command: &str, table: &str) -> Result<()> {
    let path = paths::root().join("README.md");
    let Ok(text) = fs::read_to_string(&path) else { return Ok(()) };
    let new = replaced(&text, command, table)?;
    if new != text {
        fs::write(&path, new).context("cannot write README.md")?;
        say!("README.md is brought up to date");
    }
    Ok(())
}

/// README with the table between the marks replaced.
fn replaced(readme: &str, command: &str, table: &str) -> Result<String> {
    let begin = format!("<!-- {command}: written by `cargo xtask {command}` -->");
    let end = format!("<!-- {command} end -->");
    let marks = readme.split_once(&begin).and_then(|(head, rest)| Some((head, rest.split_once(&end)?.1)));
    let Some((head, tail)) = marks else {
        bail!("README.md lacks the lines `{begin}` and `{end}` between which the table belongs");
    };
    Ok(format!("{head}{begin}\n{table}{end}{tail}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_table_between_the_marks_is_replaced() {
        let readme = |table| format!("a\n<!-- x: written by `cargo xtask x` -->\n{table}<!-- x end -->\nz\n");
        assert_eq!(replaced(&readme("old\n"), "x", "new\n").unwrap(), readme("new\n"));
        let error = replaced("a\n", "x", "new\n").unwrap_err();
        assert!(error.to_string().contains("<!-- x end -->"), "{error}");
    }
}
