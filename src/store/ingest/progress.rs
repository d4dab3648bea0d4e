//! How far the writers of one partial have come, and when that is noted in the file.

use std::io;
use std::ops::Range;

use crc32fast::Hasher as Crc;
use parking_lot::Mutex;

use super::block_map::{Block, BlockMap};
use crate::durable::DiskFile;

/// A note is written after this many bytes of the blob.
const NOTE_EACH: u64 = 256 << 10;

/// The progress of a partial.
#[derive(Debug)]
pub(super) struct PartialProgress(Mutex<PartialState>);

#[derive(Debug)]
struct PartialState {
    map: BlockMap,
    /// Blocks whose entries in the file are old.
    changed: Range<usize>,
    /// Bytes that came since the last note.
    unnoted: u64,
    /// The file has the note's head.
    has_note: bool,
    /// Ranges that writers hold, as they were when they took them.
    taken: Vec<Range<u64>>,
    /// Missing bytes in no range that a writer holds.
    open: u64,
}

/// A run of missing bytes that one writer fills in order.
#[derive(Debug)]
pub(crate) struct Chunk {
    /// The offset of the next missing byte.
    pub(crate) next: u64,
    /// The offset behind the run.
    pub(crate) end: u64,
    first: u64,
    /// The checksum of the block that `next` is in, up to there.
    crc: u32,
}

impl PartialProgress {
    /// Returns the progress of a file that has the bytes of `map`, and no note of them yet.
    pub(super) fn new(map: BlockMap) -> Self {
        let open = map.size() - map.there();
        let taken = Vec::new();
        PartialProgress(Mutex::new(PartialState {
            map,
            changed: 0..0,
            unnoted: 0,
            has_note: false,
            taken,
            open,
        }))
    }

    /// Returns the map of the same blocks with nothing there.
    pub(super) fn emptied(&self) -> BlockMap {
        let state = self.0.lock();
        BlockMap::empty(state.map.size(), state.map.block_size())
    }

    /// Returns how many bytes of the blob are there.
    pub(super) fn there(&self) -> u64 {
        self.0.lock().map.there()
    }

    /// Returns how many missing bytes no writer holds.
    pub(super) fn open(&self) -> u64 {
        self.0.lock().open
    }

    /// Returns up to which offset no byte is missing, counted from `offset`, up to which none is.
    pub(super) fn gapless_from(&self, offset: u64) -> u64 {
        self.0.lock().map.gapless_from(offset)
    }

    /// Takes all from `offset` to the blob's end, what is there behind a gap included.
    pub(super) fn take_rest(&self, offset: u64) -> Chunk {
        let mut state = self.0.lock();
        let end = state.map.size();
        let crc = state.map.get(state.map.index_of(offset)).crc;
        state.open = 0;
        Chunk { next: offset, end, first: offset, crc }
    }

    /// Takes the first run of missing bytes that no writer holds, at most to the next multiple of
    /// `chunk_size`.
    pub(super) fn take(&self, chunk_size: u64) -> Option<Chunk> {
        let mut state = self.0.lock();
        if state.open == 0 {
            return None;
        }
        let (index, next) = state.first_open()?;
        let step = chunk_size.max(1).next_multiple_of(state.map.block_size());
        let limit = (next / step + 1).saturating_mul(step);
        let mut end = state.map.span(index).end;
        for follower in index + 1..state.map.count() {
            if end >= limit || state.map.get(follower).len > 0 || state.holder_of(end).is_some() {
                break;
            }
            end = state.map.span(follower).end;
        }
        state.taken.push(next..end);
        state.open = state.open.saturating_sub(end - next);
        Some(Chunk { next, end, first: next, crc: state.map.get(index).crc })
    }

    /// Gives a chunk back, written to its end or not, and notes how far it came.
    pub(super) fn give_back(&self, file: &dyn DiskFile, chunk: &Chunk) {
        {
            let mut state = self.0.lock();
            state.taken.retain(|range| range.start != chunk.first);
            state.open += chunk.end - chunk.next;
        }
        self.note(file);
    }

    /// Records bytes that were written at the start of a chunk, which then starts behind them. Writes a
    /// note if it is time.
    pub(super) fn advance(&self, file: &dyn DiskFile, chunk: &mut Chunk, bytes: &[u8]) {
        let block_size = self.0.lock().map.block_size();
        let (mut rest, mut grown) = (bytes, Vec::with_capacity(2));
        while !rest.is_empty() {
            let within = chunk.next % block_size;
            let fits = usize::try_from(block_size - within).unwrap_or(usize::MAX).min(rest.len());
            let (part, behind) = rest.split_at(fits);
            let mut crc = Crc::new_with_initial(if within == 0 { 0 } else { chunk.crc });
            crc.update(part);
            chunk.crc = crc.finalize();
            grown.push((chunk.next - within, Block { len: within + fits as u64, crc: chunk.crc }));
            chunk.next += fits as u64;
            rest = behind;
        }
        let is_due = {
            let mut state = self.0.lock();
            for (start, block) in grown {
                state.grow(start, block);
            }
            state.unnoted += bytes.len() as u64;
            state.unnoted >= NOTE_EACH && state.map.there() < state.map.size()
        };
        if is_due {
            self.note(file);
        }
    }

    /// Writes the entries that changed. A failure costs bytes that are fetched again, and no more.
    pub(super) fn note(&self, file: &dyn DiskFile) {
        if let Err(error) = self.try_note(file) {
            log::debug!("the progress of a partial download was not noted: {error}");
        }
    }

    /// Writes the entries that changed, and the note's head if the file has none.
    pub(super) fn try_note(&self, file: &dyn DiskFile) -> io::Result<()> {
        let (place, note) = {
            let mut state = self.0.lock();
            let header = !state.has_note;
            let blocks = if header { 0..state.map.count() } else { state.changed.clone() };
            state.unnoted = 0;
            state.changed = 0..0;
            if blocks.is_empty() {
                return Ok(());
            }
            state.has_note = true;
            state.map.encode(blocks, header)
        };
        // Two notes may pass each other: an older entry promises fewer bytes, and is true as well.
        file.write_at(&note, place).inspect_err(|_| self.0.lock().has_note = false)
    }

    /// Writes the whole note, whatever was written before.
    pub(super) fn note_all(&self, file: &dyn DiskFile) {
        self.0.lock().has_note = false;
        self.note(file);
    }
}

impl PartialState {
    /// Returns the first block with a missing byte that no writer holds, and the byte's offset.
    fn first_open(&self) -> Option<(usize, u64)> {
        let mut index = 0;
        while index < self.map.count() {
            if self.map.is_complete(index) {
                index += 1;
                continue;
            }
            let next = self.map.span(index).start + self.map.get(index).len;
            match self.holder_of(next) {
                Some(range) => index = self.map.index_of(range.end - 1) + 1,
                None => return Some((index, next)),
            }
        }
        None
    }

    fn holder_of(&self, offset: u64) -> Option<&Range<u64>> {
        self.taken.iter().find(|range| range.contains(&offset))
    }

    fn grow(&mut self, start: u64, block: Block) {
        let index = self.map.index_of(start);
        self.map.set(index, block);
        self.changed = match self.changed.is_empty() {
            true => index..index + 1,
            false => self.changed.start.min(index)..self.changed.end.max(index + 1),
        };
    }
}
