//! One import under way: puts blobs into the store, and keeps account.

use std::collections::{HashMap, HashSet};
use std::io::{self, Read};

use crate::context::PullContext;
use crate::error::Error;
use crate::image::digest::Digest;
use crate::image::manifest::Descriptor;
use crate::store::handle::Store;
use crate::store::import::error::unreadable;
use crate::store::import::limits::Limits;
use crate::store::import::options::ImportOptions;
use crate::store::ingest::{BeginIngest, READ};
use crate::store::transaction::Transaction;

/// An import under way.
pub(super) struct Import<'a> {
    pub(super) store: &'a Store,
    pub(super) cx: &'a PullContext,
    pub(super) options: &'a ImportOptions,
    pub(super) transaction: Transaction,
    /// Blobs that it put into the store.
    pub(super) brought: HashSet<Digest>,
    pub(super) limits: Limits,
    pub(super) signatures: FoundSignatures,
}

/// The signatures that an import found.
#[derive(Debug, Default)]
pub(super) struct FoundSignatures {
    pub(super) by_subject: HashMap<Digest, Vec<Descriptor>>,
    /// Those whose manifest names no subject, as `cosign save` writes them.
    pub(super) without_subject: Vec<Descriptor>,
    /// The manifests that were read for a subject, and whether they hold signatures.
    pub(super) read: HashMap<(Option<Digest>, Digest), bool>,
    pub(super) bytes: u64,
}

impl Import<'_> {
    /// Brings a blob into the store, unless it is there.
    pub(super) fn copy(&mut self, blob: &Descriptor, content: &mut impl Read) -> Result<(), Error> {
        let cx = self.cx;
        self.store.require_space(blob.size)?;
        let BeginIngest::Fetch(mut ingest) = self.store.begin(cx, &self.transaction, blob)? else {
            return Ok(());
        };
        let outcome = ingest.restart().and_then(|()| {
            let mut buffer = vec![0; usize::try_from(blob.size).unwrap_or(READ).min(READ)];
            loop {
                cx.check()?;
                let read = content.read(&mut buffer).map_err(|error| unreadable(cx, error))?;
                match buffer.get(..read) {
                    None | Some([]) => return Ok(()),
                    Some(bytes) => ingest.write(bytes)?,
                }
            }
        });
        match outcome {
            Ok(()) => {
                self.brought.insert(blob.digest.clone());
                ingest.commit()
            }
            Err(error) => {
                ingest.discard();
                Err(error)
            }
        }
    }

    pub(super) fn copy_unnamed(&mut self, size: u64, content: &mut impl Read) -> Result<Digest, Error> {
        self.store.require_space(size)?;
        let mut content = FailureWatch { content, failed: None };
        let put = self.store.put_computing_digest(self.cx, &self.transaction, &mut content);
        let (digest, _) = put.map_err(|error| match content.failed {
            Some(failed) => unreadable(self.cx, failed),
            None => error,
        })?;
        self.brought.insert(digest.clone());
        Ok(digest)
    }

    /// Returns whether the blob is in the store; from now on the import counts on it.
    pub(super) fn is_there(&self, blob: &Descriptor) -> Result<bool, Error> {
        self.cx.check()?;
        // Not to make a partial for each blob that is missing.
        if !self.store.is_there(&blob.digest) && self.store.0.group_commit.pending(&blob.digest).is_none() {
            return Ok(false);
        }
        match self.store.begin(self.cx, &self.transaction, blob)? {
            BeginIngest::Present => Ok(true),
            BeginIngest::Fetch(ingest) => {
                ingest.discard();
                Ok(false)
            }
        }
    }
}

/// Keeps what a read failed with.
struct FailureWatch<R> {
    content: R,
    failed: Option<io::Error>,
}

impl<R: Read> Read for FailureWatch<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.content.read(buffer).map_err(|error| {
            let shown = io::Error::new(error.kind(), error.to_string());
            self.failed = Some(error);
            shown
        })
    }
}
