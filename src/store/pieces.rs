//! A large blob that several threads write at a time, each a piece in its place.
//!
//! The hash goes in order: whoever writes just where it has come to hashes from memory, and what was
//! written ahead is read back when it is reached. Which pieces are there is noted in the partial itself,
//! behind the blob's last byte, so that a later pull goes on with all of them; the commit cuts that off.

use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;

use crate::durable::DiskFile;
use crate::error::{Error, ErrorKind};
use crate::image::digest::Hasher;
use crate::store::error::refused;
use crate::store::ingest::{Ingest, READ};

/// Begins the note behind the blob's last byte; the size of a piece follows, then a byte for each piece.
const MAGIC: &[u8; 8] = b"pieces\0\x01";
const HEADER: u64 = 16;

/// No blob has more pieces: those of a larger one are larger.
const MAX_PIECES: u64 = 16 * 1024;

/// Which pieces of a partial are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Note {
    piece_size: u64,
    there: Vec<bool>,
}

impl Note {
    fn of_nothing(size: u64, piece_size: u64) -> Self {
        let piece_size = piece_size.max(size.div_ceil(MAX_PIECES)).max(1);
        let pieces = usize::try_from(size.div_ceil(piece_size)).unwrap_or(0);
        Note { piece_size, there: vec![false; pieces] }
    }

    /// Reads what is noted behind the blob's `size` bytes in a file of `len`; `None` if it is no note.
    pub(super) fn read(file: &dyn DiskFile, size: u64, len: u64) -> Option<Self> {
        let noted = len.checked_sub(size).filter(|noted| (HEADER..=HEADER + MAX_PIECES).contains(noted))?;
        let mut bytes = vec![0; usize::try_from(noted).ok()?];
        let read = file.read_at(&mut bytes, size).ok()?;
        let (magic, rest) = bytes.get(..read)?.split_first_chunk::<8>()?;
        let (piece_size, there) = rest.split_first_chunk::<8>()?;
        let piece_size = u64::from_le_bytes(*piece_size);
        let is_sound = magic == MAGIC && piece_size > 0 && there.len() as u64 == size.div_ceil(piece_size);
        is_sound.then(|| Note { piece_size, there: there.iter().map(|there| *there == 1).collect() })
    }

    fn write(&self, file: &dyn DiskFile, size: u64) -> std::io::Result<()> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&self.piece_size.to_le_bytes());
        bytes.extend(self.there.iter().map(|there| u8::from(*there)));
        file.write_at(&bytes, size)
    }

    /// How many bytes from the first one on are there without a gap.
    pub(super) fn whole_up_to(&self, size: u64) -> u64 {
        let whole = self.there.iter().take_while(|there| **there).count() as u64;
        whole.saturating_mul(self.piece_size).min(size)
    }

    /// How many bytes are there behind the first gap.
    pub(super) fn ahead(&self, size: u64) -> u64 {
        let behind_gap = self.there.iter().enumerate().skip_while(|(_, there)| **there);
        behind_gap.filter(|(_, there)| **there).map(|(index, _)| self.span(index, size).1).sum()
    }

    /// Where a piece begins, and how long it is.
    fn span(&self, index: usize, size: u64) -> (u64, u64) {
        let start = (index as u64).saturating_mul(self.piece_size).min(size);
        (start, self.piece_size.min(size - start))
    }
}

/// An [`Ingest`] that is shared by those who write its pieces.
#[derive(Debug)]
pub(crate) struct Pieces {
    ingest: Ingest,
    piece_size: u64,
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

/// A piece that one thread writes. Whoever has it gives it back, finished or not.
#[derive(Debug)]
pub(crate) struct Piece {
    index: usize,
    /// The next byte that is missing, counted from the blob's first.
    pub(crate) next: u64,
    /// The first byte that is another piece's.
    pub(crate) end: u64,
}

impl Ingest {
    /// Shares the ingest; pieces are of `piece_size` bytes, unless it was begun with others.
    ///
    /// # Errors
    /// `Store`, `DiskFull`.
    pub(crate) fn in_pieces(mut self, piece_size: u64) -> Result<Pieces, Error> {
        let (size, offset) = (self.size(), self.offset());
        let note = self.note.get_or_insert_with(|| Note::of_nothing(size, piece_size)).clone();
        let piece_size = note.piece_size;
        let states = note.there.iter().enumerate().map(|(index, there)| {
            let (start, len) = note.span(index, size);
            if *there || start + len <= offset { State::There } else { State::Open(offset.max(start)) }
        });
        let states: Vec<State> = states.collect();
        let there = states.iter().map(|state| *state == State::There).collect();
        note_down(&self, &Note { piece_size, there })?;
        let hasher = self.take_hasher();
        Ok(Pieces {
            ingest: self,
            piece_size,
            states: Mutex::new(states),
            hash: Mutex::new(InOrder { hasher, hashed: offset, buffer: Vec::new() }),
            written: AtomicU64::new(0),
        })
    }
}

fn note_down(ingest: &Ingest, note: &Note) -> Result<(), Error> {
    note.write(ingest.file()?, ingest.size()).map_err(|error| refused(&error, "note the pieces of a blob"))
}

impl Pieces {
    /// The first piece that is missing and nobody is at.
    pub(crate) fn take(&self) -> Option<Piece> {
        let mut states = self.states.lock();
        let (index, state) =
            states.iter_mut().enumerate().find(|(_, state)| matches!(state, State::Open(_)))?;
        let State::Open(next) = *state else { return None };
        *state = State::Taken(next);
        let end = (index as u64 + 1).saturating_mul(self.piece_size).min(self.ingest.size());
        Some(Piece { index, next, end })
    }

    /// Gives a piece back that was not finished: whoever takes it next goes on where this one was.
    pub(crate) fn give_back(&self, piece: &Piece) {
        self.set(piece.index, State::Open(piece.next));
    }

    /// How many pieces are missing that nobody is at.
    pub(crate) fn open(&self) -> usize {
        self.states.lock().iter().filter(|state| matches!(state, State::Open(_))).count()
    }

    /// Bytes that were written since the ingest is shared.
    pub(crate) fn written(&self) -> u64 {
        self.written.load(Ordering::Relaxed)
    }

    /// Writes the next bytes of a piece.
    ///
    /// # Errors
    /// `SizeMismatch` if there are more than the piece has room for; `DiskFull`, then the partial is
    /// emptied; `Store`.
    pub(crate) fn write(&self, piece: &mut Piece, bytes: &[u8]) -> Result<(), Error> {
        let (start, end) = (piece.next, piece.next.saturating_add(bytes.len() as u64));
        if end > piece.end {
            let text = format!("more came than the bytes up to {} that were asked for", piece.end);
            return Err(Error::new(ErrorKind::SizeMismatch, text));
        }
        let file = self.ingest.file()?;
        file.write_at(bytes, start).map_err(|error| self.write_failed(&error))?;
        piece.next = end;
        self.set(piece.index, State::Taken(end));
        self.written.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        if let Some(mut hash) = self.hash.try_lock()
            && hash.hashed == start
        {
            hash.hasher.update(bytes);
            hash.hashed = end;
        }
        Ok(())
    }

    /// Notes that a piece is whole; then hashes what can be, unless another thread is at that.
    ///
    /// # Errors
    /// `Store`, `Cancelled`, `Timeout`.
    pub(crate) fn finish(&self, piece: &Piece) -> Result<(), Error> {
        self.set(piece.index, State::There);
        let place = self.ingest.size() + HEADER + piece.index as u64;
        let noted = self.ingest.file()?.write_at(&[1], place);
        noted.map_err(|error| refused(&error, "note a piece of a blob"))?;
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
        let error = refused(error, "write a piece of a blob");
        if error.kind() == ErrorKind::DiskFull
            && let Ok(file) = self.ingest.file()
            && let Err(error) = file.set_len(0)
        {
            log::warn!("a partial download on a full disk could not be emptied: {error}");
        }
        error
    }
}
