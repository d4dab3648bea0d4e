//! Unpacks an image while its blobs are fetched.

use std::io::Read;

use crate::context::PullContext;
use crate::error::Error;
use crate::image::config::ImageConfig;
use crate::image::manifest::Manifest;
use crate::store::{Store, Transaction};
use crate::unpack::job::UnpackJob;
use crate::unpack::layers::{LayerStack, LayerStore};
use crate::unpack::run::{Layer, LayerSource};
use crate::unpack::settings::Settings;

/// An image whose blobs a transaction fetches.
pub(crate) struct GrowingImage<'a> {
    store: &'a Store,
    transaction: &'a Transaction,
    manifest: &'a Manifest,
    cx: &'a PullContext,
}

impl<'a> GrowingImage<'a> {
    /// Follows the blobs, which are not fetched yet.
    pub(crate) fn follow(
        store: &'a Store,
        transaction: &'a Transaction,
        manifest: &'a Manifest,
        cx: &'a PullContext,
    ) -> Self {
        transaction.follow(manifest.blobs());
        GrowingImage { store, transaction, manifest, cx }
    }

    /// Unpacks each layer as its bytes arrive. A layer gets its name when its blob is committed.
    ///
    /// # Errors
    /// As of [`Unpack::into_layers`](crate::unpack::Unpack::into_layers); `Store` if a blob was fetched again
    /// from its first byte.
    pub(crate) fn into_layers(self, layers: &LayerStore) -> Result<LayerStack, Error> {
        let id = &self.manifest.config.digest;
        let config = ImageConfig::parse(&self.store.growing_document(self.cx, self.transaction, id)?)?;
        let settings = Settings::new(self.store.durability());
        let manifest = self.manifest.clone();
        UnpackJob::new(self.store, &self, self.cx, &settings, manifest, config)?.fill_layers(layers, id)
    }
}

impl LayerSource for GrowingImage<'_> {
    fn open(&self, layer: &Layer) -> Result<Box<dyn Read + Send>, Error> {
        Ok(Box::new(self.store.open_growing(self.cx, self.transaction, &layer.digest)?))
    }
}
