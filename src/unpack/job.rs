//! The work on one image: its layers, where they come from, and what they are unpacked into.

use std::io::Write;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use crate::context::PullContext;
use crate::error::{Error, ErrorKind};
use crate::image::config::ImageConfig;
use crate::image::digest::Digest;
use crate::image::manifest::{Descriptor, Manifest};
use crate::store::Store;
use crate::unpack::dir_output::DirOutput;
use crate::unpack::fault::UnpackFault;
use crate::unpack::flush::Flusher;
use crate::unpack::layers::{LayerStack, LayerStore, LayersOutput, chain};
use crate::unpack::merge::Merge;
use crate::unpack::output::Output;
use crate::unpack::rules::Rules;
use crate::unpack::run::{Layer, LayerSource, Load, Run, Totals};
use crate::unpack::settings::{Devices, LeftOut, Owners, Settings, Unpacked, Xattrs};
use crate::unpack::tar_output::TarOutput;

/// An image's layers, and how to unpack them.
pub(super) struct UnpackJob<'a> {
    store: &'a Store,
    source: &'a dyn LayerSource,
    cx: &'a PullContext,
    settings: &'a Settings,
    layers: Vec<Layer>,
}

impl<'a> UnpackJob<'a> {
    /// Prepares to unpack the image of a manifest and a config, whose layers `source` has.
    ///
    /// # Errors
    /// `InvalidManifest` if they have not as many layers; `Unsupported` for a layer that is no tar.
    pub(super) fn new(
        store: &'a Store,
        source: &'a dyn LayerSource,
        cx: &'a PullContext,
        settings: &'a Settings,
        manifest: Manifest,
        config: ImageConfig,
    ) -> Result<Self, Error> {
        let (layers, diff_ids) = (manifest.layers, config.diff_ids);
        if diff_ids.len() != layers.len() {
            let (layers, diff_ids) = (layers.len(), diff_ids.len());
            let text = format!("the manifest lists {layers} layers, and the config {diff_ids} diff_ids");
            return Err(Error::new(ErrorKind::InvalidManifest, text));
        }
        layers.iter().enumerate().try_for_each(|(at, layer)| check_type(at, layer))?;
        let layers = layers.into_iter().zip(diff_ids);
        let layers = layers.map(|(layer, diff_id)| Layer { digest: layer.digest, diff_id, is_there: false });
        Ok(UnpackJob { store, source, cx, settings, layers: layers.collect() })
    }

    pub(super) fn fill_dir(&self, dir: &Path) -> Result<Unpacked, Error> {
        let rules = self.rules();
        let output = Arc::new(DirOutput::open(dir, rules.clone(), self.flusher())?);
        let (merge, totals) =
            self.run(output.clone(), self.settings.xattrs.unwrap_or_default(), &|_, _| Ok(()))?;
        output.finish(&merge.view())?;
        Ok(unpacked(&totals, rules.left_out()))
    }

    pub(super) fn fill_layers(&mut self, layers: &LayerStore, id: &Digest) -> Result<LayerStack, Error> {
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

    pub(super) fn write_tar(&self, out: impl Write) -> Result<Unpacked, Error> {
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
            source: self.source,
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
    Unpacked {
        entries: totals.entries.load(Ordering::Relaxed),
        files: totals.files.load(Ordering::Relaxed),
        bytes: totals.bytes.load(Ordering::Relaxed),
        left_out,
    }
}
