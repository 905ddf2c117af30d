//! Mistakes that are put into what a good machine has told, or into its memory: the replay must find each where it stands.

use conform::{Divergence, Memory, Record, Replay};
use kernel::trace::WORDS;
use std::fs::File;
use std::os::unix::fs::FileExt;

/// Deletes and Revokes that have ended before: by then there are applications.
const TAKEN: u64 = 20;

/// What is put in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mistake {
    /// A call that was carried out is told as refused.
    Answer,
    /// A record is lost, as by a ring that overflows.
    Lost,
    /// A mapping stands where it was taken away, or never was.
    Entry,
    /// A capability stands where it was taken away, or never was.
    Slot,
}

impl Mistake {
    /// All of them.
    pub const ALL: [Mistake; 4] = [Mistake::Answer, Mistake::Lost, Mistake::Entry, Mistake::Slot];

    /// In words.
    pub const fn about(self) -> &'static str {
        match self {
            Mistake::Answer => "a call that was carried out is told as refused",
            Mistake::Lost => "a record is lost",
            Mistake::Entry => "an entry is left in a page table",
            Mistake::Slot => "a capability is left in a slot",
        }
    }

    /// Puts it in at this stop, if it can be: the number of the record that shows it first. What is in memory shows at the
    /// last record of a stop.
    ///
    /// # Errors
    /// When memory can't be written.
    pub fn put(
        self,
        replay: &Replay,
        records: &mut Vec<[u64; WORDS]>,
        (memory, file): (&Memory, &File),
    ) -> std::io::Result<Option<u64>> {
        let is_done = |words: &[u64; WORDS]| {
            conform::Entry::from_words(words).is_ok_and(|entry| matches!(entry.record, Record::Return(Ok(_))))
        };
        let Some(last) = records.last().filter(|last| replay.statistics.taken >= TAKEN && is_done(last)).copied()
        else {
            return Ok(None);
        };
        match self {
            // The status is the second detail; 0 is success, and 1 an error.
            Mistake::Answer => {
                let at = records.len() - 1;
                records[at][4] ^= 1;
                Ok(Some(last[0]))
            }
            Mistake::Lost if records.len() > 2 => {
                let lost = records.remove(records.len() / 2);
                // What was told before it is all that counts.
                Ok(Some(lost[0] - 1))
            }
            Mistake::Lost => Ok(None),
            Mistake::Entry => copy(replay.mapping_and_gap(), 8, memory, file).map(|put| put.then_some(last[0])),
            Mistake::Slot => copy(replay.slot_and_gap(), 64, memory, file).map(|put| put.then_some(last[0])),
        }
    }
}

/// Copies so many bytes in the machine's memory, from one address to the other, if there are such. False if not.
fn copy(places: Option<(u64, u64)>, bytes: usize, memory: &Memory, file: &File) -> std::io::Result<bool> {
    let Some((from, to)) = places.filter(|(_, to)| memory.is_zero(*to, bytes)) else { return Ok(false) };
    let mut buffer = vec![0; bytes];
    file.read_exact_at(&mut buffer, from)?;
    file.write_all_at(&buffer, to)?;
    Ok(true)
}

/// True if the replay has found what was put in where it shows first.
pub fn is_found(found: &Result<(), Divergence>, at: u64) -> bool {
    found.as_ref().is_err_and(|found| found.at == at)
}
