//! What the second tier needs of a namespace: pages that are read and written in any order, many at once.

/// A namespace, in pages of 4 KiB. What comes back of it is whatever the device says.
pub trait Disk {
    /// A page of memory that the device reaches, while nobody has it.
    type Buffer;

    /// Pages that it has.
    fn pages(&self) -> u64;

    /// A buffer that nobody has.
    fn buffer(&mut self) -> Option<Self::Buffer>;

    /// A buffer is not needed any more.
    fn give(&mut self, buffer: Self::Buffer);

    /// Copies bytes into a buffer, from this offset on. They do not reach beyond its end.
    fn fill(&mut self, buffer: &mut Self::Buffer, offset: usize, bytes: &[u8]);

    /// Appends bytes of a buffer, from this offset on.
    fn copy_out(&self, buffer: &Self::Buffer, offset: usize, length: usize, to: &mut alloc::vec::Vec<u8>);

    /// Begins to write the buffer to a page, or else to read. `token` comes back with its end. Gives the buffer back if that
    /// can't be.
    ///
    /// # Errors
    /// The buffer.
    fn begin(&mut self, writes: bool, page: u64, buffer: Self::Buffer, token: u64) -> Result<(), Self::Buffer>;

    /// Tells the device of what was begun.
    fn ring(&mut self);

    /// What has ended: its token, its buffer, and whether it succeeded.
    fn ended(&mut self) -> Option<(u64, Option<Self::Buffer>, bool)>;
}

#[cfg(target_os = "none")]
mod namespace {
    use super::Disk;
    use alloc::vec::Vec;
    use userlib::storage::{Buffer, Operation, Queue, Storage};

    /// By the queue pair that interrupts.
    impl Disk for Storage {
        type Buffer = Buffer;

        fn pages(&self) -> u64 {
            Storage::pages(self)
        }

        fn buffer(&mut self) -> Option<Buffer> {
            Storage::buffer(self)
        }

        fn give(&mut self, buffer: Buffer) {
            Storage::give(self, buffer);
        }

        fn fill(&mut self, buffer: &mut Buffer, offset: usize, bytes: &[u8]) {
            buffer.write(|page| {
                if let Some(place) = page.get_mut(offset..offset + bytes.len()) {
                    place.copy_from_slice(bytes);
                }
            });
        }

        fn copy_out(&self, buffer: &Buffer, offset: usize, length: usize, to: &mut Vec<u8>) {
            buffer.read(|page| to.extend_from_slice(page.get(offset..offset + length).unwrap_or_default()));
        }

        fn begin(&mut self, writes: bool, page: u64, buffer: Buffer, token: u64) -> Result<(), Buffer> {
            let operation = if writes { Operation::Write } else { Operation::Read };
            Storage::begin(self, Queue::Interrupting, operation, page, buffer, token).map_err(|(_, buffer)| buffer)
        }

        fn ring(&mut self) {
            Storage::ring(self, Queue::Interrupting);
        }

        fn ended(&mut self) -> Option<(u64, Option<Buffer>, bool)> {
            let ended = Storage::ended(self, Queue::Interrupting)?;
            Some((ended.token, ended.buffer, ended.status.is_success()))
        }
    }
}
