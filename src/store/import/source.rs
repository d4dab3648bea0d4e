//! Where the images of an import come from: an archive whose blobs are in the store by now, or the folder
//! of another layout.

use std::io;

use crate::durable::{Disk, FileType, OpenMode, RealDisk, read_limited};
use crate::error::{Error, ErrorKind};
use crate::image::digest::Digest;
use crate::image::manifest::{Descriptor, MAX_DOCUMENT_BYTES};
use crate::store::blob::Blob;
use crate::store::error::refused;
use crate::store::import::error::lacking;
use crate::store::import::session::Import;
use crate::store::layout::{self, blob_path};

/// Holds blobs that an import may take.
pub(super) trait ImportSource {
    /// Returns whether the blob is there, or in the store already.
    ///
    /// # Errors
    /// `SizeMismatch` if it is of another size than the descriptor says; `Store`.
    fn has(&self, import: &Import<'_>, blob: &Descriptor) -> Result<bool, Error>;

    /// Returns the bytes of a manifest, an index or a config; `None` if it is not there.
    ///
    /// # Errors
    /// `DigestMismatch`; `Store`.
    fn document(&self, import: &Import<'_>, blob: &Descriptor) -> Result<Option<Vec<u8>>, Error>;

    /// Returns the size in bytes of a blob that is there.
    fn size_of(&self, import: &Import<'_>, digest: &Digest) -> Option<u64>;

    /// Puts the blob into the store.
    ///
    /// # Errors
    /// As of a pull.
    fn bring(&self, import: &mut Import<'_>, blob: &Descriptor) -> Result<(), Error>;
}

/// An archive, all of whose files have become blobs of the store.
pub(super) struct ArchiveBlobs;

impl ImportSource for ArchiveBlobs {
    fn has(&self, import: &Import<'_>, blob: &Descriptor) -> Result<bool, Error> {
        import.is_there(blob)
    }

    fn document(&self, import: &Import<'_>, blob: &Descriptor) -> Result<Option<Vec<u8>>, Error> {
        match import.is_there(blob)? {
            true => import.store.document(&blob.digest).map(Some),
            false => Ok(None),
        }
    }

    fn size_of(&self, import: &Import<'_>, digest: &Digest) -> Option<u64> {
        import.store.0.disk.metadata(&blob_path(digest)).ok().map(|found| found.len)
    }

    fn bring(&self, import: &mut Import<'_>, blob: &Descriptor) -> Result<(), Error> {
        if import.is_there(blob)? { Ok(()) } else { Err(lacking(&blob.digest)) }
    }
}

/// Another image layout.
pub(super) struct LayoutFolder(pub(super) RealDisk);

impl LayoutFolder {
    /// Returns whether the blob is in the folder.
    fn holds(&self, blob: &Descriptor) -> Result<bool, Error> {
        match self.0.metadata(&blob_path(&blob.digest)) {
            Ok(found) if found.kind == FileType::File && found.len == blob.size => Ok(true),
            Ok(found) if found.kind == FileType::File => {
                let text = format!("{} is {} bytes, not {}", blob.digest, found.len, blob.size);
                Err(Error::new(ErrorKind::SizeMismatch, text))
            }
            Ok(_) => {
                let text = format!("{} is no regular file in the layout", blob.digest);
                Err(Error::new(ErrorKind::InvalidManifest, text))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(refused(&error, format!("look for {}", blob.digest))),
        }
    }
}

impl ImportSource for LayoutFolder {
    fn has(&self, import: &Import<'_>, blob: &Descriptor) -> Result<bool, Error> {
        Ok(self.holds(blob)? || import.is_there(blob)?)
    }

    fn document(&self, import: &Import<'_>, blob: &Descriptor) -> Result<Option<Vec<u8>>, Error> {
        if !self.holds(blob)? {
            return ArchiveBlobs.document(import, blob);
        }
        let path = layout::blob_path(&blob.digest);
        let read = self
            .0
            .open(&path, OpenMode::Read)
            .and_then(|file| read_limited(&*file, MAX_DOCUMENT_BYTES as u64));
        let bytes = read.map_err(|error| refused(&error, format!("read {path}")))?;
        match blob.digest.matches(&bytes) {
            true => Ok(Some(bytes)),
            false => {
                let text = format!("the bytes of {path} do not hash to its name");
                Err(Error::new(ErrorKind::DigestMismatch, text))
            }
        }
    }

    fn size_of(&self, import: &Import<'_>, digest: &Digest) -> Option<u64> {
        let found = self.0.metadata(&blob_path(digest)).ok().filter(|found| found.kind == FileType::File);
        found.map(|found| found.len).or_else(|| ArchiveBlobs.size_of(import, digest))
    }

    fn bring(&self, import: &mut Import<'_>, blob: &Descriptor) -> Result<(), Error> {
        if !self.holds(blob)? {
            return ArchiveBlobs.bring(import, blob);
        }
        let path = layout::blob_path(&blob.digest);
        let file =
            self.0.open(&path, OpenMode::Read).map_err(|error| refused(&error, format!("read {path}")))?;
        import.copy(blob, &mut Blob::new(file, blob.size))
    }
}
