//! Words, numbers, strings and signs of a line of LLVM IR.

use anyhow::{Result, bail};

/// A piece of a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Token {
    /// A word or a number.
    Word(String),
    /// `%name`.
    Local(String),
    /// `@name`.
    Global(String),
    /// `!name` or `#name`: for tools, without meaning here.
    Note,
    /// `c"..."`.
    Bytes(Vec<u8>),
    /// `"..."`.
    Text(String),
    /// A sign.
    Sign(char),
}

/// Takes a line apart; what follows a semicolon is a comment.
pub fn tokens(line: &str) -> Result<Vec<Token>> {
    let text = line.as_bytes();
    let mut found = Vec::new();
    let mut at = 0;
    let is_word = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'_' | b'.' | b'-' | b'$');
    while at < text.len() {
        let byte = text[at];
        match byte {
            b' ' | b'\t' => at += 1,
            b';' => break,
            b'%' | b'@' | b'!' | b'#' => {
                at += 1;
                let name = if text.get(at) == Some(&b'"') {
                    let (bytes, next) = quoted(text, at)?;
                    at = next;
                    String::from_utf8_lossy(&bytes).into_owned()
                } else {
                    let start = at;
                    while at < text.len() && is_word(text[at]) {
                        at += 1;
                    }
                    line[start..at].to_string()
                };
                found.push(match byte {
                    b'%' => Token::Local(name),
                    b'@' => Token::Global(name),
                    _ => Token::Note,
                });
            }
            b'c' if text.get(at + 1) == Some(&b'"') => {
                let (bytes, next) = quoted(text, at + 1)?;
                at = next;
                found.push(Token::Bytes(bytes));
            }
            b'"' => {
                let (bytes, next) = quoted(text, at)?;
                at = next;
                found.push(Token::Text(String::from_utf8_lossy(&bytes).into_owned()));
            }
            _ if is_word(byte) => {
                let start = at;
                while at < text.len() && is_word(text[at]) {
                    at += 1;
                }
                found.push(Token::Word(line[start..at].to_string()));
            }
            _ => {
                found.push(Token::Sign(byte as char));
                at += 1;
            }
        }
    }
    Ok(found)
}

/// The bytes between the quotes that begin at `at`, and where they end.
fn quoted(text: &[u8], at: usize) -> Result<(Vec<u8>, usize)> {
    let mut bytes = Vec::new();
    let mut next = at + 1;
    loop {
        match text.get(next) {
            None => bail!("a string without an end"),
            Some(b'"') => return Ok((bytes, next + 1)),
            Some(b'\\') => {
                let digits = text.get(next + 1..next + 3).and_then(|digits| std::str::from_utf8(digits).ok());
                match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
                    Some(byte) => {
                        bytes.push(byte);
                        next += 3;
                    }
                    None => {
                        bytes.push(b'\\');
                        next += 1;
                    }
                }
            }
            Some(byte) => {
                bytes.push(*byte);
                next += 1;
            }
        }
    }
}
