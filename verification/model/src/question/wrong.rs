//! What is wrong with a question's file: where, and what to write.

use std::fmt;
use std::ops::Range;
use std::path::{Path, PathBuf};

use toml::Spanned;

/// A mistake in a file.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wrong {
    /// The file.
    pub file: PathBuf,
    /// Line and column, from 1 on; none if it is about the file as a whole.
    pub place: Option<(usize, usize)>,
    /// The line as it is written.
    pub line: String,
    /// What is wrong.
    pub what: String,
    /// What to write instead.
    pub help: String,
}

impl fmt::Display for Wrong {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.file.display())?;
        if let Some((line, column)) = self.place {
            write!(f, ":{line}:{column}: {}\n  | {}\n  | {}^", self.what, self.line, " ".repeat(column - 1))?;
        } else {
            write!(f, ": {}", self.what)?;
        }
        if self.help.is_empty() { Ok(()) } else { write!(f, "\n  {}", self.help) }
    }
}

impl std::error::Error for Wrong {}

/// The text of a file, to say where in it something is.
#[derive(Clone, Debug)]
pub struct Source {
    /// The file.
    pub file: PathBuf,
    /// All of it.
    pub text: String,
}

impl Source {
    /// The file at this place.
    ///
    /// # Errors
    /// If it cannot be read.
    pub fn read(file: &Path) -> Result<Source, Wrong> {
        let shown = Source { file: file.into(), text: String::new() };
        match std::fs::read_to_string(file) {
            Ok(text) => Ok(Source { text, ..shown }),
            Err(error) => {
                Err(shown.whole(format!("cannot be read: {error}"), "`cargo xtask model` lists what there is".into()))
            }
        }
    }

    /// A mistake of the file as a whole.
    pub fn whole(&self, what: String, help: String) -> Wrong {
        Wrong { file: self.file.clone(), place: None, line: String::new(), what, help }
    }

    /// A mistake at these bytes.
    pub fn at(&self, span: &Range<usize>, what: impl Into<String>, help: impl Into<String>) -> Wrong {
        let start = span.start.min(self.text.len());
        let before = &self.text[..start];
        let begin = before.rfind('\n').map_or(0, |newline| newline + 1);
        let line = self.text[begin..].lines().next().unwrap_or_default().to_owned();
        let place = (before.matches('\n').count() + 1, before[begin..].chars().count() + 1);
        Wrong { file: self.file.clone(), place: Some(place), line, what: what.into(), help: help.into() }
    }

    /// A text within the file, whose parts are places in the file.
    pub fn text<'a>(&'a self, value: &'a Spanned<String>) -> Text<'a> {
        let span = value.span();
        // Strings are written in quotes; one with escapes has its parts a little further right.
        let quotes = self.text[span.clone()].chars().take_while(|character| matches!(character, '"' | '\'')).count();
        let quotes = if quotes >= 3 { 3 } else { quotes.min(1) };
        Text { source: self, start: span.start + quotes, text: value.get_ref() }
    }
}

/// A text within a file.
#[derive(Clone, Copy, Debug)]
pub struct Text<'a> {
    /// The file.
    pub source: &'a Source,
    /// Where in the file it begins.
    pub start: usize,
    /// The text.
    pub text: &'a str,
}

impl Text<'_> {
    /// A mistake at these bytes of the text.
    pub fn wrong(&self, span: Range<usize>, what: impl Into<String>, help: impl Into<String>) -> Wrong {
        self.source.at(&(self.start + span.start..self.start + span.end), what, help)
    }
}

/// `a, b or c`, for what may be written.
pub fn choice(of: impl IntoIterator<Item = impl AsRef<str>>) -> String {
    let mut of: Vec<String> = of.into_iter().map(|name| name.as_ref().to_owned()).collect();
    match of.pop() {
        None => "nothing: there is none".into(),
        Some(last) if of.is_empty() => last,
        Some(last) => format!("{} or {last}", of.join(", ")),
    }
}
