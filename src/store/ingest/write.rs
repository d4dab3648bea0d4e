//! A blob that is being written, and its commit.

use std::io;
use std::sync::Arc;

use super::chunk_bitmap::ChunkBitmap;
use super::partial::Partial;
use crate::context::PullContext;
use crate::durable::DiskFile;
use crate::error::{Error, ErrorKind};
use crate::image::digest::{Digest, Hasher};
use crate::image::manifest::Descriptor;
use crate::store::error::refused;
use crate::store::handle::{Inner, Store};
use crate::store::in_progress::Claim;
use crate::store::layout;
use crate::store::transaction::Transaction;

/// With relaxed durability a blob of so many bytes or fewer is kept in memory until it is whole. What a
/// break loses of it is soon fetched again, and half the operations are enough to write it at once.
pub(crate) const SMALL: u64 = 16 << 10;

/// A blob that is being written, by nobody else in this process, nor in another unless it is kept
/// [in memory](SMALL). Dropped, it keeps what a file has for the next one that begins the same digest.
#[derive(Debug)]
pub(crate) struct Ingest {
    // Dropped in this order: the file's lock is given back before the next thread is let in.
    pub(super) gathered: Option<Gathered>,
    pub(super) hasher: Hasher,
    pub(super) offset: u64,
    /// Which chunks stand behind a gap, if the blob was ever written in chunks.
    pub(super) bitmap: Option<ChunkBitmap>,
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) transaction: Transaction,
    pub(super) store: Arc<Inner>,
    pub(super) cx: PullContext,
    pub(super) _claim: Claim,
}

/// Where the bytes gather that have come.
#[derive(Debug)]
pub(super) enum Gathered {
    InMemory(Vec<u8>),
    InFile(Partial),
}

impl Ingest {
    /// How many of the blob's bytes are there. Those that were there at the beginning were hashed
    /// anew from the disk; if power was lost since they were written they may still be the wrong
    /// ones, which the commit finds.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// How many of the blob's bytes are missing.
    pub(crate) fn missing(&self) -> u64 {
        let ahead = self.bitmap.as_ref().map_or(0, |bitmap| bitmap.ahead(self.size));
        (self.size - self.offset).saturating_sub(ahead)
    }

    /// Writes and hashes the next bytes.
    ///
    /// # Errors
    /// `SizeMismatch` if there are more than the descriptor says; `DiskFull`, then the partial is
    /// thrown away; `Store`.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let end = self.offset.saturating_add(bytes.len() as u64);
        if end > self.size {
            let text = format!("{} is longer than the {} bytes of its descriptor", self.digest, self.size);
            return Err(Error::new(ErrorKind::SizeMismatch, text));
        }
        match &mut self.gathered {
            None => return Err(self.lost()),
            Some(Gathered::InMemory(gathered)) => gathered.extend_from_slice(bytes),
            Some(Gathered::InFile(partial)) => {
                if let Err(error) = partial.file.write_at(bytes, self.offset) {
                    return Err(self.write_failed(&error));
                }
            }
        }
        self.hasher.update(bytes);
        self.offset = end;
        Ok(())
    }

    /// Starts anew with the first byte.
    ///
    /// # Errors
    /// `Store`.
    pub(crate) fn restart(&mut self) -> Result<(), Error> {
        if self.offset == 0 && self.bitmap.is_none() {
            return Ok(());
        }
        match &mut self.gathered {
            None => return Err(self.lost()),
            Some(Gathered::InMemory(gathered)) => gathered.clear(),
            Some(Gathered::InFile(partial)) => partial.cut()?,
        }
        self.bitmap = None;
        self.hasher = Hasher::new(self.digest.algorithm());
        self.offset = 0;
        Ok(())
    }

    /// Compares size and hash, and puts the blob under its name. With full durability the name may
    /// come a moment later: [`Store::tag`] waits for it.
    ///
    /// # Errors
    /// `SizeMismatch` if bytes are missing: the partial is kept. `DigestMismatch`: it is
    /// [started anew](Self::restart), and still this ingest's own. `Store`, `DiskFull`,
    /// `ResourceExhausted`, `Cancelled`, `Timeout`.
    pub(crate) fn commit(&mut self) -> Result<(), Error> {
        if self.offset != self.size {
            let text = format!("{} ends after {} of {} bytes", self.digest, self.offset, self.size);
            return Err(Error::new(ErrorKind::SizeMismatch, text));
        }
        if self.bitmap.is_some() {
            self.file()?
                .set_len(self.size)
                .map_err(|error| refused(&error, "cut off the bitmap of the chunks"))?;
        }
        let hashed = self.take_hasher().finish();
        if hashed != self.digest {
            self.restart()?;
            let text = format!("the bytes of {} hash to {hashed}", self.digest);
            return Err(Error::new(ErrorKind::DigestMismatch, text));
        }
        match self.gathered.take() {
            None => Err(self.lost()),
            Some(Gathered::InFile(partial)) => self.publish(partial),
            Some(Gathered::InMemory(bytes)) => {
                let path = layout::blob_path(&self.digest);
                match self.store.disk.create_whole(&path, &bytes) {
                    Ok(()) => Ok(()),
                    // That is not to be had here, or another process was faster.
                    Err(_) => self.publish_by_file(&bytes),
                }
            }
        }
    }

    fn publish(&self, Partial { path, file, .. }: Partial) -> Result<(), Error> {
        file.set_read_only().map_err(|error| refused(&error, "make a blob read-only"))?;
        let pending = self.store.group_commit.publish(&self.cx, &self.digest, path, file)?;
        if let Some(pending) = pending {
            self.transaction.await_commit(pending);
        }
        Ok(())
    }

    /// Publishes what gathered in memory in the way of larger blobs.
    fn publish_by_file(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let blob = Descriptor::new("", self.digest.clone(), self.size);
        let Ok(partial) = Store(self.store.clone()).lock_partial(&self.cx, &blob)? else { return Ok(()) };
        partial.cut()?;
        if let Err(error) = partial.file.write_at(bytes, 0) {
            self.gathered = Some(Gathered::InFile(partial));
            return Err(self.write_failed(&error));
        }
        self.publish(partial)
    }

    /// Throws away what was written.
    pub(in crate::store) fn discard(mut self) {
        self.throw_away();
    }

    fn throw_away(&mut self) {
        if let Some(Gathered::InFile(partial)) = self.gathered.take() {
            partial.discard();
        }
    }

    /// Takes a file that has the blob's bytes in place of its own.
    pub(super) fn adopt(&mut self, partial: Partial, hasher: Hasher, size: u64) {
        self.throw_away();
        self.gathered = Some(Gathered::InFile(partial));
        (self.hasher, self.offset) = (hasher, size);
    }

    /// The blob's size, bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn cx(&self) -> &PullContext {
        &self.cx
    }

    /// The file that the bytes gather in; a blob that is kept [in memory](SMALL) has none.
    pub(super) fn file(&self) -> Result<&dyn DiskFile, Error> {
        match &self.gathered {
            Some(Gathered::InFile(partial)) => Ok(&*partial.file),
            Some(Gathered::InMemory(_)) | None => Err(self.lost()),
        }
    }

    /// Hands the hash out, to be [put back](Self::put_hasher) when it has come further.
    pub(super) fn take_hasher(&mut self) -> Hasher {
        std::mem::replace(&mut self.hasher, Hasher::new(self.digest.algorithm()))
    }

    pub(super) fn put_hasher(&mut self, hasher: Hasher, offset: u64) {
        self.hasher = hasher;
        self.offset = offset;
    }

    /// A full disk is not left full: what was written goes.
    fn write_failed(&mut self, error: &io::Error) -> Error {
        let error = refused(error, format!("write {}", self.digest));
        if error.kind() == ErrorKind::DiskFull {
            self.throw_away();
        }
        error
    }

    fn lost(&self) -> Error {
        Error::new(ErrorKind::Store, format!("the partial of {} was thrown away", self.digest))
    }
}

impl Drop for Ingest {
    fn drop(&mut self) {
        if self.offset == 0 && self.bitmap.is_none() {
            self.throw_away();
        }
    }
}
