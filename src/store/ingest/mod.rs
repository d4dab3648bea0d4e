//! A blob's way from the network to its name.

mod partial;

use std::io::{self, Read};
use std::sync::Arc;

use crate::context::PullContext;
use crate::durable::{DiskFile, Flush, Metadata};
use crate::error::{Error, ErrorKind};
use crate::image::digest::{Digest, Hasher};
use crate::image::manifest::Descriptor;
use crate::store::error::refused;
use crate::store::handle::{Inner, Store};
use crate::store::in_progress::Claim;
use crate::store::pieces::Note;
use crate::store::transaction::Transaction;
use crate::store::{layout, retry_io};
use partial::Partial;

/// How much is read at once, bytes.
pub(super) const READ: usize = 128 << 10;

/// With relaxed durability a blob of so many bytes or fewer is kept in memory until it is whole. What a
/// break loses of it is soon fetched again, and half the operations are enough to write it at once.
pub(crate) const SMALL: u64 = 16 << 10;

/// What [`Store::begin`] found.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "it is taken apart at once")]
pub(crate) enum Begun {
    /// The blob is there.
    Present,
    /// It has to be fetched, from [`Ingest::offset`] on.
    Fetch(Ingest),
}

/// A blob that is being written, by nobody else in this process, nor in another unless it is kept
/// [in memory](SMALL). Dropped, it keeps what a file has for the next one that begins the same digest.
#[derive(Debug)]
pub(crate) struct Ingest {
    // Dropped in this order: the file's lock is given back before the next thread is let in.
    gathered: Option<Gathered>,
    hasher: Hasher,
    offset: u64,
    /// Which pieces stand behind a gap, if the blob was ever written in pieces.
    pub(super) note: Option<Note>,
    digest: Digest,
    size: u64,
    transaction: Transaction,
    store: Arc<Inner>,
    cx: PullContext,
    _claim: Claim,
}

/// Where the bytes gather that have come.
#[derive(Debug)]
enum Gathered {
    InMemory(Vec<u8>),
    InFile(Partial),
}

impl Store {
    /// Begins to fetch `blob`, unless it is there. While another thread fetches it this waits, and while
    /// another process does, unless it is kept [in memory](SMALL); what one that failed or died has left is
    /// gone on from.
    ///
    /// # Errors
    /// `Cancelled`, `Timeout`; `SizeMismatch` if the blob is there and of another size than the
    /// descriptor says; `Store`, `DiskFull`, `ResourceExhausted`.
    pub(crate) fn begin(
        &self,
        cx: &PullContext,
        transaction: &Transaction,
        blob: &Descriptor,
    ) -> Result<Begun, Error> {
        let store = &self.0;
        self.hold(cx, transaction, &[&blob.digest])?;
        let claim = store.ingests.claim(cx, &blob.digest)?;
        if let Some(awaited) = store.flusher.unsettled(&blob.digest) {
            if awaited.size() != blob.size {
                return Err(lies(blob));
            }
            transaction.await_commit(awaited);
            return Ok(Begun::Present);
        }
        if let Some(found) = self.has(cx, blob)? {
            return self.reuse(cx, transaction, blob, &found);
        }
        if blob.size <= SMALL && store.settings.flush() == Flush::Skip {
            let room = Vec::with_capacity(usize::try_from(blob.size).unwrap_or(0));
            return Ok(Begun::Fetch(self.ingest(cx, transaction, blob, Gathered::InMemory(room), claim)));
        }
        match self.lock_partial(cx, blob)? {
            Ok(partial) => self.resume(cx, transaction, blob, partial, claim).map(Begun::Fetch),
            Err(found) => self.reuse(cx, transaction, blob, &found),
        }
    }

    /// Locks the file that the blob is to gather in, as soon as no other process holds it; or answers
    /// what stands under the blob's name by then.
    fn lock_partial(&self, cx: &PullContext, blob: &Descriptor) -> Result<Result<Partial, Metadata>, Error> {
        let mut pauses = retry_io::Pauses::new();
        loop {
            let Some(partial) = Partial::lock(cx, &self.0.disk, &blob.digest)? else {
                pauses.wait(cx)?;
                continue;
            };
            // Who held the lock until now may have finished since the look.
            return Ok(match self.has(cx, blob)? {
                None => Ok(partial),
                Some(found) => {
                    partial.discard();
                    Err(found)
                }
            });
        }
    }

    /// An ingest that goes on from what the partial has.
    fn resume(
        &self,
        cx: &PullContext,
        transaction: &Transaction,
        blob: &Descriptor,
        partial: Partial,
        claim: Claim,
    ) -> Result<Ingest, Error> {
        let found = partial.found;
        let note = Note::read(&*partial.file, blob.size, found);
        let whole = match &note {
            Some(note) => note.whole_up_to(blob.size),
            None if found > blob.size => partial.cut().map(|()| 0)?,
            None => found,
        };
        let mut hasher = Hasher::new(blob.digest.algorithm());
        let offset = hash_file(cx, &*partial.file, whole, &mut hasher, "read a partial download")?;
        let mut ingest = self.ingest(cx, transaction, blob, Gathered::InFile(partial), claim);
        ingest.put_hasher(hasher, offset);
        ingest.note = note;
        Ok(ingest)
    }

    /// An ingest that has no bytes yet.
    fn ingest(
        &self,
        cx: &PullContext,
        transaction: &Transaction,
        blob: &Descriptor,
        gathered: Gathered,
        claim: Claim,
    ) -> Ingest {
        Ingest {
            gathered: Some(gathered),
            hasher: Hasher::new(blob.digest.algorithm()),
            offset: 0,
            note: None,
            digest: blob.digest.clone(),
            size: blob.size,
            transaction: transaction.clone(),
            store: self.0.clone(),
            cx: cx.clone(),
            _claim: claim,
        }
    }

    /// Whether a thread of this process is fetching the digest just now, from its [`begin`](Self::begin)
    /// to its commit.
    pub(crate) fn is_being_fetched(&self, digest: &Digest) -> bool {
        self.0.ingests.has(digest)
    }

    /// Counts a blob that is there, once it is durable.
    fn reuse(
        &self,
        cx: &PullContext,
        transaction: &Transaction,
        blob: &Descriptor,
        found: &Metadata,
    ) -> Result<Begun, Error> {
        if let Some(awaited) = self.0.flusher.assure(cx, &blob.digest, found)? {
            transaction.await_commit(awaited);
        }
        Ok(Begun::Present)
    }

    /// What stands under the blob's name, if it has the size it should have. What has not, and does
    /// not hash to its name either, is moved aside.
    pub(crate) fn has(&self, cx: &PullContext, blob: &Descriptor) -> Result<Option<Metadata>, Error> {
        let path = layout::blob_path(&blob.digest);
        let look = || layout::regular_file(&*self.0.disk, &path);
        match retry_io::for_files(cx, &format!("look for {path}"), look)? {
            None => Ok(None),
            Some(found) if found.len == blob.size => Ok(Some(found)),
            // The descriptor may be what lies: a good blob of other images must not go for that.
            Some(_) if self.is_sound(cx, &blob.digest)? => Err(lies(blob)),
            Some(_) => self.move_aside(&blob.digest).map(|()| None),
        }
    }

    /// Whether the blob's bytes hash to its name.
    pub(super) fn is_sound(&self, cx: &PullContext, digest: &Digest) -> Result<bool, Error> {
        let file = self.open_file(cx, digest)?;
        let mut hasher = Hasher::new(digest.algorithm());
        hash_file(cx, &*file, u64::MAX, &mut hasher, &format!("read {digest}"))?;
        Ok(hasher.finish() == *digest)
    }

    /// Takes what stands under the digest's name away from there.
    pub(super) fn move_aside(&self, digest: &Digest) -> Result<(), Error> {
        log::warn!("the blob {digest} was damaged: it is moved aside, to be fetched again");
        let disk = &self.0.disk;
        match disk.rename(&layout::blob_path(digest), &layout::damaged_path(digest)) {
            // Another process was faster.
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
            outcome => outcome.map_err(|error| refused(&error, format!("move {digest} aside"))),
        }
    }
}

/// The error for a descriptor whose size is not that of the bytes that have its digest.
fn lies(blob: &Descriptor) -> Error {
    let text = format!("{} is in the store, and not {} bytes", blob.digest, blob.size);
    Error::new(ErrorKind::SizeMismatch, text)
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
        let ahead = self.note.as_ref().map_or(0, |note| note.ahead(self.size));
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
        if self.offset == 0 && self.note.is_none() {
            return Ok(());
        }
        match &mut self.gathered {
            None => return Err(self.lost()),
            Some(Gathered::InMemory(gathered)) => gathered.clear(),
            Some(Gathered::InFile(partial)) => partial.cut()?,
        }
        self.note = None;
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
        if self.note.is_some() {
            self.file()?
                .set_len(self.size)
                .map_err(|error| refused(&error, "cut off the note of the pieces"))?;
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
        let awaited = self.store.flusher.publish(&self.cx, &self.digest, path, file)?;
        if let Some(awaited) = awaited {
            self.transaction.await_commit(awaited);
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
    pub(super) fn discard(mut self) {
        self.throw_away();
    }

    fn throw_away(&mut self) {
        if let Some(Gathered::InFile(partial)) = self.gathered.take() {
            partial.discard();
        }
    }

    /// Takes a file that has the blob's bytes in place of its own.
    fn adopt(&mut self, partial: Partial, hasher: Hasher, size: u64) {
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
        if self.offset == 0 && self.note.is_none() {
            self.throw_away();
        }
    }
}

impl Store {
    /// Stores a manifest or an index from memory, or notes that it is used again.
    ///
    /// # Errors
    /// As of [`begin`](Self::begin) and [`Ingest::commit`].
    pub(crate) fn put(
        &self,
        cx: &PullContext,
        transaction: &Transaction,
        blob: &Descriptor,
        bytes: &[u8],
    ) -> Result<(), Error> {
        match self.begin(cx, transaction, blob)? {
            Begun::Present => {
                self.touch(&blob.digest);
                Ok(())
            }
            Begun::Fetch(mut ingest) => {
                ingest.restart()?;
                ingest.write(bytes)?;
                ingest.commit()
            }
        }
    }

    /// Stores what `content` has, under the digest that it turns out to have.
    ///
    /// # Errors
    /// `Cancelled`, `Timeout`, `Store`, `DiskFull`; whatever `content` fails with is `Store`, too.
    pub(super) fn put_unnamed(
        &self,
        cx: &PullContext,
        transaction: &Transaction,
        content: &mut dyn Read,
    ) -> Result<(Digest, u64), Error> {
        let partial = Partial::unnamed(cx, &self.0.disk)?;
        let (hasher, size) = match partial.fill(cx, content) {
            Ok(filled) => filled,
            Err(error) => {
                partial.discard();
                return Err(error);
            }
        };
        let digest = hasher.clone().finish();
        match self.begin(cx, transaction, &Descriptor::new("", digest.clone(), size)) {
            Ok(Begun::Fetch(mut ingest)) => {
                ingest.adopt(partial, hasher, size);
                ingest.commit()?;
            }
            Ok(Begun::Present) => partial.discard(),
            Err(error) => {
                partial.discard();
                return Err(error);
            }
        }
        Ok((digest, size))
    }
}

/// Hashes the file's first `len` bytes, or fewer if it ends before: how many there were.
fn hash_file(
    cx: &PullContext,
    file: &dyn DiskFile,
    len: u64,
    hasher: &mut Hasher,
    doing: &str,
) -> Result<u64, Error> {
    let mut buffer = vec![0; usize::try_from(len).unwrap_or(READ).min(READ)];
    let mut offset = 0;
    while offset < len {
        cx.check()?;
        let read = file.read_at(&mut buffer, offset).map_err(|error| refused(&error, doing))?;
        let wanted = usize::try_from(len - offset).unwrap_or(read).min(read);
        match buffer.get(..wanted) {
            None | Some([]) => break,
            Some(bytes) => hasher.update(bytes),
        }
        offset += wanted as u64;
    }
    Ok(offset)
}
