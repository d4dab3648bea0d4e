//! A blob that is being written, and its commit.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::flush::PartialFlush;
use super::partial::Partial;
use super::progress::{Chunk, PartialProgress};
use crate::context::PullContext;
use crate::durable::DiskFile;
use crate::error::{Error, ErrorKind};
use crate::image::digest::{Digest, Hasher};
use crate::image::manifest::Descriptor;
use crate::store::error::refused;
use crate::store::growth::Growth;
use crate::store::handle::{Store, StoreInner};
use crate::store::in_progress::Claim;
use crate::store::layout;
use crate::store::transaction::Transaction;

/// With relaxed durability, a blob of up to this many bytes stays in memory until it is complete. A new
/// fetch costs little, and one write costs half as many operations.
pub(crate) const SMALL: u64 = 16 << 10;

/// A blob that is being written. No other thread of this process writes it, and no other process unless
/// the blob stays [in memory](SMALL). When dropped, it keeps its file for the next ingest of the same digest.
#[derive(Debug)]
pub(crate) struct Ingest {
    // Fields drop in this order: the file's lock is released before the next thread gets the digest.
    pub(super) buffer: Option<Buffer>,
    pub(super) hasher: Hasher,
    pub(super) offset: u64,
    pub(super) digest: Digest,
    pub(super) size: u64,
    /// A write failed because the disk is full.
    pub(super) disk_is_full: AtomicBool,
    /// Tells the thread that reads the blob meanwhile how far it is.
    pub(super) growth: Option<Growth>,
    pub(super) transaction: Transaction,
    pub(super) store: Arc<StoreInner>,
    pub(super) cx: PullContext,
    pub(super) _claim: Claim,
}

/// Where the bytes of a blob are until the commit.
#[derive(Debug)]
pub(super) enum Buffer {
    InMemory(Vec<u8>),
    InFile(Box<PartialBlob>),
}

/// A partial that is being written.
#[derive(Debug)]
pub(super) struct PartialBlob {
    pub(super) partial: Partial,
    /// Absent for a blob of one block: its file is a prefix.
    pub(super) progress: Option<PartialProgress>,
    /// What is written in order, from the ingest's offset to the blob's end.
    pub(super) rest: Option<Chunk>,
    /// Absent where nothing is flushed.
    pub(super) flush: Option<PartialFlush>,
}

impl Ingest {
    /// Returns how many bytes are there without a gap, counted from the first one. Bytes of an earlier pull
    /// were hashed again; if they have no checksums, power loss may have changed them, which the commit
    /// finds.
    pub(crate) fn offset(&self) -> u64 {
        self.offset
    }

    /// Returns how many bytes are missing.
    pub(crate) fn missing(&self) -> u64 {
        let there = self.progress().map_or(self.offset, PartialProgress::there);
        self.size.saturating_sub(there)
    }

    /// Returns whether bytes are there behind a gap.
    pub(crate) fn has_gaps(&self) -> bool {
        self.progress().is_some_and(|progress| progress.there() > self.offset)
    }

    /// Writes and hashes the next bytes.
    ///
    /// # Errors
    /// `SizeMismatch` if there are more than the descriptor says; `DiskFull`, `Store`.
    pub(crate) fn write(&mut self, bytes: &[u8]) -> Result<(), Error> {
        let end = self.offset.saturating_add(bytes.len() as u64);
        if end > self.size {
            let text = format!("{} is longer than the {} bytes of its descriptor", self.digest, self.size);
            return Err(Error::new(ErrorKind::SizeMismatch, text));
        }
        match &mut self.buffer {
            None => return Err(self.lost()),
            Some(Buffer::InMemory(buffer)) => buffer.extend_from_slice(bytes),
            Some(Buffer::InFile(blob)) => {
                let mut rest = match blob.rest.take() {
                    Some(rest) if rest.next == self.offset => Some(rest),
                    _ => blob.progress.as_ref().map(|progress| progress.take_rest(self.offset)),
                };
                self.write_to_file(self.offset, bytes, rest.as_mut())?;
                if let Some(Buffer::InFile(blob)) = &mut self.buffer {
                    blob.rest = rest;
                }
            }
        }
        self.note_written(bytes.len());
        self.hasher.update(bytes);
        self.offset = end;
        Ok(())
    }

    /// Writes bytes at `offset`, at the start of `chunk`, and records them.
    ///
    /// # Errors
    /// `DiskFull`, `Store`.
    pub(super) fn write_to_file(
        &self,
        offset: u64,
        bytes: &[u8],
        chunk: Option<&mut Chunk>,
    ) -> Result<(), Error> {
        let blob = self.blob()?;
        let file = &blob.partial.file;
        self.with_room(|| {
            let written = file.write_at(bytes, offset);
            written.map_err(|error| refused(&error, format!("write {}", self.digest)))
        })?;
        let note = || {
            if let Some(progress) = &blob.progress {
                progress.note(&**file);
            }
        };
        if let (Some(progress), Some(chunk)) = (&blob.progress, chunk) {
            progress.advance(&**file, chunk, bytes);
            if let Some(growth) = &self.growth {
                growth.reach(|there| progress.gapless_from(there));
            }
            if let Some(flush) = &blob.flush {
                flush.count(file, bytes.len(), note)?;
            }
        }
        Ok(())
    }

    /// Writes to the disk. If that is full, removes partials that no pull uses, and tries once more.
    pub(super) fn with_room(&self, write: impl Fn() -> Result<(), Error>) -> Result<(), Error> {
        match write() {
            Err(error) if error.kind() == ErrorKind::DiskFull => {
                if let Err(error) = Store(self.store.clone()).collect_partials_for(self.missing()) {
                    log::debug!("no room was made on a full disk: {error}");
                }
                write().inspect_err(|_| self.disk_is_full.store(true, Ordering::Relaxed))
            }
            outcome => outcome,
        }
    }

    /// Starts again at the first byte.
    ///
    /// # Errors
    /// `Store`.
    pub(crate) fn restart(&mut self) -> Result<(), Error> {
        if self.offset == 0 && !self.has_gaps() {
            return Ok(());
        }
        match &mut self.buffer {
            None => return Err(self.lost()),
            Some(Buffer::InMemory(buffer)) => buffer.clear(),
            Some(Buffer::InFile(blob)) => {
                blob.partial.cut()?;
                blob.rest = None;
                if let Some(progress) = &mut blob.progress {
                    *progress = PartialProgress::new(progress.emptied());
                }
            }
        }
        if let Some(growth) = &self.growth {
            growth.restart();
        }
        self.store.reservations.set_missing(&self.digest, self.size);
        self.hasher = Hasher::new(self.digest.algorithm());
        self.offset = 0;
        Ok(())
    }

    /// Compares size and hash, and puts the blob under its name. With full durability the name may
    /// come a moment later: [`Store::tag`] waits for it.
    ///
    /// # Errors
    /// `SizeMismatch` if bytes are missing: the partial is kept. `DigestMismatch`: the ingest
    /// [starts again](Self::restart), and can be written anew. `Store`, `DiskFull`, `ResourceExhausted`,
    /// `Cancelled`, `Timeout`.
    pub(crate) fn commit(&mut self) -> Result<(), Error> {
        if self.offset != self.size {
            let text = format!("{} ends after {} of {} bytes", self.digest, self.offset, self.size);
            return Err(Error::new(ErrorKind::SizeMismatch, text));
        }
        let hashed = self.take_hasher().finish();
        if hashed != self.digest {
            self.restart()?;
            let text = format!("the bytes of {} hash to {hashed}", self.digest);
            return Err(Error::new(ErrorKind::DigestMismatch, text));
        }
        self.store.reservations.set_missing(&self.digest, 0);
        match &self.buffer {
            Some(Buffer::InFile(_)) => self.publish()?,
            Some(Buffer::InMemory(_)) => self.publish_from_memory()?,
            None => return Err(self.lost()),
        }
        if let Some(growth) = &self.growth {
            growth.commit();
        }
        Ok(())
    }

    /// Announces the file that a thread can follow.
    pub(super) fn announce(&self, growth: &Growth) {
        if let Some(Buffer::InFile(blob)) = &self.buffer {
            let there = blob.progress.as_ref().map_or(self.offset, |progress| progress.gapless_from(0));
            growth.begin(&blob.partial.file, there);
        }
    }

    /// Cuts the note off, and hands the file over.
    fn publish(&mut self) -> Result<(), Error> {
        let PartialBlob { partial, progress, flush, .. } = self.blob()?;
        let file = &partial.file;
        if let Some(flush) = flush {
            // Without its note the file says nothing any more about what of it was flushed.
            flush.finish(&self.cx, file)?;
        }
        if progress.is_some() {
            file.set_len(self.size).map_err(|error| refused(&error, "cut off the note of a partial"))?;
            self.blob_mut()?.progress = None;
        }
        let file = &self.blob()?.partial.file;
        file.set_read_only().map_err(|error| refused(&error, "make a blob read-only"))?;
        let Some(Buffer::InFile(blob)) = self.buffer.take() else { return Err(self.lost()) };
        let Partial { path, file, .. } = blob.partial;
        let pending = self.store.group_commit.publish(&self.cx, &self.digest, path, file)?;
        if let Some(pending) = pending {
            self.transaction.await_commit(pending);
        }
        Ok(())
    }

    fn publish_from_memory(&mut self) -> Result<(), Error> {
        let Some(Buffer::InMemory(bytes)) = self.buffer.take() else { return Err(self.lost()) };
        if self.store.disk.create_whole(&layout::blob_path(&self.digest), &bytes).is_ok() {
            return Ok(());
        }
        // The system cannot do it, or another process was faster: take the way of larger blobs.
        let blob = Descriptor::new("", self.digest.clone(), self.size);
        let Ok(partial) = Store(self.store.clone()).lock_partial(&self.cx, &blob)? else { return Ok(()) };
        partial.cut()?;
        self.buffer = Some(Buffer::in_file(partial));
        self.write_to_file(0, &bytes, None)?;
        self.publish()
    }

    /// Removes what was written.
    pub(in crate::store) fn discard(mut self) {
        self.remove_file();
    }

    fn remove_file(&mut self) {
        if let Some(Buffer::InFile(blob)) = self.buffer.take()
            && !blob.is_lost()
        {
            blob.partial.discard();
        }
    }

    /// Takes a file that has the blob's bytes in place of its own.
    pub(super) fn adopt(&mut self, partial: Partial, hasher: Hasher, size: u64) {
        self.remove_file();
        self.buffer = Some(Buffer::in_file(partial));
        (self.hasher, self.offset) = (hasher, size);
    }

    /// Notes bytes that no longer need space.
    pub(super) fn note_written(&self, bytes: usize) {
        self.store.reservations.written(&self.digest, bytes);
    }

    /// Returns the blob's size, bytes.
    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn cx(&self) -> &PullContext {
        &self.cx
    }

    /// Returns the file that the bytes are in; a blob that stays [in memory](SMALL) has none.
    pub(super) fn file(&self) -> Result<&dyn DiskFile, Error> {
        Ok(&*self.blob()?.partial.file)
    }

    pub(super) fn blob(&self) -> Result<&PartialBlob, Error> {
        match &self.buffer {
            Some(Buffer::InFile(blob)) => Ok(blob),
            Some(Buffer::InMemory(_)) | None => Err(self.lost()),
        }
    }

    pub(super) fn blob_mut(&mut self) -> Result<&mut PartialBlob, Error> {
        match self.buffer {
            Some(Buffer::InFile(ref mut blob)) => Ok(blob),
            Some(Buffer::InMemory(_)) | None => Err(self.lost()),
        }
    }

    pub(super) fn progress(&self) -> Option<&PartialProgress> {
        self.blob().ok()?.progress.as_ref()
    }

    /// Hands the hash out, to be [put back](Self::put_hasher) when it has come further.
    pub(super) fn take_hasher(&mut self) -> Hasher {
        std::mem::replace(&mut self.hasher, Hasher::new(self.digest.algorithm()))
    }

    pub(super) fn put_hasher(&mut self, hasher: Hasher, offset: u64) {
        self.hasher = hasher;
        self.offset = offset;
    }

    fn lost(&self) -> Error {
        Error::new(ErrorKind::Store, format!("the partial of {} was removed", self.digest))
    }
}

impl Buffer {
    /// Returns the buffer of a file that is complete, or about to be.
    fn in_file(partial: Partial) -> Self {
        Buffer::InFile(Box::new(PartialBlob { partial, progress: None, rest: None, flush: None }))
    }
}

impl PartialBlob {
    /// Returns whether a flush failed, after which the file has no name any more.
    fn is_lost(&self) -> bool {
        self.flush.as_ref().is_some_and(PartialFlush::is_lost)
    }
}

impl Drop for Ingest {
    /// Notes how far the blob came, and lets the next ingest have the file.
    fn drop(&mut self) {
        if self.offset == 0 && !self.has_gaps() {
            self.remove_file();
            return;
        }
        if let Some(Buffer::InFile(blob)) = &self.buffer {
            let file = &blob.partial.file;
            if let Some(progress) = &blob.progress {
                progress.note_all(&**file);
            }
            // A flush in the background may keep the file open.
            let _ = file.unlock();
        }
        if *self.disk_is_full.get_mut() {
            self.buffer = None;
            // What the partial holds beyond its share of the disk goes.
            if let Err(error) = Store(self.store.clone()).collect_partials() {
                log::debug!("partials on a full disk were not collected: {error}");
            }
        }
    }
}
