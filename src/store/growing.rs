//! Blobs that are read while they are fetched.
//!
//! The bytes of a blob go into its partial file. A reader follows them up to the first gap, and sees the end
//! only when the blob is committed: whatever it has read then had the right hash.

use std::io::{self, Read, Seek, SeekFrom};
use std::sync::Arc;

use crate::context::PullContext;
use crate::durable::DiskFile;
use crate::error::{Error, ErrorKind};
use crate::image::digest::Digest;
use crate::image::manifest::MAX_DOCUMENT_BYTES;
use crate::store::blob::Blob;
use crate::store::growth::Growth;
use crate::store::handle::Store;
use crate::store::transaction::Transaction;

/// A blob that a transaction fetches, to read from. A read waits for bytes that are not there yet.
pub(crate) struct GrowingBlob {
    store: Store,
    digest: Digest,
    growth: Growth,
    cx: PullContext,
    source: GrowingSource,
    /// Bytes that were read.
    at: u64,
    restarts: u32,
}

/// What a blob is read from.
enum GrowingSource {
    Unknown,
    Partial(Arc<dyn DiskFile>),
    Stored(Blob),
}

/// What a read can do.
enum GrowingStep {
    /// Read from a file, at most so many bytes.
    Read(Arc<dyn DiskFile>, u64),
    OpenStored,
    End,
    Restarted,
}

impl Store {
    /// Opens a blob that the transaction [follows](Transaction::follow). Its reads end with the context,
    /// which must end when the fetch fails.
    ///
    /// # Errors
    /// `NotFound` if the transaction does not follow the blob.
    pub(crate) fn open_growing(
        &self,
        cx: &PullContext,
        transaction: &Transaction,
        digest: &Digest,
    ) -> Result<GrowingBlob, Error> {
        let unknown = || Error::new(ErrorKind::NotFound, format!("{digest} is not being fetched"));
        Ok(GrowingBlob {
            store: self.clone(),
            digest: digest.clone(),
            growth: transaction.growth(digest).ok_or_else(unknown)?,
            cx: cx.clone(),
            source: GrowingSource::Unknown,
            at: 0,
            restarts: 0,
        })
    }

    /// Returns the bytes of a config that the transaction follows, when it is committed.
    ///
    /// # Errors
    /// As of [`open_growing`](Self::open_growing); `DigestMismatch`, `Store`, `Cancelled`, `Timeout`.
    pub(crate) fn growing_document(
        &self,
        cx: &PullContext,
        transaction: &Transaction,
        digest: &Digest,
    ) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let limit = MAX_DOCUMENT_BYTES as u64 + 1;
        self.open_growing(cx, transaction, digest)?
            .take(limit)
            .read_to_end(&mut bytes)
            .map_err(|error| Error::new(ErrorKind::Store, format!("read {digest}")).with_source(error))?;
        if digest.matches(&bytes) {
            return Ok(bytes);
        }
        Err(Error::new(ErrorKind::DigestMismatch, format!("{digest} is not what was read")))
    }
}

impl GrowingBlob {
    /// Returns what a read can do, or waits until it can do something.
    fn step(&self) -> Result<GrowingStep, Error> {
        loop {
            let looked = self.growth.look_or_wait(|state| {
                let file = match &self.source {
                    GrowingSource::Partial(file) => Some(file),
                    _ => state.file.as_ref(),
                };
                match file {
                    _ if state.restarts != self.restarts => Some(GrowingStep::Restarted),
                    Some(file) if state.there > self.at => {
                        Some(GrowingStep::Read(file.clone(), state.there - self.at))
                    }
                    Some(_) if state.is_committed => Some(GrowingStep::End),
                    None if state.is_committed => Some(GrowingStep::OpenStored),
                    _ => None,
                }
            });
            match looked {
                Ok(step) => return Ok(step),
                Err(changed) => self.cx.wait_for(&changed)?,
            };
        }
    }

    /// Opens the blob under its name, which a commit may still wait to give it.
    fn open_stored(&self) -> io::Result<Blob> {
        if let Some(pending) = self.store.0.group_commit.pending(&self.digest) {
            pending.wait_durable(&self.cx).map_err(io::Error::other)?;
        }
        let mut blob = self.store.open_blob(&self.digest).map_err(io::Error::other)?;
        blob.seek(SeekFrom::Start(self.at))?;
        Ok(blob)
    }
}

impl Read for GrowingBlob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if let GrowingSource::Stored(blob) = &mut self.source {
            return blob.read(buffer);
        }
        match self.step().map_err(io::Error::other)? {
            GrowingStep::Read(file, there) => {
                let len = usize::try_from(there).unwrap_or(usize::MAX).min(buffer.len());
                let read = file.read_at(buffer.get_mut(..len).unwrap_or_default(), self.at)?;
                self.at += read as u64;
                self.source = GrowingSource::Partial(file);
                if read == 0 && len > 0 { Err(restarted()) } else { Ok(read) }
            }
            GrowingStep::OpenStored => {
                self.source = GrowingSource::Stored(self.open_stored()?);
                self.read(buffer)
            }
            GrowingStep::End => Ok(0),
            GrowingStep::Restarted => Err(restarted()),
        }
    }
}

fn restarted() -> io::Error {
    io::Error::other(Error::new(ErrorKind::Store, "the blob was fetched again from its first byte"))
}
