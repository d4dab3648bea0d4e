//! The start of a blob's way into the store: take the digest, look for the blob, lock its partial.

use std::io::Read;

use super::chunk_bitmap::ChunkBitmap;
use super::hash::hash_file;
use super::lookup::size_conflict;
use super::partial::Partial;
use super::write::{Gathered, Ingest, SMALL};
use crate::context::PullContext;
use crate::durable::{Flush, Metadata};
use crate::error::Error;
use crate::image::digest::{Digest, Hasher};
use crate::image::manifest::Descriptor;
use crate::store::handle::Store;
use crate::store::in_progress::Claim;
use crate::store::transaction::Transaction;

/// What [`Store::begin`] found.
#[derive(Debug)]
#[expect(clippy::large_enum_variant, reason = "it is taken apart at once")]
pub(crate) enum BeginIngest {
    /// The blob is there.
    Present,
    /// It has to be fetched, from [`Ingest::offset`] on.
    Fetch(Ingest),
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
    ) -> Result<BeginIngest, Error> {
        let store = &self.0;
        self.hold(cx, transaction, &[&blob.digest])?;
        let claim = store.in_progress.claim(cx, &blob.digest)?;
        if let Some(pending) = store.group_commit.pending(&blob.digest) {
            if pending.size() != blob.size {
                return Err(size_conflict(blob));
            }
            transaction.await_commit(pending);
            return Ok(BeginIngest::Present);
        }
        if let Some(found) = self.has(cx, blob)? {
            return self.reuse(cx, transaction, blob, &found);
        }
        if blob.size <= SMALL && store.settings.flush() == Flush::Skip {
            let room = Vec::with_capacity(usize::try_from(blob.size).unwrap_or(0));
            return Ok(BeginIngest::Fetch(self.ingest(
                cx,
                transaction,
                blob,
                Gathered::InMemory(room),
                claim,
            )));
        }
        match self.lock_partial(cx, blob)? {
            Ok(partial) => self.resume(cx, transaction, blob, partial, claim).map(BeginIngest::Fetch),
            Err(found) => self.reuse(cx, transaction, blob, &found),
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
        let bitmap = ChunkBitmap::read(&*partial.file, blob.size, found);
        let whole = match &bitmap {
            Some(bitmap) => bitmap.whole_up_to(blob.size),
            None if found > blob.size => partial.cut().map(|()| 0)?,
            None => found,
        };
        let mut hasher = Hasher::new(blob.digest.algorithm());
        let offset = hash_file(cx, &*partial.file, whole, &mut hasher, "read a partial download")?;
        let mut ingest = self.ingest(cx, transaction, blob, Gathered::InFile(partial), claim);
        ingest.put_hasher(hasher, offset);
        ingest.bitmap = bitmap;
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
            bitmap: None,
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
        self.0.in_progress.has(digest)
    }

    /// Counts a blob that is there, once it is durable.
    fn reuse(
        &self,
        cx: &PullContext,
        transaction: &Transaction,
        blob: &Descriptor,
        found: &Metadata,
    ) -> Result<BeginIngest, Error> {
        if let Some(pending) = self.0.group_commit.ensure_durable(cx, &blob.digest, found)? {
            transaction.await_commit(pending);
        }
        Ok(BeginIngest::Present)
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
            BeginIngest::Present => {
                self.touch(&blob.digest);
                Ok(())
            }
            BeginIngest::Fetch(mut ingest) => {
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
    pub(in crate::store) fn put_computing_digest(
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
            Ok(BeginIngest::Fetch(mut ingest)) => {
                ingest.adopt(partial, hasher, size);
                ingest.commit()?;
            }
            Ok(BeginIngest::Present) => partial.discard(),
            Err(error) => {
                partial.discard();
                return Err(error);
            }
        }
        Ok((digest, size))
    }
}
