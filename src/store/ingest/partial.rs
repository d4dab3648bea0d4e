//! The file that holds a blob's bytes until they are complete.

use std::io::{self, Read};
use std::sync::Arc;

use super::hash::READ;
use crate::context::PullContext;
use crate::durable::{Disk, DiskFile, Lock, OpenMode};
use crate::error::{Error, ErrorKind};
use crate::image::digest::{Algorithm, Digest, Hasher};
use crate::store::error::refused;
use crate::store::layout::PARTIALS;
use crate::store::{layout, retry_io};

/// A partial, locked.
#[derive(Debug)]
pub(super) struct Partial {
    disk: Arc<dyn Disk>,
    pub(super) path: String,
    pub(super) file: Arc<dyn DiskFile>,
    /// The file's length when it was locked, bytes.
    pub(super) found: u64,
    /// What it took on the disk then, bytes.
    pub(super) allocated: u64,
}

impl Partial {
    /// Opens and locks the partial of `digest`. Returns `None` while another process holds it.
    pub(super) fn lock(
        cx: &PullContext,
        disk: &Arc<dyn Disk>,
        digest: &Digest,
    ) -> Result<Option<Self>, Error> {
        let path = layout::partial_path(digest);
        let failed = |error: io::Error| refused(&error, format!("open {path}"));
        loop {
            let file: Arc<dyn DiskFile> =
                retry_io::for_files(cx, "open a partial download", || open_partial(&**disk, &path))?.into();
            if !file.try_lock(Lock::Exclusive).map_err(failed)? {
                return Ok(None);
            }
            // Between the two steps its last holder may have renamed or removed it.
            match disk.metadata(&path) {
                Ok(there) if there.identity == file.metadata().map_err(failed)?.identity => {
                    let (found, allocated) = (there.len, there.allocated);
                    return Ok(Some(Partial { disk: disk.clone(), path, file, found, allocated }));
                }
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(failed(error)),
                _ => {}
            }
        }
    }

    /// Makes a file for bytes whose digest is not known yet.
    pub(super) fn unnamed(cx: &PullContext, disk: &Arc<dyn Disk>) -> Result<Self, Error> {
        let path = format!("{PARTIALS}/unnamed-{}-{:016x}", std::process::id(), fastrand::u64(..));
        let file = retry_io::for_files(cx, "make a file", || disk.open(&path, OpenMode::Create))?;
        let partial = Partial { disk: disk.clone(), path, file: file.into(), found: 0, allocated: 0 };
        match partial.file.try_lock(Lock::Exclusive) {
            Ok(true) => Ok(partial),
            Ok(false) => Err(Error::new(ErrorKind::Store, format!("{} was taken away", partial.path))),
            Err(error) => Err(partial.failed(&error)),
        }
    }

    /// Writes and hashes all of `content`.
    pub(super) fn fill(&self, cx: &PullContext, content: &mut dyn Read) -> Result<(Hasher, u64), Error> {
        let mut hasher = Hasher::new(Algorithm::Sha256);
        let mut buffer = vec![0; READ];
        let mut offset = 0;
        loop {
            cx.check()?;
            let read = content.read(&mut buffer).map_err(|error| refused(&error, "read what is imported"))?;
            let Some(bytes) = buffer.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
            self.file.write_at(bytes, offset).map_err(|error| self.failed(&error))?;
            hasher.update(bytes);
            offset += read as u64;
        }
        Ok((hasher, offset))
    }

    /// Empties the file.
    pub(super) fn cut(&self) -> Result<(), Error> {
        self.file.set_len(0).map_err(|error| self.failed(&error))
    }

    /// Removes the file, while its lock is still held.
    pub(super) fn discard(self) {
        if let Err(error) = self.disk.unlink(&self.path) {
            log::warn!("{} could not be removed: {error}", self.path);
        }
    }

    fn failed(&self, error: &io::Error) -> Error {
        refused(error, format!("use {}", self.path))
    }
}

/// Opens a partial to continue it. Replaces one that must not be written on: a file that has another
/// name, or belongs to another user, or that is read-only because its writer was killed before it gave
/// it its name.
fn open_partial(disk: &dyn Disk, path: &str) -> io::Result<Box<dyn DiskFile>> {
    loop {
        match disk.open(path, OpenMode::Update) {
            Ok(file) if file.metadata()?.is_ours => return Ok(file),
            Err(error) if error.kind() != io::ErrorKind::PermissionDenied => return Err(error),
            Ok(_) => match disk.metadata(path) {
                Ok(there) if !there.is_ours => disk.unlink(path)?,
                // It was removed or replaced since it was opened.
                _ => {}
            },
            Err(error) => disk.unlink(path).map_err(|_| error)?,
        }
    }
}
