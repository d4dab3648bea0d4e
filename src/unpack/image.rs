//! An image of a store, about to be unpacked.

use std::io::{Read, Write};
use std::path::Path;

use crate::context::PullContext;
use crate::error::{Error, Phase};
use crate::store::{Durability, Store, StoredImage};
use crate::unpack::job::UnpackJob;
use crate::unpack::layers::{LayerStack, LayerStore};
use crate::unpack::run::{Layer, LayerSource};
use crate::unpack::settings::{Devices, Owners, Settings, Unpacked, Xattrs};

impl Store {
    /// Prepares to unpack an image of this store. Nothing happens before one of the `into_…` calls.
    pub fn unpack<'a>(&'a self, image: &'a StoredImage) -> Unpack<'a> {
        Unpack { store: self, image, cx: PullContext::new(), settings: Settings::new(self.durability()) }
    }
}

/// An image that is about to be unpacked.
#[must_use = "nothing is unpacked before one of the `into_…` calls"]
#[derive(Debug)]
pub struct Unpack<'a> {
    store: &'a Store,
    image: &'a StoredImage,
    cx: PullContext,
    settings: Settings,
}

impl Unpack<'_> {
    /// Sets cancellation, deadline and progress. Default: none of them.
    pub fn context(mut self, cx: PullContext) -> Self {
        self.cx = cx;
        self
    }

    /// Sets to whom the files belong. Default: to the image's users for root, else to the caller.
    pub fn owners(mut self, owners: Owners) -> Self {
        self.settings.owners = Some(owners);
        self
    }

    /// Sets what becomes of devices. Default: root creates them, if the kernel allows it; else they are left
    /// out, and counted.
    pub fn devices(mut self, devices: Devices) -> Self {
        self.settings.devices = Some(devices);
        self
    }

    /// Sets which extended attributes are kept. Default: `user.*` and `security.capability`.
    pub fn xattrs(mut self, xattrs: Xattrs) -> Self {
        self.settings.xattrs = Some(xattrs);
        self
    }

    /// Sets how many bytes all layers may have, decompressed, holes of sparse files included, and how many
    /// entries. An image that has more is refused with [`Denied`](crate::ErrorKind::Denied). Default: any number of
    /// bytes, and 4,194,304 entries.
    pub fn limits(mut self, bytes: u64, entries: u64) -> Self {
        (self.settings.max_bytes, self.settings.max_entries) = (bytes, entries);
        self
    }

    /// Sets how many layers are unpacked at the same time, each by one thread and a second one that
    /// decompresses; at least 1. Default: one a processor.
    pub fn threads(mut self, threads: usize) -> Self {
        self.settings.threads = threads;
        self
    }

    /// Sets what the unpacked image outlives. Default: what the store outlives.
    pub fn durability(mut self, durability: Durability) -> Self {
        self.settings.durability = durability;
        self
    }

    /// Flushes each file and folder by itself, instead of the whole file system, which may also wait for
    /// what others have written to it. Default: `false`, but below Linux 5.8, where the latter does
    /// not tell of failed writes.
    pub fn flush_singly(mut self, singly: bool) -> Self {
        self.settings.flushes_singly = singly;
        self
    }

    /// Sets the largest window of a zstd frame, bytes; it is held in memory for each layer that is being
    /// unpacked. At most 128 MiB. Default: 8 MiB, which all levels up to 19 keep to.
    pub fn zstd_window(mut self, bytes: u64) -> Self {
        self.settings.zstd_window = bytes.min(crate::decoders::MAX_ZSTD_WINDOW);
        self
    }

    /// Unpacks all layers into one folder, which must be empty, absent, or left unfinished by an earlier run.
    /// Until it is whole, only its owner can enter it, and the file `.oci-puller-unfinished` is in it.
    ///
    /// # Errors
    /// [`InvalidLayer`](crate::ErrorKind::InvalidLayer) for a layer that breaks a rule;
    /// [`Unsupported`](crate::ErrorKind::Unsupported) for one that is not read here;
    /// [`DigestMismatch`](crate::ErrorKind::DigestMismatch) for one that is not what the config says;
    /// [`InvalidManifest`](crate::ErrorKind::InvalidManifest) if config and manifest have not as many layers;
    /// [`Denied`](crate::ErrorKind::Denied) for more than the [`limits`](Self::limits);
    /// [`InvalidConfig`](crate::ErrorKind::InvalidConfig) if the folder is not empty, or an owner is in no range of
    /// ids; [`DiskFull`](crate::ErrorKind::DiskFull), [`Store`](crate::ErrorKind::Store),
    /// [`ResourceExhausted`](crate::ErrorKind::ResourceExhausted); [`Cancelled`](crate::ErrorKind::Cancelled),
    /// [`Timeout`](crate::ErrorKind::Timeout); [`NotFound`](crate::ErrorKind::NotFound) if a layer is not in the
    /// store.
    pub fn into_dir(self, dir: impl AsRef<Path>) -> Result<Unpacked, Error> {
        self.told(|job| job.fill_dir(dir.as_ref()))
    }

    /// Unpacks each layer into a folder of its own, for overlayfs; layers that are there are used again. The
    /// settings of owners, devices and attributes must be those of the layers that are there.
    ///
    /// # Errors
    /// As of [`into_dir`](Self::into_dir); [`InvalidConfig`](crate::ErrorKind::InvalidConfig) if the layers there
    /// were unpacked with other settings.
    pub fn into_layers(self, layers: &LayerStore) -> Result<LayerStack, Error> {
        let id = self.image.id.clone();
        self.told(|mut job| job.fill_layers(layers, &id))
    }

    /// Writes all layers as one tar of the merged tree: the same bytes each time, whoever writes it, without any
    /// privilege. Names are sorted by the bytes of their paths, folders before what is in them, a hard
    /// link after its target. Owners and devices are the image's unless others are set. What files hold passes
    /// through a temporary file beside the store. A write that blocks in `out` is the caller's.
    ///
    /// # Errors
    /// As of [`into_dir`](Self::into_dir); [`Store`](crate::ErrorKind::Store) if `out` fails.
    pub fn into_tar(self, out: impl Write) -> Result<Unpacked, Error> {
        self.told(|job| job.write_tar(out))
    }

    fn told<T>(self, work: impl FnOnce(UnpackJob<'_>) -> Result<T, Error>) -> Result<T, Error> {
        let name = self.image.names.first().cloned();
        let name = name.unwrap_or_else(|| self.image.manifest.digest.to_string());
        let outcome = self.job().and_then(work);
        outcome.map_err(|error| error.with_image(name).with_phase(Phase::Unpack))
    }

    fn job(&self) -> Result<UnpackJob<'_>, Error> {
        let manifest = self.store.manifest(&self.image.manifest.digest)?;
        let config = self.store.config(&manifest.config.digest)?;
        UnpackJob::new(self.store, self.store, &self.cx, &self.settings, manifest, config)
    }
}

impl LayerSource for Store {
    fn open(&self, layer: &Layer) -> Result<Box<dyn Read + Send>, Error> {
        Ok(Box::new(self.open_blob(&layer.digest)?))
    }
}
