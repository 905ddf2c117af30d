//! The kernel's ELF file: its functions, and what lies in its read-only memory.

use anyhow::{Context, Result, ensure};
use object::elf::FileHeader64;
use object::read::elf::ElfFile;
use object::{Endianness, Object, ObjectSection, ObjectSymbol, SectionKind};
use std::collections::BTreeMap;

/// A function: a symbol in executable memory, up to the next one.
#[derive(Clone, Debug)]
pub struct Function {
    /// Its name, as in the source.
    pub name: String,
    /// Where it begins.
    pub start: u64,
    /// Where the next one begins.
    pub end: u64,
}

/// The file.
#[derive(Debug)]
pub struct Image {
    /// The functions by address.
    pub functions: Vec<Function>,
    /// All symbols: name and size.
    pub symbols: BTreeMap<String, u64>,
    /// Loaded memory: address and bytes.
    sections: Vec<(u64, Vec<u8>)>,
}

impl Image {
    /// Reads an ELF file.
    ///
    /// # Errors
    /// When it is none, or has no symbols.
    pub fn parse(data: &[u8]) -> Result<Image> {
        let file = ElfFile::<FileHeader64<Endianness>>::parse(data).context("no ELF file of 64 bits")?;
        let mut sections = Vec::new();
        let mut text = Vec::new();
        for section in file.sections().filter(|section| section.address() != 0) {
            if section.kind() == SectionKind::Text {
                text.push(section.address()..section.address() + section.size());
            }
            sections.push((section.address(), section.data().unwrap_or_default().to_vec()));
        }
        let mut symbols = BTreeMap::new();
        let mut starts: BTreeMap<u64, String> = BTreeMap::new();
        for symbol in file.symbols().filter(|symbol| symbol.name().is_ok_and(|name| !name.is_empty())) {
            let name = format!("{:#}", rustc_demangle::demangle(symbol.name()?));
            symbols.insert(name.clone(), symbol.size());
            if text.iter().any(|text| text.contains(&symbol.address())) {
                starts.entry(symbol.address()).or_insert(name);
            }
        }
        ensure!(!starts.is_empty(), "the file has no symbols of functions");
        let end_of = |at: u64| text.iter().find(|text| text.contains(&at)).map_or(at, |text| text.end);
        let nexts = starts.keys().skip(1).copied().map(Some).chain([None]);
        let functions = starts.iter().zip(nexts).map(|((&start, name), next)| {
            let end = end_of(start).min(next.unwrap_or(u64::MAX));
            Function { name: name.clone(), start, end }
        });
        let functions = functions.collect();
        Ok(Image { functions, symbols, sections })
    }

    /// The function in which an address lies.
    pub fn function_at(&self, address: u64) -> Option<usize> {
        let after = self.functions.partition_point(|function| function.start <= address);
        let at = after.checked_sub(1)?;
        (address < self.functions[at].end).then_some(at)
    }

    /// Bytes of loaded memory.
    pub fn bytes(&self, address: u64, count: usize) -> Option<&[u8]> {
        self.sections.iter().find_map(|(start, data)| {
            let from = usize::try_from(address.checked_sub(*start)?).ok()?;
            data.get(from..from.checked_add(count)?)
        })
    }

    /// A word of loaded memory.
    pub fn word(&self, address: u64) -> Option<u64> {
        Some(u64::from_le_bytes(self.bytes(address, 8)?.try_into().ok()?))
    }

    /// The place in the source that a `core::panic::Location` at this address names.
    pub fn location(&self, address: u64) -> Option<String> {
        let (file, length) = (self.word(address)?, self.word(address + 8)?);
        let text = self.bytes(file, usize::try_from(length).ok().filter(|length| *length < 200)?)?;
        let text = std::str::from_utf8(text).ok().filter(|text| text.ends_with(".rs"))?;
        let line = self.word(address + 16)? as u32;
        // Of a library only what is its own: paths differ from machine to machine.
        let short = text.rsplit_once("/src/").map_or(text, |(_, rest)| rest);
        let file = if text.starts_with("kernel/") { text } else { short };
        Some(format!("{file}:{line}"))
    }
}
