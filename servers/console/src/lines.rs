//! Lines out of text that arrives in pieces.

use alloc::{string::String, vec::Vec};

/// Bytes after which a line is broken.
pub const MAX_LINE: usize = 480;

/// What a client has written since its last line end.
#[derive(Debug, Default)]
pub struct Lines {
    begun: String,
}

impl Lines {
    /// Adds text; returns the lines that are whole. Control characters are shown as dots, so that no client can write
    /// over another one's lines or move the cursor of whoever watches.
    pub fn take(&mut self, text: &str) -> Vec<String> {
        let mut lines = Vec::new();
        for character in text.chars() {
            match character {
                '\n' => lines.push(core::mem::take(&mut self.begun)),
                '\r' => {}
                '\t' => self.begun.push(' '),
                _ if character.is_control() => self.begun.push('.'),
                _ => self.begun.push(character),
            }
            if self.begun.len() >= MAX_LINE {
                lines.push(core::mem::take(&mut self.begun));
            }
        }
        lines
    }

    /// The line that was begun and not ended.
    pub fn rest(&mut self) -> Option<String> {
        let rest = core::mem::take(&mut self.begun);
        (!rest.is_empty()).then_some(rest)
    }
}
