//! Reads blobs. A reader needs no lock: a blob under its digest's name is whole, and never changes.

use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};

use crate::context::PullContext;
use crate::durable::{DiskFile, OpenMode, read_limited};
use crate::error::{Error, ErrorKind};
use crate::image::config::ImageConfig;
use crate::image::digest::Digest;
use crate::image::manifest::{Document, MAX_DOCUMENT_BYTES, Manifest};
use crate::store::error::refused;
use crate::store::handle::Store;
use crate::store::layout::blob_path;
use crate::store::retry_io;

impl Store {
    /// Returns the manifest that has this digest.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound); [`InvalidManifest`](ErrorKind::InvalidManifest),
    /// [`Unsupported`](ErrorKind::Unsupported) if it is not a manifest;
    /// [`DigestMismatch`](ErrorKind::DigestMismatch); [`Store`](ErrorKind::Store).
    pub fn manifest(&self, digest: &Digest) -> Result<Manifest, Error> {
        match Document::parse(None, &self.document(digest)?)? {
            Document::Manifest(manifest) => Ok(manifest),
            Document::Index(_) => {
                Err(Error::new(ErrorKind::InvalidManifest, format!("{digest} is an index of manifests")))
            }
        }
    }

    /// Returns the config that has this digest, which is an image's id.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound); [`InvalidManifest`](ErrorKind::InvalidManifest) if it is not a config;
    /// [`DigestMismatch`](ErrorKind::DigestMismatch); [`Store`](ErrorKind::Store).
    pub fn config(&self, id: &Digest) -> Result<ImageConfig, Error> {
        ImageConfig::parse(&self.document(id)?)
    }

    /// Returns the bytes of a manifest, an index or a config, at most 4 MiB. Compares them with the digest.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound), [`DigestMismatch`](ErrorKind::DigestMismatch), [`Store`](ErrorKind::Store).
    pub fn document(&self, digest: &Digest) -> Result<Vec<u8>, Error> {
        let file = self.open_file(&PullContext::new(), digest)?;
        let bytes = read_limited(&*file, MAX_DOCUMENT_BYTES as u64)
            .map_err(|error| refused(&error, format!("read {digest}")))?;
        if digest.matches(&bytes) {
            return Ok(bytes);
        }
        Err(Error::new(ErrorKind::DigestMismatch, format!("{digest} is damaged in the store; run `verify`")))
    }

    /// Opens a blob to read from. Does not compare it with its digest; [`verify`](Self::verify) does.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound); [`Store`](ErrorKind::Store) if it is not a regular file.
    pub fn open_blob(&self, digest: &Digest) -> Result<Blob, Error> {
        let file = self.open_file(&PullContext::new(), digest)?;
        let len = file.metadata().map_err(|error| refused(&error, format!("open {digest}")))?.len;
        Ok(Blob::new(file, len))
    }

    pub(super) fn open_file(&self, cx: &PullContext, digest: &Digest) -> Result<Box<dyn DiskFile>, Error> {
        let path = blob_path(digest);
        retry_io::for_files(cx, &format!("open {digest}"), || {
            match self.0.disk.open(&path, OpenMode::Read) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Err(missing(&error, digest))),
                outcome => outcome.map(Ok),
            }
        })?
    }
}

pub(super) fn missing(error: &io::Error, digest: &Digest) -> Error {
    match error.kind() {
        io::ErrorKind::NotFound => Error::new(ErrorKind::NotFound, format!("{digest} is not in the store")),
        _ => refused(error, format!("open {digest}")),
    }
}

/// A blob of a store, to read from.
pub struct Blob {
    file: Box<dyn DiskFile>,
    len: u64,
    place: u64,
}

impl Blob {
    pub(super) fn new(file: Box<dyn DiskFile>, len: u64) -> Self {
        Blob { file, len, place: 0 }
    }

    /// Returns the blob's size, bytes.
    pub fn size(&self) -> u64 {
        self.len
    }
}

impl fmt::Debug for Blob {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Blob").field("size", &self.len).field("place", &self.place).finish_non_exhaustive()
    }
}

impl Read for Blob {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read_at(buffer, self.place)?;
        self.place += read as u64;
        Ok(read)
    }
}

impl Seek for Blob {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        let place = match to {
            SeekFrom::Start(place) => Some(place),
            SeekFrom::Current(by) => self.place.checked_add_signed(by),
            SeekFrom::End(by) => self.len.checked_add_signed(by),
        };
        self.place = place.ok_or(io::ErrorKind::InvalidInput)?;
        Ok(self.place)
    }
}
