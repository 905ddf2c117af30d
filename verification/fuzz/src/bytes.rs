//! Numbers out of an input: a target reads its input as a program of small steps, and any bytes are one.

/// What is left of an input.
pub struct Bytes<'a>(&'a [u8]);

impl<'a> Bytes<'a> {
    /// The whole input.
    pub fn new(input: &'a [u8]) -> Bytes<'a> {
        Bytes(input)
    }

    /// The next byte; `None` at the end.
    pub fn byte(&mut self) -> Option<u8> {
        let (&first, rest) = self.0.split_first()?;
        self.0 = rest;
        Some(first)
    }

    /// The next `N` bytes; `None`, if there are fewer.
    pub fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (first, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(*first)
    }

    /// The next two bytes, little-endian.
    pub fn half(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }

    /// The next four.
    pub fn word(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }

    /// The next eight.
    pub fn long(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
}
