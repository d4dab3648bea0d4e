//! The files of an image: its documents, and where its layers are.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::PathBuf;

use rustix::fs::OFlags;

use crate::error::{Error, ErrorKind};
use crate::image::config::ImageConfig;
use crate::image::manifest::{Descriptor, Manifest};
use crate::store::blob::missing;
use crate::store::handle::Store;
use crate::store::layout::blob_path;
use crate::store::lookup::StoredImage;

/// An image in a store, with its documents and the files of its layers.
#[derive(Clone, Debug)]
#[non_exhaustive]
pub struct ImageFiles {
    /// What the store knows of the image.
    pub image: StoredImage,
    /// The manifest.
    pub manifest: Manifest,
    /// The config; `None` where it is no image config.
    pub config: Option<ImageConfig>,
    layers: Vec<BlobFile>,
}

/// A blob as a file.
#[derive(Clone, Debug, PartialEq)]
#[non_exhaustive]
pub struct BlobFile {
    /// The blob: media type, digest, size.
    pub descriptor: Descriptor,
    /// The file. Its content never changes; it must not be written to. It may be removed when no image needs it and
    /// the store is pruned.
    pub path: PathBuf,
}

impl Store {
    /// Returns the image that `key` stands for, with its manifest, its config and the files of its layers. The key is a
    /// name, the digest of a manifest, or an id, like the [`image_ref`](crate::PulledImage::image_ref) of a pull.
    ///
    /// ```no_run
    /// # let service = oci_puller::RegistryImageService::builder("/var/lib/images").build()?;
    /// let pulled = service.pull("alpine:3.22")?;
    /// let files = service.store().image(pulled.image_ref.as_str())?;
    /// for layer in files.layers() {
    ///     println!("{}: {}", layer.descriptor.digest, layer.path.display());
    /// }
    /// # Ok::<(), oci_puller::Error>(())
    /// ```
    ///
    /// # Errors
    /// `NotFound`; `InvalidManifest` and `DigestMismatch` if a document is damaged; `Store`.
    pub fn image(&self, key: &str) -> Result<ImageFiles, Error> {
        let absent = || Error::new(ErrorKind::NotFound, "it is not in the store").with_image(key);
        let image = self.find(key)?.ok_or_else(absent)?;
        let manifest = self.manifest(&image.manifest.digest)?;
        let config = manifest.has_image_config().then(|| self.config(&manifest.config.digest)).transpose()?;
        let layers = manifest.layers.iter().map(|layer| self.blob_file(layer)).collect();
        Ok(ImageFiles { image, manifest, config, layers })
    }

    fn blob_file(&self, descriptor: &Descriptor) -> BlobFile {
        BlobFile { descriptor: descriptor.clone(), path: self.dir().join(blob_path(&descriptor.digest)) }
    }
}

impl ImageFiles {
    /// Returns the layers, the base first; one that is repeated stands at each of its places.
    pub fn layers(&self) -> &[BlobFile] {
        &self.layers
    }
}

impl BlobFile {
    /// Opens the file to read. Its descriptor ([`AsFd`](std::os::fd::AsFd)) serves `splice`, `mmap` or another
    /// process. The content is not hashed again; [`verify`](Store::verify) does that.
    ///
    /// # Errors
    /// `NotFound`; `Store` if it is no regular file, or has another size.
    pub fn open(&self) -> Result<File, Error> {
        let digest = &self.descriptor.digest;
        // A FIFO must not hold the caller up.
        let flags = (OFlags::NOFOLLOW | OFlags::NONBLOCK).bits().cast_signed();
        let opened = OpenOptions::new().read(true).custom_flags(flags).open(&self.path);
        let file = opened.map_err(|error| missing(&error, digest))?;
        let metadata = file.metadata().map_err(|error| missing(&error, digest))?;
        if !metadata.is_file() || metadata.len() != self.descriptor.size {
            let message = format!("{} is not the file of {digest}", self.path.display());
            return Err(Error::new(ErrorKind::Store, message));
        }
        Ok(file)
    }
}
