//! What stands under a blob's name, and the lock on its partial.

use std::io;

use super::hash::hash_file;
use super::partial::Partial;
use crate::context::PullContext;
use crate::durable::Metadata;
use crate::error::{Error, ErrorKind};
use crate::image::digest::{Digest, Hasher};
use crate::image::manifest::Descriptor;
use crate::store::error::refused;
use crate::store::handle::Store;
use crate::store::{layout, lease, retry_io};

impl Store {
    /// Locks the file that the blob is to gather in, as soon as no other process holds it; or answers
    /// what stands under the blob's name by then.
    pub(super) fn lock_partial(
        &self,
        cx: &PullContext,
        blob: &Descriptor,
    ) -> Result<Result<Partial, Metadata>, Error> {
        let mut pauses = retry_io::Pauses::new();
        let path = layout::partial_path(&blob.digest);
        let mut last_growth = None;
        loop {
            let Some(partial) = Partial::lock(cx, &self.0.disk, &blob.digest)? else {
                let written = self.0.disk.metadata(&path).ok().map(|now| (now.len, now.modified));
                if written != last_growth {
                    last_growth = written;
                    pauses.restart_limit();
                }
                pauses.wait_for_lock(cx, &path, || lease::holder_of(&*self.0.disk, &blob.digest))?;
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

    /// What stands under the blob's name, if it has the size it should have. What has not, and does
    /// not hash to its name either, is moved aside.
    pub(crate) fn has(&self, cx: &PullContext, blob: &Descriptor) -> Result<Option<Metadata>, Error> {
        let path = layout::blob_path(&blob.digest);
        let look = || layout::regular_file(&*self.0.disk, &path);
        match retry_io::for_files(cx, &format!("look for {path}"), look)? {
            None => Ok(None),
            Some(found) if found.len == blob.size => Ok(Some(found)),
            // The descriptor may be what lies: a good blob of other images must not go for that.
            Some(_) if self.is_sound(cx, &blob.digest)? => Err(size_conflict(blob)),
            Some(_) => self.move_aside(&blob.digest).map(|()| None),
        }
    }

    /// Whether the blob's bytes hash to its name.
    pub(in crate::store) fn is_sound(&self, cx: &PullContext, digest: &Digest) -> Result<bool, Error> {
        let file = self.open_file(cx, digest)?;
        let mut hasher = Hasher::new(digest.algorithm());
        hash_file(cx, &*file, u64::MAX, &mut hasher, &format!("read {digest}"))?;
        Ok(hasher.finish() == *digest)
    }

    /// Takes what stands under the digest's name away from there.
    pub(in crate::store) fn move_aside(&self, digest: &Digest) -> Result<(), Error> {
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
pub(super) fn size_conflict(blob: &Descriptor) -> Error {
    let text = format!("{} is in the store, and not {} bytes", blob.digest, blob.size);
    Error::new(ErrorKind::SizeMismatch, text)
}
