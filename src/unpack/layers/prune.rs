//! Removes layers that no image has.

use std::collections::HashSet;

use rustix::fs::AtFlags;

use crate::context::PullContext;
use crate::error::Error;
use crate::image::digest::Digest;
use crate::store::Store;
use crate::unpack::beneath;
use crate::unpack::layers::handle::{IMAGES, LayerStore, TMP, image_path, is_older};
use crate::unpack::layers::lease::{in_use, wait_for_lock};
use crate::unpack::remove;

impl LayerStore {
    /// Removes the layers that no image of `store` has, no [`LayerStack`](crate::unpack::LayerStack) uses, in this
    /// process or another, and that were last used longer ago than
    /// [`min_age`](crate::unpack::LayerStoreBuilder::min_age). Returns how many.
    ///
    /// # Errors
    /// [`Store`](crate::ErrorKind::Store); [`ResourceExhausted`](crate::ErrorKind::ResourceExhausted) if another
    /// process locks the layer store for a minute.
    pub fn prune(&self, store: &Store) -> Result<usize, Error> {
        let mut used = HashSet::new();
        let mut listed = HashSet::new();
        for image in store.images()? {
            listed.insert(image_path(&image.id));
            let Ok(config) = store.config(&image.id) else { continue };
            used.extend(chain(&config.diff_ids));
        }
        let taken = self.take_away(&used, &listed)?;
        // Their names are gone: what a failure leaves of them is swept later.
        let tmp = beneath::open(&self.0.root, TMP.as_bytes(), beneath::DIR)
            .map_err(|error| self.0.failed("remove layers", &error.into()))?;
        for name in &taken {
            remove::remove(&tmp, name.as_bytes())
                .map_err(|error| self.0.failed("remove a layer", &error.into()))?;
        }
        Ok(taken.len())
    }

    /// Takes the names of layers away, with the lock held; returns the names that they have then.
    fn take_away(&self, used: &HashSet<String>, listed: &HashSet<String>) -> Result<Vec<String>, Error> {
        let failed = |error: std::io::Error| self.0.failed("remove layers", &error);
        let _alone = wait_for_lock(&self.0, &PullContext::new(), true)?;
        let in_use = in_use(&self.0).map_err(failed)?;
        let mut taken = Vec::new();
        for name in remove::names_in(&self.0.root).map_err(|error| failed(error.into()))? {
            let Some(name) = String::from_utf8(name).ok().filter(|name| is_layer(name)) else { continue };
            if used.contains(&name)
                || in_use.contains(&name)
                || !is_older(&self.0.root, &name, self.0.min_age)
            {
                continue;
            }
            let own = self.0.own_name();
            rustix::fs::renameat(&self.0.root, &*name, &self.0.root, format!("{TMP}/{own}"))
                .map_err(|error| failed(error.into()))?;
            taken.push(own);
        }
        let images = beneath::open(&self.0.root, IMAGES.as_bytes(), beneath::DIR);
        let images = images.map_err(|error| failed(error.into()))?;
        for name in remove::names_in(&images).map_err(|error| failed(error.into()))? {
            let path = format!("{IMAGES}/{}", String::from_utf8_lossy(&name));
            if !listed.contains(&path) && is_older(&self.0.root, &path, self.0.min_age) {
                let _ = rustix::fs::unlinkat(&self.0.root, &*path, AtFlags::empty());
            }
        }
        Ok(taken)
    }
}

/// Whether a name in the store is that of a layer.
pub(super) fn is_layer(name: &str) -> bool {
    matches!(name.len(), 64 | 128) && name.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// The [chain ids](https://github.com/opencontainers/image-spec/blob/v1.1.1/config.md#layer-chainid) of layers,
/// in hex, the base first.
pub(crate) fn chain(diff_ids: &[Digest]) -> Vec<String> {
    let mut chain: Vec<Digest> = Vec::with_capacity(diff_ids.len());
    for diff_id in diff_ids {
        chain.push(match chain.last() {
            None => diff_id.clone(),
            Some(below) => Digest::sha256(format!("{below} {diff_id}").as_bytes()),
        });
    }
    chain.iter().map(|id| id.hex().to_owned()).collect()
}
