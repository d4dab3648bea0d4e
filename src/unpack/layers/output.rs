//! The output with one folder for each layer.

use std::collections::HashSet;
use std::fs::File;
use std::io::{BufReader, BufWriter, Write};
use std::os::fd::OwnedFd;
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::context::PullContext;
use crate::error::Error;
use crate::image::digest::Digest;
use crate::unpack::beneath;
use crate::unpack::change::XattrList;
use crate::unpack::fault::UnpackFault;
use crate::unpack::finish_dirs::finish_dirs;
use crate::unpack::flush::Flusher;
use crate::unpack::folder::{Folder, StagedFile};
use crate::unpack::layers::handle::{ENTRIES, FS, LOCK, LayerStore, TMP, image_path};
use crate::unpack::layers::lease::Lease;
use crate::unpack::layers::settings::LayerSettings;
use crate::unpack::layers::stack::LayerStack;
use crate::unpack::load_record;
use crate::unpack::merge::Merge;
use crate::unpack::output::{Body, Content, Output, View, Written};
use crate::unpack::record;
use crate::unpack::remove;
use crate::unpack::rules::Rules;
use crate::unpack::settings::{Settings, Xattrs};
use crate::unpack::tree::{Meta, NodeId, Tree};

/// The folders of an image's layers.
pub(crate) struct LayersOutput {
    store: LayerStore,
    settings: LayerSettings,
    rules: Arc<Rules>,
    flusher: Flusher,
    /// The names of the layers, the base first.
    chain: Vec<String>,
    layers: Vec<Mutex<LayerState>>,
    /// The folder of this unpack, below the store's, and its lock.
    tmp: String,
    _lock: File,
    lease: Mutex<Option<Lease>>,
}

/// What is known of one layer.
#[derive(Default)]
struct LayerState {
    folder: Option<Arc<Folder>>,
    /// The folder of a layer that was there.
    found: Option<Arc<OwnedFd>>,
    whiteouts: Vec<Vec<u8>>,
    opaque: HashSet<NodeId>,
}

impl LayersOutput {
    /// Prepares to unpack layers, and takes a lease on them.
    ///
    /// # Errors
    /// `InvalidConfig` if the store's layers were unpacked with other settings; `Store`, `DiskFull`.
    pub(crate) fn open(
        store: &LayerStore,
        chain: Vec<String>,
        settings: &Settings,
        cx: &PullContext,
    ) -> Result<Self, Error> {
        let lease = Lease::take(&store.0, cx, &chain)?;
        let known = store.settle(settings.owners.as_ref(), settings.devices, settings.xattrs)?;
        let devices = settings.devices.or(known.devices());
        let rules = Arc::new(Rules::new(Some(known.owners()), devices));
        let tmp = format!("{TMP}/{}", store.0.own_name());
        let lock = begin(store, &tmp).map_err(|error| store.0.failed("begin to unpack", &error.into()))?;
        Ok(LayersOutput {
            layers: chain.iter().map(|_| Mutex::default()).collect(),
            store: store.clone(),
            settings: known,
            rules,
            flusher: Flusher::new(settings.durability, settings.flushes_singly, cx),
            chain,
            tmp,
            _lock: lock,
            lease: Mutex::new(Some(lease)),
        })
    }

    /// Whether a layer is there.
    pub(crate) fn has(&self, layer: usize) -> bool {
        self.chain.get(layer).is_some_and(|name| self.store.has(name))
    }

    pub(crate) fn xattrs(&self) -> Xattrs {
        self.settings.xattrs()
    }

    /// Adds a layer that is there to the tree.
    pub(crate) fn load(&self, merge: &mut Merge<Self>, layer: usize) -> Result<(), UnpackFault> {
        let failed = |error: Errno| UnpackFault::disk("read the layer", error);
        let name = self.chain.get(layer).map_or("", String::as_str);
        let open =
            |part: &str, flags| beneath::open(&self.store.0.root, format!("{name}/{part}").as_bytes(), flags);
        let fs = open(FS, beneath::DIR).map_err(failed)?;
        if let Some(state) = self.layers.get(layer) {
            state.lock().found = Some(Arc::new(fs));
        }
        let entries = open(ENTRIES, OFlags::RDONLY | OFlags::NONBLOCK).map_err(failed)?;
        load_record::load(merge, BufReader::with_capacity(64 << 10, File::from(entries)))
    }

    /// Notes the image's layers, which are all there, and returns the stack.
    pub(crate) fn finish(&self, id: &Digest) -> Result<LayerStack, Error> {
        let list = serde_json::to_vec(&self.chain).unwrap_or_default();
        self.store.0.write_file(&image_path(id), &list, &self.flusher)?;
        let lease = match self.lease.lock().take() {
            Some(lease) => lease,
            None => Lease::take(&self.store.0, &PullContext::new(), &self.chain)?,
        };
        LayerStack::new(&self.store, &self.chain, lease)
    }

    /// The folder that a layer is written to; made when it is first asked for.
    fn folder(&self, layer: u16) -> Result<Arc<Folder>, UnpackFault> {
        let Some(state) = self.layers.get(usize::from(layer)) else {
            return Err(UnpackFault::invalid("the layer has no folder"));
        };
        let mut state = state.lock();
        if let Some(folder) = &state.folder {
            return Ok(folder.clone());
        }
        let make = || -> rustix::io::Result<OwnedFd> {
            let path = self.tmp_path(layer);
            rustix::fs::mkdirat(&self.store.0.root, &*path, Mode::RWXU)?;
            let path = format!("{path}/{FS}");
            rustix::fs::mkdirat(&self.store.0.root, &*path, Mode::RWXU)?;
            beneath::open(&self.store.0.root, path.as_bytes(), beneath::DIR)
        };
        let root = make().map_err(|error| UnpackFault::disk("create the layer's folder", error))?;
        let folder = Arc::new(Folder::new(root, self.rules.clone())?);
        state.folder = Some(folder.clone());
        Ok(folder)
    }

    /// The folder that `folder` of a node names.
    fn at(&self, folder: u16) -> Result<Arc<Folder>, UnpackFault> {
        self.folder(folder - 1)
    }

    fn tmp_path(&self, layer: u16) -> String {
        format!("{}/{layer}", self.tmp)
    }

    fn write_record(&self, layer: u16, view: &View<'_>) -> Result<(), UnpackFault> {
        let failed = |error: Errno| UnpackFault::disk("write the record of the layer", error);
        let path = format!("{}/{ENTRIES}", self.tmp_path(layer));
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&self.store.0.root, &*path, flags, Mode::RUSR | Mode::WUSR);
        let mut file = BufWriter::with_capacity(64 << 10, File::from(file.map_err(failed)?));
        let (whiteouts, opaque) = match self.layers.get(usize::from(layer)) {
            Some(state) => {
                let mut state = state.lock();
                (std::mem::take(&mut state.whiteouts), std::mem::take(&mut state.opaque))
            }
            None => Default::default(),
        };
        record::write_layer(&mut file, layer, view, &whiteouts, &opaque)?;
        file.flush().map_err(|error| UnpackFault::disk("write the record of the layer", error))?;
        if self.flusher.is_singly() {
            let file = file
                .into_inner()
                .map_err(|error| UnpackFault::disk("write the record", error.into_error()))?;
            self.flusher.flush_dir(&file.into())?;
        }
        Ok(())
    }
}

/// Makes the folder of an unpack, with its lock.
fn begin(store: &LayerStore, tmp: &str) -> rustix::io::Result<File> {
    rustix::fs::mkdirat(&store.0.root, tmp, Mode::RWXU)?;
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let path = format!("{tmp}/{LOCK}");
    let lock = File::from(rustix::fs::openat(&store.0.root, &*path, flags, Mode::RUSR | Mode::WUSR)?);
    rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive)?;
    Ok(lock)
}

impl Drop for LayersOutput {
    fn drop(&mut self) {
        if let Err(error) = remove::remove(&self.store.0.root, self.tmp.as_bytes()) {
            log::warn!("{}/{} was not removed: {error}", self.store.0.path.display(), self.tmp);
        }
    }
}

impl Output for LayersOutput {
    type Staged = StagedFile;

    fn folder_of(&self, layer: u16) -> u16 {
        layer + 1
    }

    fn stage(
        &self,
        layer: u16,
        meta: &Meta,
        xattrs: &XattrList,
        body: Body<'_>,
    ) -> Result<StagedFile, UnpackFault> {
        self.folder(layer)?.stage(meta, xattrs, body)
    }

    fn add_dir(&self, tree: &Tree, folder: u16, id: NodeId) -> Result<(), UnpackFault> {
        self.at(folder)?.add_dir(tree, id)
    }

    fn add_file(
        &self,
        tree: &Tree,
        folder: u16,
        id: NodeId,
        xattrs: &XattrList,
        content: Content<'_, StagedFile>,
    ) -> Result<Written, UnpackFault> {
        self.at(folder)?.add_file(tree, id, xattrs, content)
    }

    fn add_symlink(&self, tree: &Tree, folder: u16, id: NodeId) -> Result<(), UnpackFault> {
        self.at(folder)?.add_symlink(tree, id)
    }

    fn add_special(&self, tree: &Tree, folder: u16, id: NodeId) -> Result<bool, UnpackFault> {
        self.at(folder)?.add_special(tree, id)
    }

    fn add_link(&self, tree: &Tree, folder: u16, id: NodeId, existing: NodeId) -> Result<(), UnpackFault> {
        self.at(folder)?.add_link(tree, id, existing)
    }

    fn copy_up(&self, tree: &Tree, folder: u16, id: NodeId) -> Result<(), UnpackFault> {
        let state = self.layers.get(usize::from(tree.present(id)) - 1);
        let found = state.map(|state| {
            let state = state.lock();
            (state.found.clone(), state.folder.clone())
        });
        match found {
            Some((Some(root), _)) => self.at(folder)?.copy_from(tree, id, &root),
            Some((None, Some(lower))) => self.at(folder)?.copy_from(tree, id, lower.root()),
            _ => Err(UnpackFault::invalid("the layer that has the file is not there")),
        }
    }

    fn remove(&self, tree: &Tree, folder: u16, id: NodeId) -> Result<(), UnpackFault> {
        self.at(folder)?.remove(tree, id)
    }

    fn add_whiteout(&self, tree: &Tree, folder: u16, parent: NodeId, name: &[u8]) -> Result<(), UnpackFault> {
        self.at(folder)?.add_whiteout(tree, parent, name)?;
        let parent = tree.path(parent);
        let path = if parent.is_empty() { name.to_vec() } else { [&parent[..], b"/", name].concat() };
        if let Some(state) = self.layers.get(usize::from(folder) - 1) {
            state.lock().whiteouts.push(path);
        }
        Ok(())
    }

    fn set_opaque(&self, tree: &Tree, folder: u16, id: NodeId) -> Result<(), UnpackFault> {
        self.at(folder)?.set_dir_xattr(tree, id, &self.settings.opaque, b"y")?;
        if let Some(state) = self.layers.get(usize::from(folder) - 1) {
            state.lock().opaque.insert(id);
        }
        Ok(())
    }

    fn end_layer(&self, layer: u16, view: View<'_>) -> Result<(), UnpackFault> {
        let folder = self.folder(layer)?;
        folder.remove_staging()?;
        self.write_record(layer, &view)?;
        finish_dirs(&folder, &view, |_| true)?;
        self.flusher.flush_each(&folder, &view)
    }

    fn commit_layer(&self, layer: u16) -> Result<(), UnpackFault> {
        let failed = |error: Errno| UnpackFault::disk("give the layer its name", error);
        let store = &self.store.0;
        self.flusher.flush_all(self.folder(layer)?.root())?;
        let path = self.tmp_path(layer);
        let tmp = beneath::open(&store.root, path.as_bytes(), beneath::DIR).map_err(failed)?;
        self.flusher.flush_dir(&tmp)?;
        let name = self.chain.get(usize::from(layer)).map_or("", String::as_str);
        match rustix::fs::renameat(&store.root, &*path, &store.root, name) {
            Ok(()) => {}
            // Another thread or process was faster: this one goes with the folder of the unpack.
            Err(Errno::NOTEMPTY | Errno::EXIST) => return Ok(()),
            Err(error) => return Err(failed(error)),
        }
        // The time of its last use.
        let _ = rustix::fs::utimensat(&store.root, name, &now(), AtFlags::SYMLINK_NOFOLLOW);
        self.flusher.flush_dir(&store.root)
    }
}

fn now() -> rustix::fs::Timestamps {
    let now = rustix::fs::Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
    rustix::fs::Timestamps { last_access: now, last_modification: now }
}
