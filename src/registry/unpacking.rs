//! Unpacks an image while its blobs are fetched, where the service has a layer store.

use std::fmt::Display;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::thread;

use super::download::{self, BlobOrder, TransferStats};
use super::request::PullSession;
use super::resolve::Resolved;
use crate::context::CancelToken;
use crate::error::{Error, ErrorKind};
use crate::store::Transaction;
use crate::unpack::{GrowingImage, LayerStore};

/// Returns where an image is unpacked, if it is.
pub(super) fn layers_for<'a>(session: &PullSession<'a>, image: &Resolved) -> Option<&'a LayerStore> {
    session.service.layers.as_ref().filter(|_| image.manifest.has_image_config())
}

/// Fetches the blobs of an image, and unpacks them meanwhile. Ignores a failure to unpack: a host may have sent wrong
/// bytes first. [`unpack_stored`] then unpacks the other layers.
pub(super) fn fetch_and_unpack(
    session: &PullSession<'_>,
    stop: &CancelToken,
    transaction: &Transaction,
    resolved: &Resolved,
    layers: &LayerStore,
) -> Result<TransferStats, Error> {
    let manifest = &resolved.manifest;
    let image = GrowingImage::follow(&session.service.store, transaction, manifest, session.cx);
    thread::scope(|scope| {
        let note = |error: &dyn Display| {
            log::debug!("{}: is unpacked after it was fetched: {error}", session.reference);
        };
        let unpack = move || match catch_unwind(AssertUnwindSafe(|| image.into_layers(layers))) {
            Ok(Ok(_)) => {}
            Ok(Err(error)) => note(&error),
            Err(_) => note(&"it panicked"),
        };
        if let Err(error) = thread::Builder::new().name("unpack-0".to_owned()).spawn_scoped(scope, unpack) {
            note(&error);
        }
        let fetch = || download::blobs(session, stop, transaction, manifest, BlobOrder::Listed);
        let fetched = catch_unwind(AssertUnwindSafe(fetch))
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::Panicked, "fetching the blobs panicked")));
        // The other thread would wait for bytes that do not come.
        fetched.inspect_err(|_| stop.cancel())
    })
}

/// Unpacks the layers of a stored image that have no folder yet. Returns the folders of its layers, the top first.
pub(super) fn unpack_stored(
    session: &PullSession<'_>,
    resolved: &Resolved,
    layers: &LayerStore,
) -> Result<Vec<PathBuf>, Error> {
    let store = &session.service.store;
    let key = resolved.manifest_descriptor.digest.as_str();
    let lost = || Error::new(ErrorKind::NotFound, "the image was removed while it was unpacked");
    let image = store.find_with(session.cx, key)?.ok_or_else(lost)?;
    let stack = store.unpack(&image).context(session.cx.clone()).into_layers(layers)?;
    Ok(stack.lower().to_vec())
}
