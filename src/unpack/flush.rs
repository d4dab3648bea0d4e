//! Makes unpacked files durable, as configured.

use std::os::fd::OwnedFd;
use std::path::Path;
use std::sync::Arc;

use crossbeam_channel::{Receiver, bounded};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use crate::context::PullContext;
use crate::durable::syncfs_reports;
use crate::error::ErrorKind;
use crate::store::Durability;
use crate::sync::{BlockingPool, PoolUser};
use crate::unpack::beneath;
use crate::unpack::fault::UnpackFault;
use crate::unpack::folder::Folder;
use crate::unpack::output::View;
use crate::unpack::tree::NodeKind;

/// Threads for flushes, which cannot be interrupted.
static POOL: BlockingPool = BlockingPool::new("unpack-flush", 4);

/// How to flush.
#[derive(Clone)]
pub(super) struct Flusher {
    durability: Durability,
    /// Each file and folder by itself, instead of the file system as a whole.
    singly: bool,
    cx: PullContext,
    _threads: Arc<PoolUser>,
}

impl Flusher {
    pub(super) fn new(durability: Durability, singly: bool, cx: &PullContext) -> Self {
        let singly = singly || !syncfs_reports();
        Flusher { durability, singly, cx: cx.clone(), _threads: Arc::new(POOL.enter()) }
    }

    /// Whether each file is flushed by itself.
    pub(super) fn is_singly(&self) -> bool {
        self.singly
    }

    /// Makes all of the file system durable, unless each file is flushed by itself.
    pub(super) fn flush_all(&self, folder: &OwnedFd) -> Result<(), UnpackFault> {
        if self.durability != Durability::Full || self.singly {
            return Ok(());
        }
        let folder = Arc::new(duplicate(folder)?);
        self.wait_for(1, move |_| rustix::fs::syncfs(&*folder))
    }

    /// Makes each file and folder of the tree durable that the layer in turn was written to, if each is flushed by
    /// itself.
    pub(super) fn flush_each(&self, folder: &Folder, view: &View<'_>) -> Result<(), UnpackFault> {
        if self.durability != Durability::Full || !self.singly {
            return Ok(());
        }
        let root = Arc::new(duplicate(folder.root())?);
        let (sender, paths) = bounded::<(Vec<u8>, bool)>(64);
        let flush = move |_| {
            for (path, is_dir) in &paths {
                let flags = if is_dir { beneath::DIR } else { OFlags::RDONLY | OFlags::NONBLOCK };
                rustix::fs::fsync(beneath::open(&*root, &path, flags)?)?;
            }
            Ok(())
        };
        let flushed = self.start(4, flush)?;
        // A flush that fails ends its thread; when all have, nobody takes the paths.
        for id in view.tree.all().filter(|id| view.tree.present(*id) == view.folder) {
            let is_dir = match view.tree.kind(id) {
                NodeKind::Dir => true,
                NodeKind::File => false,
                _ => continue,
            };
            self.cx.check()?;
            if sender.send((view.tree.path(id), is_dir)).is_err() {
                break;
            }
        }
        drop(sender);
        self.finish(4, &flushed)
    }

    /// Makes the names in a folder durable, and its owner, mode and times.
    pub(super) fn flush_dir(&self, folder: &OwnedFd) -> Result<(), UnpackFault> {
        if self.durability != Durability::Full {
            return Ok(());
        }
        let folder = Arc::new(duplicate(folder)?);
        self.wait_for(1, move |_| rustix::fs::fsync(&*folder))
    }

    /// Makes the folder at `path` and its parents, as far as they are missing, each durable in the one above
    /// it. No other user can enter them.
    pub(super) fn make_dirs(&self, path: &Path) -> rustix::io::Result<()> {
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        match rustix::fs::mkdir(path, Mode::RWXU) {
            Err(Errno::NOENT) if parent != path => {
                self.make_dirs(parent)?;
                rustix::fs::mkdir(path, Mode::RWXU)?;
            }
            outcome => outcome?,
        }
        if self.durability != Durability::Full {
            return Ok(());
        }
        let parent = rustix::fs::open(parent, beneath::DIR | OFlags::CLOEXEC, Mode::empty())?;
        rustix::fs::fsync(parent)
    }

    fn wait_for(
        &self,
        threads: usize,
        flush: impl Fn(usize) -> rustix::io::Result<()> + Send + Sync + 'static,
    ) -> Result<(), UnpackFault> {
        let flushed = self.start(threads, flush)?;
        self.finish(threads, &flushed)
    }

    /// Starts flushes in the pool; their outcomes come on the channel.
    fn start(
        &self,
        threads: usize,
        flush: impl Fn(usize) -> rustix::io::Result<()> + Send + Sync + 'static,
    ) -> Result<Receiver<rustix::io::Result<()>>, UnpackFault> {
        let (sender, flushed) = bounded(threads);
        let flush = Arc::new(flush);
        for number in 0..threads {
            let (sender, flush) = (sender.clone(), flush.clone());
            let job = move || {
                let outcome = flush(number);
                drop(flush);
                let _ = sender.send(outcome);
            };
            POOL.run(job).map_err(|error| {
                UnpackFault::new(ErrorKind::ResourceExhausted, format!("no thread to flush with: {error}"))
            })?;
        }
        Ok(flushed)
    }

    fn finish(&self, threads: usize, flushed: &Receiver<rustix::io::Result<()>>) -> Result<(), UnpackFault> {
        for _ in 0..threads {
            match self.cx.wait_for(flushed)? {
                Some(outcome) => {
                    outcome.map_err(|error| UnpackFault::disk("make the files durable", error))?
                }
                None => return Err(UnpackFault::new(ErrorKind::Panicked, "a flush panicked")),
            }
        }
        Ok(())
    }
}

fn duplicate(folder: &OwnedFd) -> Result<OwnedFd, UnpackFault> {
    folder.try_clone().map_err(|error| UnpackFault::disk("open the folder again", error))
}
