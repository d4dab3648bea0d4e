//! The layers of one image, for a mount.

use std::fmt;
use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};

use rustix::fs::{AtFlags, OFlags, Timespec, Timestamps};

use crate::context::PullContext;
use crate::error::Error;
use crate::image::digest::Digest;
use crate::store::StoredImage;
use crate::unpack::beneath;
use crate::unpack::layers::handle::{ENTRIES, FS, LayerStore, image_path};
use crate::unpack::layers::lease::Lease;
use crate::unpack::record;

/// The longest value of the mount option `lowerdir`, bytes: all options are one page.
const MAX_LOWERDIR: usize = 4095;

/// The layers of an image, for overlayfs. Keeps them from being pruned while it lives.
pub struct LayerStack {
    root: PathBuf,
    /// The names of the folders, below the root, top first.
    names: Vec<String>,
    lower: Vec<PathBuf>,
    mount_options: &'static str,
    _lease: Lease,
}

impl LayerStack {
    /// The stack of these layers, the base first, which are all there.
    pub(super) fn new(store: &LayerStore, chain: &[String], lease: Lease) -> Result<Self, Error> {
        let mut names = Vec::new();
        for layer in chain.iter().rev() {
            names.push(format!("{layer}/{FS}"));
            store.note_use(layer);
            if is_cut(store, layer)? {
                break;
            }
        }
        let is_user = store.0.settings.lock().as_ref().is_some_and(|known| known.opaque.starts_with("user."));
        Ok(LayerStack {
            root: store.0.path.clone(),
            lower: names.iter().map(|name| store.0.path.join(name)).collect(),
            names,
            mount_options: if is_user { "userxattr" } else { "" },
            _lease: lease,
        })
    }

    /// The layers' folders, top first. A single one is mounted, or used, as it is.
    pub fn lower(&self) -> &[PathBuf] {
        &self.lower
    }

    /// The folder of the layer store.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// The mount option `lowerdir=…`, relative to [`root`](Self::root), at most 4,095 bytes; `None` if there
    /// are more layers than that has room for, which are mounted by `fsconfig(2)` with `lowerdir+`.
    pub fn lowerdir(&self) -> Option<String> {
        let option = format!("lowerdir={}", self.names.join(":"));
        (option.len() <= MAX_LOWERDIR).then_some(option)
    }

    /// Further options that the mount needs: `userxattr` if opaque folders are marked for unprivileged mounts,
    /// else nothing.
    pub fn mount_options(&self) -> &str {
        self.mount_options
    }
}

impl LayerStore {
    /// Finds the layers of an image that was unpacked into this store; `None` if one of them is not there.
    ///
    /// # Errors
    /// [`Store`](crate::ErrorKind::Store), [`ResourceExhausted`](crate::ErrorKind::ResourceExhausted).
    pub fn find(&self, image: &StoredImage) -> Result<Option<LayerStack>, Error> {
        let Some(chain) = self.chain_of(&image.id)? else { return Ok(None) };
        let lease = Lease::take(&self.0, &PullContext::new(), &chain)?;
        match chain.iter().all(|layer| self.has(layer)) {
            true => LayerStack::new(self, &chain, lease).map(Some),
            false => Ok(None),
        }
    }

    /// The chain ids of an image's layers, in hex, the base first, as they were noted.
    pub(super) fn chain_of(&self, id: &Digest) -> Result<Option<Vec<String>>, Error> {
        let path = image_path(id);
        let text = self.0.read_file(&path).map_err(|error| self.0.failed(&format!("read {path}"), &error))?;
        Ok(text.and_then(|text| serde_json::from_slice(&text).ok()))
    }

    /// Notes that a layer was used now.
    fn note_use(&self, layer: &str) {
        let now = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
        let times = Timestamps { last_access: now, last_modification: now };
        let _ = rustix::fs::utimensat(&self.0.root, layer, &times, AtFlags::SYMLINK_NOFOLLOW);
    }
}

/// Whether nothing of the layers below shows in this one: its root's line says so, which is the first.
fn is_cut(store: &LayerStore, layer: &str) -> Result<bool, Error> {
    let path = format!("{layer}/{ENTRIES}");
    let failed = |error| store.0.failed(&format!("read {path}"), &error);
    let file = beneath::open(&store.0.root, path.as_bytes(), OFlags::RDONLY | OFlags::NONBLOCK);
    let file = File::from(file.map_err(|error| failed(error.into()))?);
    let first = record::read(BufReader::new(file)).next();
    Ok(first.transpose().map_err(failed)?.is_some_and(|root| root.is_opaque))
}

impl fmt::Debug for LayerStack {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerStack")
            .field("root", &self.root)
            .field("names", &self.names)
            .finish_non_exhaustive()
    }
}
