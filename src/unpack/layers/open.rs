//! Opens a layer store, or makes one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::{AtFlags, Mode, OFlags};
use rustix::io::Errno;

use crate::context::PullContext;
use crate::error::{Error, ErrorKind};
use crate::store::Durability;
use crate::unpack::beneath;
use crate::unpack::fault::disk_kind;
use crate::unpack::flush::Flusher;
use crate::unpack::layers::handle::{
    IMAGES, LEASES, LOCK, LayerStore, LayerStoreInner, SETTINGS, TMP, is_older,
};
use crate::unpack::layers::settings::LayerSettings;
use crate::unpack::remove;
use crate::unpack::settings::{Devices, Owners, Xattrs};

/// How a [`LayerStore`] is opened.
#[derive(Clone, Debug)]
pub struct LayerStoreBuilder {
    path: PathBuf,
    durability: Durability,
    min_age: Duration,
    owners: Option<Owners>,
    devices: Option<Devices>,
    xattrs: Option<Xattrs>,
}

impl LayerStoreBuilder {
    /// Sets what a layer outlives. Default: power loss.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.durability = durability;
        self
    }

    /// Sets how long a layer is kept after its last use, whether or not an image has it. Default: 2 minutes.
    #[must_use]
    pub fn min_age(mut self, age: Duration) -> Self {
        self.min_age = age;
        self
    }

    /// Sets to whom the files of all layers belong. Default: as of [`Unpack::owners`](crate::unpack::Unpack::owners).
    #[must_use]
    pub fn owners(mut self, owners: Owners) -> Self {
        self.owners = Some(owners);
        self
    }

    /// Sets what becomes of devices. Default: as of [`Unpack::devices`](crate::unpack::Unpack::devices).
    #[must_use]
    pub fn devices(mut self, devices: Devices) -> Self {
        self.devices = Some(devices);
        self
    }

    /// Sets which extended attributes are kept. Default: as of [`Unpack::xattrs`](crate::unpack::Unpack::xattrs).
    #[must_use]
    pub fn xattrs(mut self, xattrs: Xattrs) -> Self {
        self.xattrs = Some(xattrs);
        self
    }

    /// Opens the store, or makes one in a folder that is empty or not there yet.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) if the folder is no layer store and not empty, or its layers were
    /// unpacked with other settings; [`Store`](ErrorKind::Store), [`DiskFull`](ErrorKind::DiskFull).
    pub fn build(self) -> Result<LayerStore, Error> {
        let store = LayerStore(Arc::new(LayerStoreInner::open(&self)?));
        store.sweep();
        if self.owners.is_some() || self.devices.is_some() || self.xattrs.is_some() {
            store.settle(self.owners.as_ref(), self.devices, self.xattrs)?;
        }
        Ok(store)
    }
}

impl LayerStore {
    /// Opens the layer store in `dir` with the defaults, or makes one there.
    ///
    /// # Errors
    /// As of [`LayerStoreBuilder::build`].
    pub fn open(dir: impl AsRef<Path>) -> Result<LayerStore, Error> {
        LayerStore::builder(dir.as_ref()).build()
    }

    /// A layer store in `dir`, with settings.
    pub fn builder(dir: impl Into<PathBuf>) -> LayerStoreBuilder {
        LayerStoreBuilder {
            path: dir.into(),
            durability: Durability::Full,
            min_age: Duration::from_secs(120),
            owners: None,
            devices: None,
            xattrs: None,
        }
    }

    /// Removes what processes that were killed have left.
    fn sweep(&self) {
        for folder in [TMP, LEASES] {
            if let Err(error) = self.sweep_folder(folder) {
                log::warn!("{}/{folder} was not swept: {error}", self.0.path.display());
            }
        }
    }

    fn sweep_folder(&self, folder: &str) -> io::Result<()> {
        let root = beneath::open(&self.0.root, folder.as_bytes(), beneath::DIR)?;
        for name in remove::names_in(&root)? {
            let name = String::from_utf8_lossy(&name).into_owned();
            let is_dir = rustix::fs::statat(&root, &*name, AtFlags::SYMLINK_NOFOLLOW)
                .is_ok_and(|stat| stat.st_mode & 0o170_000 == 0o040_000);
            let lock = if is_dir { format!("{folder}/{name}/{LOCK}") } else { format!("{folder}/{name}") };
            let age = Duration::from_secs(60);
            // What is being made may not be locked yet.
            let is_left = match self.0.lock(&lock, true) {
                Ok(lock) => lock.is_some(),
                Err(_) => true,
            };
            if is_left && is_older(&root, &name, age) {
                remove::remove(&root, name.as_bytes())?;
            }
        }
        Ok(())
    }
}

impl LayerStoreInner {
    fn open(builder: &LayerStoreBuilder) -> Result<Self, Error> {
        let path = &builder.path;
        let failed = |error: Errno| {
            let kind = match error {
                Errno::NOTDIR | Errno::LOOP => ErrorKind::InvalidConfig,
                _ => disk_kind(&error.into()),
            };
            let text = format!("cannot open the layer store {}: {error}", path.display());
            Error::new(kind, text).with_source(io::Error::from(error))
        };
        let flusher = Flusher::new(builder.durability, false, &PullContext::new());
        let flags = beneath::DIR | OFlags::CLOEXEC;
        let root = match rustix::fs::open(path, flags, Mode::empty()) {
            Err(Errno::NOENT) => {
                flusher.make_dirs(path).map_err(failed)?;
                rustix::fs::open(path, flags, Mode::empty())
            }
            root => root,
        };
        let root = root.map_err(failed)?;
        let names = remove::names_in(&root).map_err(failed)?;
        let has = |name: &str| names.iter().any(|found| found.as_slice() == name.as_bytes());
        if !has(LOCK) && names.iter().any(|name| name.as_slice() != b"lost+found") {
            let text = format!("{} is no layer store, and not empty", path.display());
            return Err(Error::new(ErrorKind::InvalidConfig, text));
        }
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        rustix::fs::openat(&root, LOCK, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
        for folder in [IMAGES, LEASES, TMP] {
            match rustix::fs::mkdirat(&root, folder, Mode::RWXU) {
                Ok(()) | Err(Errno::EXIST) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        if !has(LOCK) {
            // What is in it may be closed to others, such as files with set-id bits.
            rustix::fs::fchmod(&root, Mode::RWXU).map_err(failed)?;
        }
        let inner = LayerStoreInner {
            path: path.clone(),
            root,
            durability: builder.durability,
            min_age: builder.min_age,
            settings: Mutex::new(None),
            next: AtomicU64::new(fastrand::u64(..)),
        };
        let settings =
            inner.read_file(SETTINGS).map_err(|error| inner.failed("read its settings", &error))?;
        if let Some(text) = settings {
            let known: Result<LayerSettings, _> = serde_json::from_slice(&text);
            match known {
                Ok(known) if known.version == 1 => *inner.settings.lock() = Some(known),
                _ => return Err(inner.wrong(format!("{SETTINGS} is of an unknown version, or damaged"))),
            }
        }
        Ok(inner)
    }
}
