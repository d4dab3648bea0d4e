//! An image of a store, about to be unpacked.

use std::io::{Read, Write};
use std::path::Path;
use std::sync::Arc;

use crate::context::PullContext;
use crate::error::{Error, ErrorKind, Phase};
use crate::image::digest::Digest;
use crate::image::manifest::Descriptor;
use crate::store::{Durability, Store, StoredImage};
use crate::unpack::dir::DirOutput;
use crate::unpack::fault::UnpackFault;
use crate::unpack::flush::Flusher;
use crate::unpack::layers::{LayerStack, LayerStore, LayersOutput, chain};
use crate::unpack::merge::Merge;
use crate::unpack::output::Output;
use crate::unpack::rules::Rules;
use crate::unpack::run::{Layer, LayerSource, Load, Run, Totals};
use crate::unpack::settings::{Devices, LeftOut, Owners, Settings, Unpacked, Xattrs};
use crate::unpack::spool::TarOutput;

/// How many entries an image may have by default.
const MAX_ENTRIES: u64 = 4 << 20;

impl Store {
    /// Prepares to unpack an image of this store. Nothing happens before one of the `into_…` calls.
    pub fn unpack<'a>(&'a self, image: &'a StoredImage) -> Unpack<'a> {
        Unpack {
            store: self,
            image,
            cx: PullContext::new(),
            settings: Settings {
                owners: None,
                devices: None,
                xattrs: None,
                max_bytes: u64::MAX,
                max_entries: MAX_ENTRIES,
                zstd_window: crate::decoders::DEFAULT_ZSTD_WINDOW,
                threads: std::thread::available_parallelism().map_or(1, Into::into),
                durability: self.durability(),
                flushes_singly: false,
            },
        }
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
    /// entries. An image that has more is refused with [`ErrorKind::Denied`]. Default: any number of
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
    /// `InvalidLayer` for a layer that breaks a rule; `Unsupported` for one that is not read here;
    /// `DigestMismatch` for one that is not what the config says; `InvalidManifest` if config and manifest have
    /// not as many layers; `Denied` for more than the [`limits`](Self::limits); `InvalidConfig` if the folder
    /// is not empty, or an owner is in no range of ids; `DiskFull`, `Store`, `ResourceExhausted`; `Cancelled`,
    /// `Timeout`; `NotFound` if a layer is not in the store.
    pub fn into_dir(self, dir: impl AsRef<Path>) -> Result<Unpacked, Error> {
        self.told(|job| job.fill_dir(dir.as_ref()))
    }

    /// Unpacks each layer into a folder of its own, for overlayfs; layers that are there are used again. The
    /// settings of owners, devices and attributes must be those of the layers that are there.
    ///
    /// # Errors
    /// As of [`into_dir`](Self::into_dir); `InvalidConfig` if the layers there were unpacked with other settings.
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
    /// As of [`into_dir`](Self::into_dir); `Store` if `out` fails.
    pub fn into_tar(self, out: impl Write) -> Result<Unpacked, Error> {
        self.told(|job| job.write_tar(out))
    }

    fn told<T>(self, work: impl FnOnce(UnpackJob<'_>) -> Result<T, Error>) -> Result<T, Error> {
        let name = self.image.names.first().cloned();
        let name = name.unwrap_or_else(|| self.image.manifest.digest.to_string());
        let outcome = UnpackJob::new(&self).and_then(work);
        outcome.map_err(|error| error.with_image(name).with_phase(Phase::Unpack))
    }
}

/// An image's layers, and how to unpack them.
struct UnpackJob<'a> {
    store: &'a Store,
    cx: &'a PullContext,
    settings: &'a Settings,
    layers: Vec<Layer>,
}

impl<'a> UnpackJob<'a> {
    fn new(unpack: &'a Unpack<'_>) -> Result<Self, Error> {
        let store = unpack.store;
        let manifest = store.manifest(&unpack.image.manifest.digest)?;
        let diff_ids = store.config(&manifest.config.digest)?.diff_ids;
        if diff_ids.len() != manifest.layers.len() {
            let text = format!(
                "the manifest lists {} layers, and the config {} diff_ids",
                manifest.layers.len(),
                diff_ids.len()
            );
            return Err(Error::new(ErrorKind::InvalidManifest, text));
        }
        manifest.layers.iter().enumerate().try_for_each(|(at, layer)| check_type(at, layer))?;
        let layers = manifest.layers.into_iter().zip(diff_ids);
        let layers = layers.map(|(layer, diff_id)| Layer { digest: layer.digest, diff_id, is_there: false });
        Ok(UnpackJob { store, cx: &unpack.cx, settings: &unpack.settings, layers: layers.collect() })
    }

    fn fill_dir(&self, dir: &Path) -> Result<Unpacked, Error> {
        let rules = self.rules();
        let output = Arc::new(DirOutput::open(dir, rules.clone(), self.flusher())?);
        let (merge, totals) =
            self.run(output.clone(), self.settings.xattrs.unwrap_or_default(), &|_, _| Ok(()))?;
        output.finish(&merge.view())?;
        Ok(unpacked(&totals, rules.left_out()))
    }

    fn fill_layers(&mut self, layers: &LayerStore, id: &Digest) -> Result<LayerStack, Error> {
        let diff_ids: Vec<Digest> = self.layers.iter().map(|layer| layer.diff_id.clone()).collect();
        let output = Arc::new(LayersOutput::open(layers, chain(&diff_ids), self.settings, self.cx)?);
        for (at, layer) in self.layers.iter_mut().enumerate() {
            layer.is_there = output.has(at);
        }
        if self.layers.iter().any(|layer| !layer.is_there) {
            let load = |merge: &mut Merge<LayersOutput>, layer| output.load(merge, layer);
            self.run(output.clone(), output.xattrs(), &load)?;
        }
        output.finish(id)
    }

    fn write_tar(&self, out: impl Write) -> Result<Unpacked, Error> {
        let owners = match &self.settings.owners {
            Some(owners @ (Owners::Current | Owners::Mapped(_))) => owners.clone(),
            _ => Owners::AsImage,
        };
        let devices = self.settings.devices.unwrap_or(Devices::Create);
        let rules = Arc::new(Rules::new(Some(owners), Some(devices)));
        let at_tar = |fault: UnpackFault| fault.at("the tar", None);
        let output = Arc::new(TarOutput::new(self.store.dir(), rules.clone()).map_err(at_tar)?);
        let xattrs = self.settings.xattrs.unwrap_or_default();
        let (merge, totals) = self.run(output.clone(), xattrs, &|_, _| Ok(()))?;
        output.write(&merge.view(), self.cx, out).map_err(at_tar)?;
        Ok(unpacked(&totals, rules.left_out()))
    }

    fn rules(&self) -> Arc<Rules> {
        Arc::new(Rules::new(self.settings.owners.clone(), self.settings.devices))
    }

    fn flusher(&self) -> Flusher {
        Flusher::new(self.settings.durability, self.settings.flushes_singly, self.cx)
    }

    fn run<O: Output>(
        &self,
        output: Arc<O>,
        xattrs: Xattrs,
        load: &Load<'_, O>,
    ) -> Result<(Merge<O>, Totals), Error> {
        let totals = Totals::default();
        let run = Run {
            layers: &self.layers,
            source: self.store,
            output,
            load,
            settings: self.settings,
            xattrs,
            cx: self.cx,
            totals: &totals,
        };
        Ok((run.run()?, totals))
    }
}

impl LayerSource for Store {
    fn open(&self, layer: &Layer) -> Result<Box<dyn Read + Send>, Error> {
        Ok(Box::new(self.open_blob(&layer.digest)?))
    }
}

/// Refuses a layer that is no tar by its media type. How it is compressed is read from its bytes.
fn check_type(at: usize, layer: &Descriptor) -> Result<(), Error> {
    let kind = layer.media_type.as_str();
    let is_tar =
        kind.rsplit_once(".tar").or_else(|| kind.rsplit_once("/tar")).or_else(|| kind.rsplit_once("/x-tar"));
    match is_tar {
        Some((_, "" | "+gzip" | "+zstd" | ".gzip" | ".zstd")) => Ok(()),
        _ => {
            let text = format!(
                "layer {} ({}) is no tar, but {}: this image has no file system",
                at + 1,
                layer.digest,
                crate::image::quoted(kind)
            );
            Err(Error::new(ErrorKind::Unsupported, text))
        }
    }
}

fn unpacked(totals: &Totals, left_out: LeftOut) -> Unpacked {
    use std::sync::atomic::Ordering;
    Unpacked {
        entries: totals.entries.load(Ordering::Relaxed),
        files: totals.files.load(Ordering::Relaxed),
        bytes: totals.bytes.load(Ordering::Relaxed),
        left_out,
    }
}
