//! The second tier: values on a namespace.
//!
//! Values of up to a page share pages, which are written when they are full, or when one of their values is asked for;
//! larger ones, up to [`MOST_PAGES`] pages, have their own. A page is used again when none of its values is needed any more.
//! Pages go through buffers in the application's own base: what is not written yet, or is being read, is there.
//!
//! Guarantees: what is read is what was written, or nothing: of each value a keyed hash is kept in memory, and what came from
//! the device is copied before it is compared with that. Whatever the device does, or when its queues are gone
//! ([`Shelf::lose`]), a value that can't be read is told as such, once. At most [`MOST_BUFFERS`] pages are under way; so many
//! of them are kept for reading that one read can always begin.

use alloc::collections::VecDeque;
use alloc::vec::Vec;
use core::hash::Hasher;

use kv_server::kv_engine::{Cold, PAGE_BYTES, Ticket};
use siphasher::sip::SipHasher13;

use crate::disk::Disk;

/// Pages of the largest value.
pub const MOST_PAGES: usize = 16;
/// Buffers that are used at most: as many as a queue of 64 entries takes commands.
const MOST_BUFFERS: usize = 63;
/// Buffers that are not used for writing.
const FOR_READING: usize = 24;
const _: () = assert!(FOR_READING >= MOST_PAGES && MOST_BUFFERS > FOR_READING + MOST_PAGES);
/// Bit of the token of a read; a write has the page's number.
const READ: u64 = 1 << 63;
/// No page.
const NONE: u32 = u32::MAX;

/// What is known of a page of the namespace.
#[derive(Clone, Copy, Debug)]
struct Page {
    /// Where the value goes on, or the next free page.
    next: u32,
    /// Values that are in it.
    values: u16,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// It is read and written by nobody.
    Rests,
    /// It is being filled or written.
    Written,
    /// Writing it failed: it is not used any more.
    Bad,
}

/// A value, by the low half of its ticket.
#[derive(Clone, Copy, Debug)]
struct Value {
    /// The high half of its ticket, which differs from those that were before in the same place.
    generation: u32,
    /// Its first page; `NONE` if it is gone.
    page: u32,
    /// Where it begins there.
    offset: u16,
    length: u32,
    hash: u64,
}

/// A page that is being filled.
#[derive(Debug)]
struct Open<B> {
    page: u32,
    used: usize,
    buffer: B,
}

/// A read that is under way.
#[derive(Debug)]
struct Read<B> {
    ticket: Ticket,
    /// Copied when it began, as the value may be released meanwhile.
    value: Value,
    /// Each page of it, and what came of it.
    parts: Vec<(u32, Part<B>)>,
    has_failed: bool,
    begun_at: u64,
}

#[derive(Debug)]
enum Part<B> {
    /// The page is still being written; the buffer waits.
    Waits(B),
    UnderWay,
    Here(B),
    /// It failed, and so did its buffer.
    Lost,
}

/// The tier.
#[derive(Debug)]
pub struct Shelf<D: Disk> {
    disk: Option<D>,
    hasher: SipHasher13,
    values: Vec<Value>,
    free_values: Vec<u32>,
    pages: Vec<Page>,
    free_page: u32,
    free_pages: usize,
    buffers: Vec<D::Buffer>,
    open: Option<Open<D::Buffer>>,
    /// By number, which is in the tokens.
    reads: Vec<Option<Read<D::Buffer>>>,
    /// Reads that have ended.
    ended: VecDeque<usize>,
    /// Tickets that can't be read, to be told.
    failed: VecDeque<Ticket>,
    /// Ticks that reads took so far, and how many they were.
    waited: (u64, u64),
}

/// A read that has ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ended {
    /// Of which value.
    pub ticket: Ticket,
    /// Its bytes are there, and right.
    pub succeeded: bool,
}

impl<D: Disk> Shelf<D> {
    /// A tier that takes nothing before [`Shelf::open`]. `key` is something that neither clients nor the device know.
    pub fn new(key: &[u8; 16]) -> Shelf<D> {
        Shelf {
            disk: None,
            hasher: SipHasher13::new_with_key(key),
            values: Vec::new(),
            free_values: Vec::new(),
            pages: Vec::new(),
            free_page: NONE,
            free_pages: 0,
            buffers: Vec::new(),
            open: None,
            reads: Vec::new(),
            ended: VecDeque::new(),
            failed: VecDeque::new(),
            waited: (0, 0),
        }
    }

    /// Keeps values there from now on, on `most` pages at most. Nothing of what is there is used.
    pub fn open(&mut self, mut disk: D, most: usize) {
        let pages = usize::try_from(disk.pages()).unwrap_or(usize::MAX).min(most).min(NONE as usize);
        let next = |number: usize| if number + 1 < pages { number as u32 + 1 } else { NONE };
        self.pages = (0..pages).map(|number| Page { next: next(number), values: 0, state: State::Rests }).collect();
        (self.free_page, self.free_pages) = (if pages > 0 { 0 } else { NONE }, pages);
        self.buffers = core::iter::from_fn(|| disk.buffer()).take(MOST_BUFFERS).collect();
        self.disk = Some(disk);
    }

    /// Its queues are gone: all values are lost, and what is being read fails. The disk is returned, with the buffers that
    /// are here.
    pub fn lose(&mut self) -> Option<D> {
        let mut disk = self.disk.take()?;
        self.values.iter_mut().for_each(|value| value.page = NONE);
        (self.pages, self.free_page, self.free_pages) = (Vec::new(), NONE, 0);
        let open = self.open.take().map(|open| open.buffer);
        for read in core::mem::take(&mut self.reads).into_iter().flatten() {
            self.failed.push_back(read.ticket);
            self.buffers.extend(read.parts.into_iter().filter_map(|(_, part)| part.buffer()));
        }
        self.ended.clear();
        self.buffers.drain(..).chain(open).for_each(|buffer| disk.give(buffer));
        Some(disk)
    }

    /// Takes what the device has ended, and begins what that makes possible. `now` are ticks of a clock. To be called after
    /// each time that values may have gone or been asked for.
    pub fn turn(&mut self, now: u64) {
        while let Some((token, buffer, succeeded)) = self.disk.as_mut().and_then(Disk::ended) {
            if token & READ == 0 {
                self.end_write(token, succeeded);
                self.buffers.extend(buffer);
            } else {
                self.end_read(token, buffer.filter(|_| succeeded), now);
            }
        }
        for number in 0..self.reads.len() {
            self.go_on(number, now);
        }
        if let Some(disk) = self.disk.as_mut() {
            disk.ring();
        }
    }

    /// The next read that has ended; `bytes` are the value's.
    pub fn ended(&mut self, bytes: &mut Vec<u8>) -> Option<Ended> {
        bytes.clear();
        if let Some(ticket) = self.failed.pop_front() {
            return Some(Ended { ticket, succeeded: false });
        }
        let number = self.ended.pop_front()?;
        let read = self.reads.get_mut(number)?.take()?;
        let (mut left, mut offset) = (read.value.length as usize, usize::from(read.value.offset));
        for (_, part) in read.parts {
            let Some(buffer) = part.buffer() else { continue };
            let length = left.min(PAGE_BYTES - offset);
            if let Some(disk) = &self.disk {
                disk.copy_out(&buffer, offset, length, bytes);
            }
            (left, offset) = (left - length, 0);
            self.buffers.push(buffer);
        }
        let is_right = !read.has_failed && left == 0 && self.hash(core::iter::once(&bytes[..])) == read.value.hash;
        Some(Ended { ticket: read.ticket, succeeded: is_right })
    }

    /// True if the tier has a namespace.
    pub fn is_open(&self) -> bool {
        self.disk.is_some()
    }

    /// Ticks that a read takes on average, if the tier takes values and any was read so far.
    pub fn read_ticks(&self) -> Option<u64> {
        let (ticks, reads) = self.waited;
        ticks.checked_div(reads).filter(|_| self.free_pages > 0)
    }

    /// Pages of the namespace that hold values, and all that are used.
    #[cfg(test)]
    fn usage(&self) -> (usize, usize) {
        (self.pages.len() - self.free_pages, self.pages.len())
    }

    fn hash<'a>(&self, parts: impl Iterator<Item = &'a [u8]>) -> u64 {
        let mut hasher = self.hasher;
        parts.for_each(|part| hasher.write(part));
        hasher.finish()
    }

    fn end_write(&mut self, page: u64, succeeded: bool) {
        let Some(number) = u32::try_from(page).ok().filter(|number| (*number as usize) < self.pages.len()) else {
            return;
        };
        self.pages[number as usize].state = if succeeded { State::Rests } else { State::Bad };
        self.free_unused(number);
    }

    fn end_read(&mut self, token: u64, buffer: Option<D::Buffer>, now: u64) {
        let (number, part) = ((token & !READ) as usize >> 8, (token & 0xff) as usize);
        let Some(Some(read)) = self.reads.get_mut(number) else { return };
        let Some((_, place @ Part::UnderWay)) = read.parts.get_mut(part) else { return };
        read.has_failed |= buffer.is_none();
        *place = buffer.map_or(Part::Lost, Part::Here);
        self.look_at(number, now);
    }

    /// Tells of a read whose parts are all there or lost.
    fn look_at(&mut self, number: usize, now: u64) {
        let Some(Some(read)) = self.reads.get(number) else { return };
        if read.parts.iter().all(|(_, part)| matches!(part, Part::Here(_) | Part::Lost)) {
            if !read.has_failed {
                self.waited.0 += now.saturating_sub(read.begun_at);
                self.waited.1 += 1;
            }
            self.ended.push_back(number);
        }
    }

    /// Begins the parts of a read whose pages are written.
    fn go_on(&mut self, number: usize, now: u64) {
        let (Some(Some(read)), Some(disk)) = (self.reads.get_mut(number), self.disk.as_mut()) else { return };
        if read.begun_at == 0 {
            read.begun_at = now;
        }
        let mut has_lost = false;
        for (at, (page, part)) in read.parts.iter_mut().enumerate() {
            let state = self.pages.get(*page as usize).map_or(State::Bad, |page| page.state);
            if !matches!(part, Part::Waits(_)) || state == State::Written {
                continue;
            }
            let Part::Waits(buffer) = core::mem::replace(part, Part::UnderWay) else { continue };
            let token = READ | (number as u64) << 8 | at as u64;
            let begun =
                if state == State::Bad { Err(buffer) } else { disk.begin(false, (*page).into(), buffer, token) };
            if let Err(buffer) = begun {
                (*part, read.has_failed, has_lost) = (Part::Lost, true, true);
                self.buffers.push(buffer);
            }
        }
        if has_lost {
            self.look_at(number, now);
        }
    }

    /// Does not begin what of a read of this value was not begun: its pages will be others'.
    fn give_up(&mut self, ticket: Ticket) {
        let of_value = |read: &Option<Read<D::Buffer>>| read.as_ref().is_some_and(|read| read.ticket == ticket);
        let Some(number) = self.reads.iter().position(of_value) else { return };
        let Some(Some(read)) = self.reads.get_mut(number) else { return };
        let mut has_lost = false;
        for (_, part) in &mut read.parts {
            if let Part::Waits(_) = part
                && let Part::Waits(buffer) = core::mem::replace(part, Part::Lost)
            {
                (read.has_failed, has_lost) = (true, true);
                self.buffers.push(buffer);
            }
        }
        if has_lost {
            self.look_at(number, 0);
        }
    }

    /// Begins to write the page that is being filled.
    fn close(&mut self) {
        let Some(Open { page, buffer, .. }) = self.open.take() else { return };
        self.begin_write(page, buffer);
    }

    fn begin_write(&mut self, page: u32, buffer: D::Buffer) {
        let Some(disk) = self.disk.as_mut() else { return };
        if let Err(buffer) = disk.begin(true, page.into(), buffer, page.into()) {
            self.buffers.push(buffer);
            self.end_write(page.into(), false);
        }
    }

    /// A page for so many values. The caller has seen that there is one.
    fn take_page(&mut self) -> Option<u32> {
        let number = self.free_page;
        let page = self.pages.get_mut(number as usize)?;
        self.free_page = page.next;
        self.free_pages -= 1;
        *page = Page { next: NONE, values: 1, state: State::Written };
        Some(number)
    }

    /// Lets a page be used again, if nobody needs it any more.
    fn free_unused(&mut self, number: u32) {
        let is_open = self.open.as_ref().is_some_and(|open| open.page == number);
        let Some(page) = self.pages.get_mut(number as usize) else { return };
        if page.values == 0 && page.state == State::Rests && !is_open {
            page.next = self.free_page;
            self.free_page = number;
            self.free_pages += 1;
        }
    }

    /// Buffers that may be used for writing.
    fn for_writing(&self) -> usize {
        self.buffers.len().saturating_sub(FOR_READING)
    }

    /// Puts a value of up to a page into the page that is being filled.
    fn put_small<'a>(&mut self, length: usize, parts: impl Iterator<Item = &'a [u8]>) -> Option<(u32, u16)> {
        if self.open.as_ref().is_some_and(|open| open.used + length > PAGE_BYTES) {
            self.close();
        }
        if self.open.is_none() {
            if self.for_writing() == 0 || self.free_pages == 0 {
                return None;
            }
            let (page, buffer) = (self.take_page()?, self.buffers.pop()?);
            self.open = Some(Open { page, used: 0, buffer });
        } else if let Some(open) = &self.open {
            self.pages[open.page as usize].values += 1;
        }
        let (open, disk) = (self.open.as_mut()?, self.disk.as_mut()?);
        let begin = open.used;
        for part in parts {
            disk.fill(&mut open.buffer, open.used, part);
            open.used += part.len();
        }
        Some((open.page, begin as u16))
    }

    /// Puts a larger value into pages of its own.
    fn put_large<'a>(&mut self, length: usize, parts: impl Iterator<Item = &'a [u8]>) -> Option<(u32, u16)> {
        let count = length.div_ceil(PAGE_BYTES);
        if count > MOST_PAGES || count > self.for_writing() || count > self.free_pages {
            return None;
        }
        let first = self.free_page;
        let (mut page, mut buffer) = (self.take_page()?, self.buffers.pop()?);
        let mut used = 0;
        for mut part in parts {
            while !part.is_empty() {
                if used == PAGE_BYTES {
                    self.begin_write(page, buffer);
                    let next = self.take_page()?;
                    self.pages[page as usize].next = next;
                    (page, buffer, used) = (next, self.buffers.pop()?, 0);
                }
                let (now, later) = part.split_at(part.len().min(PAGE_BYTES - used));
                self.disk.as_mut()?.fill(&mut buffer, used, now);
                (part, used) = (later, used + now.len());
            }
        }
        self.begin_write(page, buffer);
        Some((first, 0))
    }

    /// The pages of a value.
    fn pages_of(&self, value: &Value) -> Vec<u32> {
        let count = (usize::from(value.offset) + value.length as usize).div_ceil(PAGE_BYTES).max(1);
        let next = |page: &u32| self.pages.get(*page as usize).map(|page| page.next);
        core::iter::successors(Some(value.page), next).take(count).collect()
    }

    /// The value of a ticket, unless it is gone.
    fn value(&self, ticket: Ticket) -> Option<&Value> {
        let value = self.values.get(ticket.0 as u32 as usize)?;
        (value.generation == (ticket.0 >> 32) as u32).then_some(value)
    }
}

impl<B> Part<B> {
    fn buffer(self) -> Option<B> {
        match self {
            Part::Waits(buffer) | Part::Here(buffer) => Some(buffer),
            Part::UnderWay | Part::Lost => None,
        }
    }
}

impl<D: Disk> Cold for Shelf<D> {
    fn room(&self) -> usize {
        self.for_writing().min(self.free_pages).min(MOST_PAGES) * PAGE_BYTES
    }

    fn write<'a>(&mut self, length: usize, parts: impl Iterator<Item = &'a [u8]>) -> Option<Ticket> {
        let mut hasher = self.hasher;
        let parts = parts.inspect(|part| hasher.write(part));
        let (page, offset) =
            if length <= PAGE_BYTES { self.put_small(length, parts)? } else { self.put_large(length, parts)? };
        let mut value = Value { generation: 0, page, offset, length: length as u32, hash: hasher.finish() };
        let number = match self.free_values.pop() {
            Some(number) => {
                value.generation = self.values[number as usize].generation.wrapping_add(1);
                self.values[number as usize] = value;
                number
            }
            None => {
                self.values.push(value);
                self.values.len() as u32 - 1
            }
        };
        Some(Ticket(u64::from(value.generation) << 32 | u64::from(number)))
    }

    fn read(&mut self, ticket: Ticket) -> bool {
        let Some(value) = self.value(ticket).copied() else { return false };
        if value.page == NONE {
            // It was lost with its namespace.
            self.failed.push_back(ticket);
            return true;
        }
        let pages = self.pages_of(&value);
        if pages.len() > self.buffers.len() {
            return false;
        }
        if self.open.as_ref().is_some_and(|open| open.page == value.page) {
            self.close();
        }
        let buffers = self.buffers.split_off(self.buffers.len() - pages.len());
        let parts = pages.into_iter().zip(buffers.into_iter().map(Part::Waits)).collect();
        let read = Read { ticket, value, parts, has_failed: false, begun_at: 0 };
        match self.reads.iter_mut().find(|read| read.is_none()) {
            Some(place) => *place = Some(read),
            None => self.reads.push(Some(read)),
        }
        true
    }

    fn release(&mut self, ticket: Ticket) {
        let Some(value) = self.value(ticket).copied() else { return };
        self.give_up(ticket);
        if value.page != NONE {
            for page in self.pages_of(&value) {
                if let Some(page) = self.pages.get_mut(page as usize) {
                    page.values = page.values.saturating_sub(1);
                }
                self.free_unused(page);
            }
        }
        let number = ticket.0 as u32;
        // No ticket names it any more.
        let place = &mut self.values[number as usize];
        (place.page, place.generation) = (NONE, place.generation.wrapping_add(1));
        self.free_values.push(number);
    }
}

#[cfg(test)]
mod tests;
