//! A large blob that several threads write at a time, each a chunk in its place.
//!
//! The hash goes in order: whoever writes just where it has come to hashes from memory, and what was
//! written ahead is read back when it is reached. Which chunks are there is noted in the partial itself,
//! behind the blob's last byte, so that a later pull goes on with all of them; the commit cuts that off.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use super::chunk_bitmap::{ChunkBitmap, HEADER};
use super::hash::READ;
use super::write::Ingest;
use crate::error::{Error, ErrorKind};
use crate::image::digest::Hasher;
use crate::store::error::refused;

/// An [`Ingest`] that is shared by those who write its chunks.
#[derive(Debug)]
pub(crate) struct ChunkedIngest {
    ingest: Ingest,
    chunk_size: u64,
    states: Mutex<Vec<State>>,
    hash: Mutex<InOrder>,
    written: AtomicU64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// Nobody is at it; it was written up to here.
    Open(u64),
    /// Somebody is at it; it was written up to here.
    Taken(u64),
    There,
}

/// How far the hash has come.
#[derive(Debug)]
struct InOrder {
    hasher: Hasher,
    hashed: u64,
    buffer: Vec<u8>,
}

/// A chunk that one thread writes. Whoever has it gives it back, finished or not.
#[derive(Debug)]
pub(crate) struct Chunk {
    index: usize,
    /// The next byte that is missing, counted from the blob's first.
    pub(crate) next: u64,
    /// The first byte that is another chunk's.
    pub(crate) end: u64,
}

impl Ingest {
    /// Shares the ingest; chunks are of `chunk_size` bytes, unless it was begun with others.
    ///
    /// # Errors
    /// `Store`, `DiskFull`.
    pub(crate) fn in_chunks(mut self, chunk_size: u64) -> Result<ChunkedIngest, Error> {
        let (size, offset) = (self.size(), self.offset());
        let bitmap = self.bitmap.get_or_insert_with(|| ChunkBitmap::of_nothing(size, chunk_size)).clone();
        let chunk_size = bitmap.chunk_size;
        let states = bitmap.there.iter().enumerate().map(|(index, there)| {
            let (start, len) = bitmap.span(index, size);
            if *there || start + len <= offset { State::There } else { State::Open(offset.max(start)) }
        });
        let states: Vec<State> = states.collect();
        let there = states.iter().map(|state| *state == State::There).collect();
        write_bitmap(&self, &ChunkBitmap { chunk_size, there })?;
        let hasher = self.take_hasher();
        Ok(ChunkedIngest {
            ingest: self,
            chunk_size,
            states: Mutex::new(states),
            hash: Mutex::new(InOrder { hasher, hashed: offset, buffer: Vec::new() }),
            written: AtomicU64::new(0),
        })
    }
}

fn write_bitmap(ingest: &Ingest, bitmap: &ChunkBitmap) -> Result<(), Error> {
    bitmap
        .write(ingest.file()?, ingest.size())
        .map_err(|error| refused(&error, "bitmap the chunks of a blob"))
}

impl ChunkedIngest {
    /// The first chunk that is missing and nobody is at.
    pub(crate) fn take(&self) -> Option<Chunk> {
        let mut states = self.states.lock();
        let (index, state) =
            states.iter_mut().enumerate().find(|(_, state)| matches!(state, State::Open(_)))?;
        let State::Open(next) = *state else { return None };
        *state = State::Taken(next);
        let end = (index as u64 + 1).saturating_mul(self.chunk_size).min(self.ingest.size());
        Some(Chunk { index, next, end })
    }

    /// Gives a chunk back that was not finished: whoever takes it next goes on where this one was.
    pub(crate) fn give_back(&self, chunk: &Chunk) {
        self.set(chunk.index, State::Open(chunk.next));
    }

    /// How many chunks are missing that nobody is at.
    pub(crate) fn open(&self) -> usize {
        self.states.lock().iter().filter(|state| matches!(state, State::Open(_))).count()
    }

    /// Bytes that were written since the ingest is shared.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Writes the next bytes of a chunk.
    ///
    /// # Errors
    /// `SizeMismatch` if there are more than the chunk has room for; `DiskFull`, then the partial is
    /// emptied; `Store`.
    pub(crate) fn write(&self, chunk: &mut Chunk, bytes: &[u8]) -> Result<(), Error> {
        let (start, end) = (chunk.next, chunk.next.saturating_add(bytes.len() as u64));
        if end > chunk.end {
            let text = format!("more came than the bytes up to {} that were asked for", chunk.end);
            return Err(Error::new(ErrorKind::SizeMismatch, text));
        }
        let file = self.ingest.file()?;
        file.write_at(bytes, start).map_err(|error| self.write_failed(&error))?;
        chunk.next = end;
        self.set(chunk.index, State::Taken(end));
        self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if let Some(mut hash) = self.hash.try_lock()
            && hash.hashed == start
        {
            hash.hasher.update(bytes);
            hash.hashed = end;
        }
        Ok(())
    }

    /// Notes that a chunk is whole; then hashes what can be, unless another thread is at that.
    ///
    /// # Errors
    /// `Store`, `Cancelled`, `Timeout`.
    pub(crate) fn finish(&self, chunk: &Chunk) -> Result<(), Error> {
        self.set(chunk.index, State::There);
        let place = self.ingest.size() + HEADER + chunk.index as u64;
        let noted = self.ingest.file()?.write_at(&[1], place);
        noted.map_err(|error| refused(&error, "note a chunk of a blob"))?;
        match self.hash.try_lock() {
            Some(mut hash) => self.hash_on(&mut hash),
            None => Ok(()),
        }
    }

    /// Takes the ingest back, hashed as far as it is without a gap.
    ///
    /// # Errors
    /// `Store`, `Cancelled`, `Timeout`.
    pub(crate) fn into_ingest(self) -> Result<Ingest, Error> {
        self.hash_on(&mut self.hash.lock())?;
        let InOrder { hasher, hashed, .. } = self.hash.into_inner();
        let mut ingest = self.ingest;
        ingest.put_hasher(hasher, hashed);
        Ok(ingest)
    }

    /// Reads back and hashes, as long as there is something without a gap.
    fn hash_on(&self, hash: &mut InOrder) -> Result<(), Error> {
        let file = self.ingest.file()?;
        loop {
            let ready = self.whole_up_to().saturating_sub(hash.hashed);
            if ready == 0 {
                return Ok(());
            }
            self.ingest.cx().check()?;
            hash.buffer.resize(READ, 0);
            let wanted = usize::try_from(ready).unwrap_or(READ).min(READ);
            let room = hash.buffer.get_mut(..wanted).unwrap_or_default();
            let read =
                file.read_at(room, hash.hashed).map_err(|error| refused(&error, "read a blob back"))?;
            match room.get(..read) {
                None | Some([]) => {
                    return Err(Error::new(
                        ErrorKind::Store,
                        "a partial download is shorter than was written",
                    ));
                }
                Some(bytes) => hash.hasher.update(bytes),
            }
            hash.hashed += read as u64;
        }
    }

    /// How many bytes from the first one on were written without a gap.
    fn whole_up_to(&self) -> u64 {
        let states = self.states.lock();
        match states.iter().find(|state| **state != State::There) {
            Some(State::Open(next) | State::Taken(next)) => *next,
            Some(State::There) | None => self.ingest.size(),
        }
    }

    fn set(&self, index: usize, state: State) {
        if let Some(place) = self.states.lock().get_mut(index) {
            *place = state;
        }
    }

    /// A full disk is not left full.
    fn write_failed(&self, error: &std::io::Error) -> Error {
        let error = refused(error, "write a chunk of a blob");
        if error.kind() == ErrorKind::DiskFull
            && let Ok(file) = self.ingest.file()
            && let Err(error) = file.set_len(0)
        {
            log::warn!("a partial download on a full disk could not be emptied: {error}");
        }
        error
    }
}
