//! The words of actions and properties.

use std::ops::Range;

use super::wrong::{Text, Wrong};

/// A word, number or sign.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    /// A name.
    Word(String),
    /// A number, decimal or hexadecimal.
    Number(u64),
    /// One of `( ) [ ] , . = + !=`.
    Sign(&'static str),
}

/// Longer ones first.
const SIGNS: [&str; 9] = ["!=", "(", ")", "[", "]", ",", ".", "=", "+"];

/// The tokens of a text, with a place to read at.
pub struct Tokens<'a> {
    /// The text.
    pub text: Text<'a>,
    tokens: Vec<(Token, Range<usize>)>,
    at: usize,
}

impl<'a> Tokens<'a> {
    /// Takes a text apart.
    ///
    /// # Errors
    /// A character that begins nothing.
    pub fn of(text: Text<'a>) -> Result<Tokens<'a>, Wrong> {
        let mut tokens = Vec::new();
        let mut at = 0;
        while let Some(first) = text.text[at..].chars().next() {
            if first.is_whitespace() {
                at += first.len_utf8();
                continue;
            }
            let rest = &text.text[at..];
            let end = |is_part: fn(char) -> bool| rest.find(|character| !is_part(character)).unwrap_or(rest.len());
            let (token, length) = if first.is_ascii_digit() {
                let length = end(|character| character.is_ascii_alphanumeric() || character == '_');
                let digits = rest[..length].replace('_', "");
                let number = match digits.strip_prefix("0x") {
                    Some(digits) => u64::from_str_radix(digits, 16),
                    None => digits.parse(),
                };
                let span = at..at + length;
                let number = number.map_err(|_| text.wrong(span, "not a number", "write one such as 12 or 0x1000"))?;
                (Token::Number(number), length)
            } else if first.is_alphabetic() {
                let length = end(|character| character.is_alphanumeric() || matches!(character, '_' | '-'));
                (Token::Word(rest[..length].into()), length)
            } else if let Some(sign) = SIGNS.into_iter().find(|sign| rest.starts_with(sign)) {
                (Token::Sign(sign), sign.len())
            } else {
                return Err(text.wrong(at..at + 1, format!("nothing begins with `{first}`"), ""));
            };
            tokens.push((token, at..at + length));
            at += length;
        }
        Ok(Tokens { text, tokens, at: 0 })
    }

    /// The next one, which stays.
    pub fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at).map(|(token, _)| token)
    }

    /// The one after the next.
    pub fn peek_second(&self) -> Option<&Token> {
        self.tokens.get(self.at + 1).map(|(token, _)| token)
    }

    /// Where the next one is; behind the end, if there is none.
    pub fn span(&self) -> Range<usize> {
        let end = self.text.text.len();
        self.tokens.get(self.at).map_or(end..end, |(_, span)| span.clone())
    }

    /// Takes the next one.
    pub fn take(&mut self) -> Option<(Token, Range<usize>)> {
        let taken = self.tokens.get(self.at).cloned();
        self.at += 1;
        taken
    }

    /// Takes the next one if it is this sign.
    pub fn takes(&mut self, sign: &'static str) -> bool {
        let is_next = self.peek() == Some(&Token::Sign(sign));
        self.at += usize::from(is_next);
        is_next
    }

    /// Takes the next one if it is this word.
    pub fn takes_word(&mut self, word: &str) -> bool {
        let is_next = matches!(self.peek(), Some(Token::Word(next)) if next == word);
        self.at += usize::from(is_next);
        is_next
    }

    /// Takes this sign.
    ///
    /// # Errors
    /// If something else comes.
    pub fn expect(&mut self, sign: &'static str) -> Result<(), Wrong> {
        if self.takes(sign) { Ok(()) } else { Err(self.wrong(format!("`{sign}` is missing here"), "")) }
    }

    /// Takes a word.
    ///
    /// # Errors
    /// If something else comes.
    pub fn word(&mut self, what: &str, help: impl Into<String>) -> Result<(String, Range<usize>), Wrong> {
        match self.tokens.get(self.at) {
            Some((Token::Word(word), span)) => {
                self.at += 1;
                Ok((word.clone(), span.clone()))
            }
            _ => Err(self.wrong(format!("{what} is missing here"), help)),
        }
    }

    /// A mistake at the next token.
    pub fn wrong(&self, what: impl Into<String>, help: impl Into<String>) -> Wrong {
        self.text.wrong(self.span(), what, help)
    }

    /// Checks that nothing is left.
    ///
    /// # Errors
    /// If something is.
    pub fn end(&self) -> Result<(), Wrong> {
        match self.peek() {
            None => Ok(()),
            Some(_) => Err(self.wrong("this is one word too many", "join conditions by `and` or `or`")),
        }
    }
}
