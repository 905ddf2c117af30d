//! Reading a line of LLVM IR word by word: signs, types, and attributes, which are skipped.

use super::Type;
use super::text::{Token, tokens};
use anyhow::{Context, Result, anyhow, bail};
use rustc_hash::FxHashMap;

/// Attributes and flags of calls, parameters and functions, which say what the optimiser may count on.
pub(super) const ATTRIBUTES: [&str; 40] = [
    "noundef",
    "nonnull",
    "noalias",
    "readonly",
    "writeonly",
    "readnone",
    "nocapture",
    "zeroext",
    "signext",
    "immarg",
    "returned",
    "nofree",
    "nest",
    "inreg",
    "swiftself",
    "allocptr",
    "dead_on_unwind",
    "dead_on_return",
    "writable",
    "unnamed_addr",
    "local_unnamed_addr",
    "dso_local",
    "internal",
    "private",
    "fastcc",
    "ccc",
    "coldcc",
    "tail",
    "musttail",
    "notail",
    "inbounds",
    "exact",
    "disjoint",
    "samesign",
    "nneg",
    "volatile",
    "nusw",
    "hidden",
    "linkonce_odr",
    "external",
];

/// A line's tokens, and how far they were read.
pub(super) struct Reader {
    /// All of them.
    pub(super) tokens: Vec<Token>,
    /// The next.
    pub(super) at: usize,
}

impl Reader {
    pub(super) fn new(line: &str) -> Result<Reader> {
        Ok(Reader { tokens: tokens(line)?, at: 0 })
    }

    pub(super) fn peek(&self) -> Option<&Token> {
        self.tokens.get(self.at)
    }

    pub(super) fn next(&mut self) -> Result<Token> {
        let token = self.tokens.get(self.at).cloned().ok_or_else(|| anyhow!("the line ends too early"))?;
        self.at += 1;
        Ok(token)
    }

    pub(super) fn is_word(&self, word: &str) -> bool {
        matches!(self.peek(), Some(Token::Word(found)) if found == word)
    }

    pub(super) fn is_sign(&self, sign: char) -> bool {
        self.peek() == Some(&Token::Sign(sign))
    }

    pub(super) fn take_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        self.at += usize::from(found);
        found
    }

    pub(super) fn take_sign(&mut self, sign: char) -> bool {
        let found = self.is_sign(sign);
        self.at += usize::from(found);
        found
    }

    pub(super) fn sign(&mut self, sign: char) -> Result<()> {
        if self.take_sign(sign) { Ok(()) } else { bail!("`{sign}` expected, found {:?}", self.peek()) }
    }

    pub(super) fn word(&mut self) -> Result<String> {
        match self.next()? {
            Token::Word(word) => Ok(word),
            other => bail!("a word expected, found {other:?}"),
        }
    }

    pub(super) fn number(&mut self) -> Result<u64> {
        let word = self.word()?;
        word.parse().with_context(|| format!("a number expected, found {word}"))
    }

    /// Skips what stands in parentheses, if something does.
    pub(super) fn skip_parentheses(&mut self) -> Result<()> {
        if !self.take_sign('(') {
            return Ok(());
        }
        let mut depth = 1;
        while depth > 0 {
            match self.next()? {
                Token::Sign('(') => depth += 1,
                Token::Sign(')') => depth -= 1,
                _ => {}
            }
        }
        Ok(())
    }

    /// Skips attributes.
    pub(super) fn skip_attributes(&mut self) -> Result<()> {
        loop {
            match self.peek() {
                Some(Token::Word(word)) if ATTRIBUTES.contains(&word.as_str()) => self.at += 1,
                Some(Token::Word(word)) if word == "align" => {
                    self.at += 2;
                }
                Some(Token::Word(word))
                    if matches!(
                        word.as_str(),
                        "captures"
                            | "dereferenceable"
                            | "dereferenceable_or_null"
                            | "range"
                            | "initializes"
                            | "memory"
                            | "sret"
                            | "byval"
                            | "elementtype"
                    ) =>
                {
                    self.at += 1;
                    self.skip_parentheses()?;
                }
                Some(Token::Note) => self.at += 1,
                _ => return Ok(()),
            }
        }
    }

    pub(super) fn ty(&mut self) -> Result<Type> {
        match self.next()? {
            Token::Word(word) => match word.as_str() {
                "void" => Ok(Type::Void),
                "ptr" => Ok(Type::Ptr),
                "metadata" | "token" | "label" => Ok(Type::Other),
                _ => match word.strip_prefix('i').and_then(|bits| bits.parse().ok()) {
                    Some(bits) if bits <= 128 => Ok(Type::Int(bits)),
                    _ => bail!("an unknown type: {word}"),
                },
            },
            Token::Local(name) => Ok(Type::Named(name)),
            Token::Sign('[') => {
                let count = self.number()?;
                if !self.take_word("x") {
                    bail!("`x` expected in an array");
                }
                let inner = self.ty()?;
                self.sign(']')?;
                Ok(Type::Array(count, Box::new(inner)))
            }
            Token::Sign('{') => Ok(Type::Struct(self.types('}')?, false)),
            Token::Sign('<') => {
                self.sign('{').context("vectors are not known")?;
                let parts = self.types('}')?;
                self.sign('>')?;
                Ok(Type::Struct(parts, true))
            }
            other => bail!("a type expected, found {other:?}"),
        }
    }

    pub(super) fn types(&mut self, end: char) -> Result<Vec<Type>> {
        let mut found = Vec::new();
        while !self.take_sign(end) {
            found.push(self.ty()?);
            self.take_sign(',');
        }
        Ok(found)
    }
}

/// The sizes that types have in memory on x86-64, in bytes, and what they are aligned to.
pub fn layout_of(types: &FxHashMap<String, Type>, ty: &Type) -> Result<(u64, u64)> {
    Ok(match ty {
        Type::Int(bits) => {
            let bytes = u64::from(bits.div_ceil(8)).next_power_of_two();
            (bytes, bytes.min(16))
        }
        Type::Ptr => (8, 8),
        Type::Array(count, inner) => {
            let (size, align) = layout_of(types, inner)?;
            (size * count, align)
        }
        Type::Struct(parts, packed) => {
            let (mut end, mut align) = (0u64, 1);
            for part in parts {
                let (size, own) = layout_of(types, part)?;
                if !packed {
                    end = end.next_multiple_of(own);
                    align = align.max(own);
                }
                end += size;
            }
            (end.next_multiple_of(align), align)
        }
        Type::Named(name) => layout_of(types, types.get(name).ok_or_else(|| anyhow!("type {name} is not defined"))?)?,
        Type::Void | Type::Other => bail!("a type without size"),
    })
}
