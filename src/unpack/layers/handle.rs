//! The handle of an open layer store, and the files in it.

use std::fmt;
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use parking_lot::Mutex;
use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::context::PullContext;
use crate::error::{Error, ErrorKind};
use crate::image::digest::Digest;
use crate::store::Durability;
use crate::unpack::beneath;
use crate::unpack::fault::{UnpackFault, disk_kind};
use crate::unpack::flush::Flusher;
use crate::unpack::layers::settings::LayerSettings;

pub(super) const SETTINGS: &str = "layers.json";
pub(super) const IMAGES: &str = "images";
pub(super) const LEASES: &str = "leases";
pub(super) const TMP: &str = "tmp";
pub(super) const LOCK: &str = "lock";
/// Within a layer's folder.
pub(super) const FS: &str = "fs";
pub(super) const ENTRIES: &str = "entries";

/// The longest settings file, and the longest list of an image's layers, bytes.
const MAX_SETTINGS: u64 = 1 << 20;

/// Unpacked layers, each once, shared by images. Safe against power loss, and shared by processes. A clone
/// is the same store.
#[derive(Clone)]
pub struct LayerStore(pub(super) Arc<LayerStoreInner>);

pub(super) struct LayerStoreInner {
    pub(super) path: PathBuf,
    pub(super) root: OwnedFd,
    pub(super) durability: Durability,
    pub(super) min_age: Duration,
    /// What layers are unpacked with, once that is known.
    pub(super) settings: Mutex<Option<LayerSettings>>,
    pub(super) next: AtomicU64,
}

impl LayerStoreInner {
    /// A name that no other process or thread uses.
    pub(super) fn own_name(&self) -> String {
        format!("{}-{:016x}", std::process::id(), self.next.fetch_add(1, Ordering::Relaxed))
    }

    /// A small file's bytes; `None` if it is not there.
    pub(super) fn read_file(&self, path: &str) -> io::Result<Option<Vec<u8>>> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK;
        let file = match beneath::open(&self.root, path.as_bytes(), flags) {
            Ok(file) => File::from(file),
            Err(Errno::NOENT) => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let mut text = Vec::new();
        file.take(MAX_SETTINGS).read_to_end(&mut text)?;
        Ok(Some(text))
    }

    /// Writes a file as a whole: readers find the old one or the new one.
    pub(super) fn write_file(&self, path: &str, bytes: &[u8], flusher: &Flusher) -> Result<(), Error> {
        let temp = format!("{TMP}/{}", self.own_name());
        let write = || -> Result<(), UnpackFault> {
            let failed = |error: Errno| UnpackFault::disk("write it", error);
            let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let file =
                rustix::fs::openat(&self.root, &*temp, flags, Mode::RUSR | Mode::WUSR).map_err(failed)?;
            io::Write::write_all(
                &mut File::from(file.try_clone().map_err(|e| UnpackFault::disk("write it", e))?),
                bytes,
            )
            .map_err(|error| UnpackFault::disk("write it", error))?;
            flusher.flush_dir(&file)?;
            rustix::fs::renameat(&self.root, &*temp, &self.root, path).map_err(failed)?;
            let (folder, _) = crate::unpack::path::split(path.as_bytes());
            flusher.flush_dir(&beneath::open(&self.root, folder, beneath::DIR).map_err(failed)?)
        };
        write().map_err(|fault| {
            let _ = rustix::fs::unlinkat(&self.root, &*temp, AtFlags::empty());
            fault.at(&self.path.join(path).display().to_string(), None)
        })
    }

    /// Opens a file and locks it, unless another holder excludes that.
    pub(super) fn lock(&self, path: &str, exclusive: bool) -> io::Result<Option<File>> {
        let file = beneath::open(&self.root, path.as_bytes(), OFlags::RDWR | OFlags::NONBLOCK)?;
        let operation = match exclusive {
            true => FlockOperation::NonBlockingLockExclusive,
            false => FlockOperation::NonBlockingLockShared,
        };
        match rustix::fs::flock(&file, operation) {
            Ok(()) => Ok(Some(File::from(file))),
            Err(Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    pub(super) fn failed(&self, doing: &str, error: &io::Error) -> Error {
        let text = format!("the layer store {}: cannot {doing}: {error}", self.path.display());
        Error::new(disk_kind(error), text)
    }

    pub(super) fn wrong(&self, why: impl fmt::Display) -> Error {
        Error::new(ErrorKind::InvalidConfig, format!("the layer store {}: {why}", self.path.display()))
    }
}

impl LayerStore {
    /// The store's folder.
    pub fn dir(&self) -> &Path {
        &self.0.path
    }

    /// Whether a layer is there.
    pub(super) fn has(&self, layer: &str) -> bool {
        rustix::fs::statat(&self.0.root, layer, AtFlags::SYMLINK_NOFOLLOW).is_ok()
    }

    pub(super) fn flusher(&self, cx: &PullContext) -> Flusher {
        Flusher::new(self.0.durability, false, cx)
    }
}

/// Whether a name was last changed so long ago; in doubt it was not.
pub(super) fn is_older(folder: &OwnedFd, name: &str, age: Duration) -> bool {
    let Ok(stat) = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) else { return false };
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    let changed = Duration::from_secs(u64::try_from(stat.st_mtime.max(stat.st_ctime)).unwrap_or(0));
    now.checked_sub(changed).is_some_and(|since| since >= age)
}

/// Where the layers of an image are listed.
pub(super) fn image_path(id: &Digest) -> String {
    format!("{IMAGES}/{}-{}", id.algorithm().as_str(), id.hex())
}

impl fmt::Debug for LayerStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("LayerStore").field("dir", &self.0.path).finish_non_exhaustive()
    }
}
