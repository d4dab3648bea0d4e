//! The start of an ingest: takes the digest, looks for the blob, locks and verifies its partial.

use std::io::Read;
use std::sync::atomic::AtomicBool;

use super::block_map::BLOCK;
use super::flush::PartialFlush;
use super::hash::hash_file;
use super::lookup::size_conflict;
use super::partial::Partial;
use super::progress::PartialProgress;
use super::verify;
use super::write::{Buffer, Ingest, PartialBlob, SMALL};
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
        let begun = self.look_or_lock(cx, transaction, blob)?;
        match (&begun, transaction.growth(&blob.digest)) {
            (BeginIngest::Present, Some(growth)) => growth.commit(),
            (BeginIngest::Fetch(ingest), Some(growth)) => ingest.announce(&growth),
            (_, None) => {}
        }
        Ok(begun)
    }

    fn look_or_lock(
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
            return Ok(BeginIngest::Fetch(self.ingest(cx, transaction, blob, Buffer::InMemory(room), claim)));
        }
        match self.lock_partial(cx, blob)? {
            Ok(partial) => self.resume(cx, transaction, blob, partial, claim).map(BeginIngest::Fetch),
            Err(found) => self.reuse(cx, transaction, blob, &found),
        }
    }

    /// Returns an ingest that continues with what the partial has.
    fn resume(
        &self,
        cx: &PullContext,
        transaction: &Transaction,
        blob: &Descriptor,
        partial: Partial,
        claim: Claim,
    ) -> Result<Ingest, Error> {
        let mut hasher = Hasher::new(blob.digest.algorithm());
        // A blob of one block is a prefix, unless it was written in smaller chunks.
        let (offset, progress) = if blob.size > BLOCK || partial.found > blob.size {
            let (offset, map) = verify::verify(cx, &partial, blob.size, &mut hasher)?;
            (offset, Some(PartialProgress::new(map)))
        } else {
            let doing = "read a partial download";
            (hash_file(cx, &*partial.file, partial.found, &mut hasher, doing)?, None)
        };
        let flush = (self.0.settings.flush() == Flush::Wait).then(|| {
            PartialFlush::new(
                self.0.group_commit.clone(),
                partial.path.clone(),
                self.0.settings.partial_flush,
            )
        });
        let buffer = Buffer::InFile(Box::new(PartialBlob { partial, progress, rest: None, flush }));
        let mut ingest = self.ingest(cx, transaction, blob, buffer, claim);
        ingest.put_hasher(hasher, offset);
        self.0.reservations.set_missing(&blob.digest, ingest.missing());
        Ok(ingest)
    }

    /// Returns an ingest that has no bytes yet.
    fn ingest(
        &self,
        cx: &PullContext,
        transaction: &Transaction,
        blob: &Descriptor,
        buffer: Buffer,
        claim: Claim,
    ) -> Ingest {
        Ingest {
            buffer: Some(buffer),
            hasher: Hasher::new(blob.digest.algorithm()),
            offset: 0,
            digest: blob.digest.clone(),
            size: blob.size,
            disk_is_full: AtomicBool::new(false),
            growth: transaction.growth(&blob.digest),
            transaction: transaction.clone(),
            store: self.0.clone(),
            cx: cx.clone(),
            _claim: claim,
        }
    }

    /// Returns whether a thread of this process is fetching the digest now, from its [`begin`](Self::begin)
    /// to its commit.
    pub(crate) fn is_being_fetched(&self, digest: &Digest) -> bool {
        self.0.in_progress.has(digest)
    }

    /// Uses a blob that is there, and has the transaction wait until it is durable.
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
