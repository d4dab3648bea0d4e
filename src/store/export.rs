//! Writing one image as an archive.

use std::collections::HashSet;
use std::io::{self, Read, Write};

use crate::context::PullContext;
use crate::error::{Error, ErrorKind};
use crate::image::digest::Hasher;
use crate::image::manifest::Descriptor;
use crate::store::handle::Store;
use crate::store::index::IndexEntry;
use crate::store::layout::{BLOBS, INDEX, LAYOUT, LAYOUT_TEXT, blob_path};
use crate::store::read::{Blob, StoredImage};
use crate::store::tar;

impl Store {
    /// Writes the image that `key` stands for as an OCI archive: a tar file of an image layout with
    /// this image alone. The same image by the same name makes the same bytes, wherever and whenever.
    /// Every byte is hashed on its way. What was written before an error is no archive.
    ///
    /// # Errors
    /// `NotFound`; `DigestMismatch`, `SizeMismatch` if a blob is damaged; `Cancelled`, `Timeout`;
    /// `Store`, also for what `archive` fails with.
    pub fn export(&self, cx: &PullContext, key: &str, archive: impl Write) -> Result<(), Error> {
        let image = self.find(key)?.ok_or_else(|| {
            Error::new(ErrorKind::NotFound, "the image is not in the store").with_image(key)
        })?;
        let manifest = self.manifest(&image.manifest.digest)?;
        let transaction = self.transaction();
        let mut writer = tar::Writer::new(archive);
        let text = index_of(&image, key);
        let head = [(LAYOUT, LAYOUT_TEXT.as_bytes()), (INDEX, &text)];
        for (path, content) in head {
            writer.file(path, content.len() as u64, content).map_err(not_written)?;
        }
        let blobs: Vec<_> = std::iter::once(&image.manifest).chain(manifest.blobs()).collect();
        write_folders(&mut writer, &blobs).map_err(not_written)?;
        for blob in blobs {
            // Where nothing may be written nothing is removed by us either.
            let _ = self.hold(cx, &transaction, &[&blob.digest]);
            self.export_blob(cx, blob, &mut writer)?;
        }
        writer.finish().map_err(not_written)?;
        self.touch(&image.manifest.digest);
        Ok(())
    }

    fn export_blob(
        &self,
        cx: &PullContext,
        blob: &Descriptor,
        writer: &mut tar::Writer<impl Write>,
    ) -> Result<(), Error> {
        let content = self.open_blob(&blob.digest)?;
        if content.size() != blob.size {
            let text =
                format!("{} is damaged in the store: {} bytes; run `verify`", blob.digest, content.size());
            return Err(Error::new(ErrorKind::SizeMismatch, text));
        }
        let mut hashed = Hashed { content, hasher: Hasher::new(blob.digest.algorithm()), cx };
        writer.file(&blob_path(&blob.digest), blob.size, &mut hashed).map_err(|error| match cx.check() {
            Err(ended) => ended,
            Ok(()) => not_written(error),
        })?;
        if hashed.hasher.finish() == blob.digest {
            return Ok(());
        }
        let text = format!("{} is damaged in the store; run `verify`", blob.digest);
        Err(Error::new(ErrorKind::DigestMismatch, text))
    }
}

/// An index with this image alone, by the name that was asked for, or else by its first.
fn index_of(image: &StoredImage, key: &str) -> Vec<u8> {
    let asked = image.names.iter().find(|name| *name == key);
    let name = asked.or_else(|| image.names.iter().min());
    let entry = IndexEntry::new(name.map(String::as_str), &image.manifest, None, None);
    format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, entry.text()).into_bytes()
}

fn write_folders(writer: &mut tar::Writer<impl Write>, blobs: &[&Descriptor]) -> io::Result<()> {
    writer.folder(BLOBS)?;
    let mut written = HashSet::new();
    for algorithm in blobs.iter().map(|blob| blob.digest.algorithm()) {
        if written.insert(algorithm) {
            writer.folder(&format!("{BLOBS}/{}", algorithm.as_str()))?;
        }
    }
    Ok(())
}

fn not_written(error: io::Error) -> Error {
    Error::new(ErrorKind::Store, format!("cannot write the archive: {error}")).with_source(error)
}

/// A blob that is hashed as it is read, for as long as the context lasts.
struct Hashed<'a> {
    content: Blob,
    hasher: Hasher,
    cx: &'a PullContext,
}

impl Read for Hashed<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.cx.check().map_err(io::Error::other)?;
        let read = self.content.read(buffer)?;
        self.hasher.update(buffer.get(..read).unwrap_or_default());
        Ok(read)
    }
}
