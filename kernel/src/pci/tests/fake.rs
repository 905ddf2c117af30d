//! Configuration spaces in arrays. Each bit can be written, or cleared by a 1, or neither; virtual functions appear and
//! disappear; a function-level reset clears all that can be written.

extern crate alloc;

use crate::pci::capability::Offsets;
use crate::pci::{Bdf, ConfigAccess};
use alloc::boxed::Box;
use alloc::collections::BTreeMap;
use alloc::vec::Vec;
use core::cell::{Cell, RefCell};

const WORDS: usize = 1024;

/// A function's configuration space.
#[derive(Clone)]
pub struct Space {
    pub words: [u32; WORDS],
    pub writable: [u32; WORDS],
    /// Bits that a 1 clears.
    pub clears: [u32; WORDS],
    /// Its virtual functions: where its SR-IOV capability is, and what each of them is like.
    pub virtual_functions: Option<(u16, Box<Space>)>,
    /// Where its PCI Express capability is, if it can be reset.
    pub resets: Option<u16>,
}

impl Space {
    pub fn empty() -> Space {
        Space { words: [0; WORDS], writable: [0; WORDS], clears: [0; WORDS], virtual_functions: None, resets: None }
    }

    pub fn of_words(words: &[(u16, u32)]) -> Space {
        let mut space = Space::empty();
        for &(offset, word) in words {
            space.words[usize::from(offset / 4)] = word;
        }
        space
    }

    /// From a dump, in which the bits that can be written are told of registers of addresses only: the others are those of
    /// the specifications.
    pub fn of_dump(text: &str) -> Space {
        let mut space = Space::empty();
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let mut numbers = line.split(' ').map(|number| u32::from_str_radix(number, 16).expect("a number"));
            let mut number = || numbers.next().expect("three numbers");
            let (offset, word, writable) = (number(), number(), number());
            space.words[offset as usize / 4] = word;
            space.writable[offset as usize / 4] = writable;
        }
        space.add_rules();
        space
    }

    fn add_rules(&mut self) {
        let mut one = Fake::default();
        one.put(Bdf::new(0, 0, 0), self.clone());
        let offsets = Offsets::find(&one, Bdf::new(0, 0, 0));
        let acs = self.words.get(usize::from(offsets.acs / 4) + 1).map_or(0, |word| word << 16);
        let mut rule = |at: u16, offset: u16, writable: u32, clears: u32| {
            if at != 0 {
                self.writable[usize::from((at + offset) / 4)] = writable;
                self.clears[usize::from((at + offset) / 4)] = clears;
            }
        };
        rule(offsets.msi, 0, 0x0071_0000, 0);
        rule(offsets.msix, 0, 0xc000_0000, 0);
        rule(offsets.express, 8, 0x7fff, 0xf_0000);
        rule(offsets.express, 0x28, 0xffff, 0);
        rule(offsets.acs, 4, acs, 0);
        rule(offsets.ats, 4, 0x801f_0000, 0);
        rule(offsets.sriov, 8, 0x1f, 0);
        rule(offsets.sriov, 0x10, 0xffff, 0);
        rule(offsets.sriov, 0x20, u32::MAX, 0);
        self.writable[1] = 0x0547;
        self.clears[1] = 0xf900_0000;
        self.resets = Some(offsets.express).filter(|&at| at != 0);
    }

    pub fn with_virtual(self, sriov: u16, each: Space) -> Space {
        Space { virtual_functions: Some((sriov, Box::new(each))), ..self }
    }

    pub fn word(&self, offset: u16) -> u32 {
        self.words[usize::from(offset / 4)]
    }

    fn half(&self, offset: u16) -> u16 {
        (self.word(offset) >> ((offset & 2) * 8)) as u16
    }
}

/// A segment.
#[derive(Default)]
pub struct Fake {
    pub spaces: BTreeMap<Bdf, Space>,
    /// What was written: function, offset, value of the whole double word before and after.
    pub writes: Vec<(Bdf, u16, u32, u32)>,
    pub accesses: Cell<u64>,
    /// A device that says something else each time: asked before the truth, if it is there.
    #[allow(clippy::type_complexity)]
    pub liar: Option<RefCell<Box<dyn FnMut(Bdf, u16) -> Option<u32>>>>,
}

impl Fake {
    pub fn put(&mut self, at: Bdf, space: Space) {
        self.spaces.insert(at, space);
    }

    pub fn word(&self, at: Bdf, offset: u16) -> u32 {
        self.spaces.get(&at).map_or(u32::MAX, |space| space.word(offset))
    }

    pub fn set(&mut self, at: Bdf, offset: u16, word: u32) {
        self.spaces.get_mut(&at).expect("it is there").words[usize::from(offset / 4)] = word;
    }

    fn change(&mut self, at: Bdf, offset: u16, value: u32, mask: u32) {
        self.accesses.set(self.accesses.get() + 1);
        assert!(offset < 4096 && offset.is_multiple_of(4));
        let Some(space) = self.spaces.get_mut(&at) else { return };
        let index = usize::from(offset / 4);
        let (old, writable) = (space.words[index], space.writable[index] & mask);
        let new = (old & !writable | value & writable) & !(value & mask & space.clears[index]);
        space.words[index] = new;
        self.writes.push((at, offset, old, new));
        if space.resets.is_some_and(|express| express + 8 == offset) && value & mask & 0x8000 != 0 {
            let clear = space.words.iter_mut().zip(space.writable);
            clear.for_each(|(word, writable)| *word &= !writable);
        }
        let Some((sriov, each)) = space.virtual_functions.clone() else { return };
        if sriov + 8 == offset && (old ^ new) & 1 != 0 {
            let [count, first, stride] = [0x10, 0x14, 0x16].map(|register| space.half(sriov + register));
            for index in 0..count {
                let id = at.id().wrapping_add(first).wrapping_add(stride.wrapping_mul(index));
                if new & 1 != 0 {
                    self.spaces.entry(Bdf::from_id(id)).or_insert_with(|| (*each).clone());
                } else {
                    self.spaces.remove(&Bdf::from_id(id));
                }
            }
        }
    }
}

impl ConfigAccess for Fake {
    fn read(&self, function: Bdf, offset: u16) -> u32 {
        self.accesses.set(self.accesses.get() + 1);
        assert!(offset < 4096 && offset.is_multiple_of(4));
        let told = self.liar.as_ref().and_then(|liar| liar.borrow_mut()(function, offset));
        told.unwrap_or_else(|| self.word(function, offset))
    }

    fn write(&mut self, function: Bdf, offset: u16, value: u32) {
        self.change(function, offset, value, u32::MAX);
    }

    fn write_half(&mut self, function: Bdf, offset: u16, value: u16) {
        assert!(offset.is_multiple_of(2));
        let shift = (offset & 2) * 8;
        self.change(function, offset & !3, u32::from(value) << shift, 0xffff << shift);
    }
}
