//! Opens a store, or makes one.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::durable::{Disk, Flush, RealDisk};
use crate::error::{Error, ErrorKind};
use crate::store::create;
use crate::store::error::refused;
use crate::store::handle::Store;
use crate::store::settings::{StoreBuilder, StoreSettings};

impl Store {
    /// Opens the store in `dir` with the defaults, or makes one there.
    ///
    /// # Errors
    /// As of [`StoreBuilder::build`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Store, Error> {
        Store::builder(dir.as_ref()).build()
    }

    /// Returns a builder for the store in `dir`.
    pub fn builder(dir: impl Into<PathBuf>) -> StoreBuilder {
        StoreBuilder::new(dir.into())
    }

    pub(super) fn open_on(
        disk: Arc<dyn Disk>,
        dir: PathBuf,
        settings: StoreSettings,
    ) -> Result<Store, Error> {
        create::open_or_create(&*disk, &dir, settings.flush())?;
        let store = Store::new(disk, dir, settings);
        store.renew_reserve();
        if let Err(error) = store.collect_partials() {
            log::warn!("old partial downloads in {} were not removed: {error}", store.dir().display());
        }
        Ok(store)
    }
}

impl StoreBuilder {
    /// Opens the store, or makes one in a folder that is empty or does not exist yet.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) if the path is a file, the folder is neither empty nor an image
    /// layout, the layout's version is unknown, or its index is broken (but see
    /// [`Durability::Relaxed`](crate::store::Durability::Relaxed)); nothing was changed then.
    /// [`Store`](ErrorKind::Store) and [`DiskFull`](ErrorKind::DiskFull) if the disk fails.
    pub fn build(self) -> Result<Store, Error> {
        if !(0.0..=1.0).contains(&self.settings.partials_share) {
            let text = format!("a share of the disk is from 0 to 1, not {}", self.settings.partials_share);
            return Err(Error::new(ErrorKind::InvalidConfig, text));
        }
        let disk = open_folder(&self.dir, self.settings.flush())?;
        Store::open_on(Arc::new(disk), self.dir, self.settings)
    }
}

/// Opens the disk at `dir`; makes the folder if it does not exist.
fn open_folder(dir: &Path, flush: Flush) -> Result<RealDisk, Error> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            Error::new(ErrorKind::InvalidConfig, format!("the store {} is no folder", dir.display()))
                .with_source(error)
        }
        _ => refused(&error, format!("open the store {}", dir.display())),
    };
    match RealDisk::open(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_folder(dir, flush).and_then(|()| RealDisk::open(dir)).map_err(failed)
        }
        outcome => outcome.map_err(failed),
    }
}

/// Makes `dir` and its parents, each durable in the one above it.
fn make_folder(dir: &Path, flush: Flush) -> io::Result<()> {
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && parent != dir => {
            make_folder(parent, flush)?;
            std::fs::create_dir(dir)?;
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
        outcome => outcome?,
    }
    match flush {
        Flush::Wait => RealDisk::open(parent)?.sync_dir(""),
        Flush::Skip => Ok(()),
    }
}
