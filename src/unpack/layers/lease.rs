//! Leases of the layers in use.
//!
//! A lease is a file that lists layers, and is locked as long as it counts. It is taken under a lock that a
//! removal holds alone, before it is looked whether the layers are there. So a removal sees the
//! lease, or its taker sees that a layer is gone.

use std::collections::HashSet;
use std::fs::File;
use std::io::{self, Read, Write};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};

use crate::context::PullContext;
use crate::error::{Error, ErrorKind};
use crate::unpack::beneath;
use crate::unpack::layers::handle::{LEASES, LOCK, LayerStoreInner};
use crate::unpack::remove;

/// How long another process's lock is waited for.
const LOCK_TIMEOUT: Duration = Duration::from_secs(60);

/// Keeps layers from being removed as long as it lives.
pub(super) struct Lease {
    store: Arc<LayerStoreInner>,
    path: String,
    _file: File,
}

impl Lease {
    /// Takes a lease on these layers, whether or not they are there yet.
    pub(super) fn take(
        store: &Arc<LayerStoreInner>,
        cx: &PullContext,
        layers: &[String],
    ) -> Result<Self, Error> {
        let _shared = wait_for_lock(store, cx, false)?;
        let path = format!("{LEASES}/{}", store.own_name());
        let create = || -> io::Result<File> {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let mut file =
                File::from(rustix::fs::openat(&store.root, &*path, flags, Mode::RUSR | Mode::WUSR)?);
            rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive)?;
            file.write_all(layers.join("\n").as_bytes())?;
            Ok(file)
        };
        let file = create().map_err(|error| store.failed("take a lease", &error))?;
        Ok(Lease { store: store.clone(), path, _file: file })
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let _ = rustix::fs::unlinkat(&self.store.root, &*self.path, AtFlags::empty());
    }
}

/// The layers in use. The lock must be held alone.
pub(super) fn in_use(store: &LayerStoreInner) -> io::Result<HashSet<String>> {
    let mut layers = HashSet::new();
    let folder = beneath::open(&store.root, LEASES.as_bytes(), beneath::DIR)?;
    for name in remove::names_in(&folder)? {
        let path = format!("{LEASES}/{}", String::from_utf8_lossy(&name));
        // Its owner has ended.
        if store.lock(&path, true).is_ok_and(|lock| lock.is_some()) {
            let _ = rustix::fs::unlinkat(&store.root, &*path, AtFlags::empty());
            continue;
        }
        if let Ok(file) = beneath::open(&folder, &name, OFlags::RDONLY | OFlags::NONBLOCK) {
            let mut text = String::new();
            File::from(file).read_to_string(&mut text)?;
            layers.extend(text.lines().map(str::to_owned));
        }
    }
    Ok(layers)
}

/// Waits for the lock of the store, which others hold for a moment only.
pub(super) fn wait_for_lock(
    store: &LayerStoreInner,
    cx: &PullContext,
    exclusive: bool,
) -> Result<File, Error> {
    let (began, mut pause) = (Instant::now(), Duration::from_millis(10));
    loop {
        match store.lock(LOCK, exclusive) {
            Ok(Some(lock)) => return Ok(lock),
            Ok(None) if began.elapsed() > LOCK_TIMEOUT => {
                let text = format!("another process locks the layer store {}", store.path.display());
                return Err(Error::new(ErrorKind::ResourceExhausted, text));
            }
            // Nothing tells when another process gives a lock back.
            Ok(None) => cx.sleep(pause)?,
            Err(error) => return Err(store.failed("lock it", &error)),
        }
        pause = (pause * 2).min(Duration::from_millis(250));
    }
}
