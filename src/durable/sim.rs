//! A disk in memory that can lose power at every operation.
//!
//! It keeps what is durable apart from what is merely written. [`SimDisk::after_power_cut`] makes the
//! disk that the machine would find: what was flushed is there; of the rest, as a real disk may, all,
//! nothing, or any part.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use parking_lot::Mutex;

use crate::durable::disk::{Disk, DiskFile, FileType, Lock, Metadata, OpenMode, Space};
use crate::durable::write::parent;

/// What becomes of what was written and not flushed.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unflushed {
    /// It is lost.
    Lost,
    /// Names are there, contents are not: what ext4 may do to a file that was renamed unflushed.
    OnlyNames,
    /// Contents are there, names are not.
    OnlyContents,
    /// All is there: the process was killed, and not the machine.
    Kept,
    /// Each name and each content for itself, by chance; contents also torn, or as zeros.
    Chance(u64),
}

/// The unit of allocation, bytes.
const BLOCK: usize = 512;

#[derive(Clone, Debug)]
pub(crate) struct SimDisk(Arc<Mutex<World>>);

#[derive(Debug, Default)]
struct World {
    nodes: Vec<SimNode>,
    steps: u64,
    cut_at: Option<u64>,
    failing: Option<(u64, rustix::io::Errno)>,
    handles: u64,
    /// Nothing more can be allocated.
    is_full: bool,
    /// The disk's size, bytes; unlimited if `None`.
    capacity: Option<u64>,
}

#[derive(Clone, Debug)]
enum SimNode {
    Dir { now: BTreeMap<String, usize>, durable: BTreeMap<String, usize> },
    File(FileNode),
}

#[derive(Clone, Debug)]
struct FileNode {
    now: Vec<u8>,
    durable: Vec<u8>,
    /// A flush failed: the kernel has dropped the pages, and later flushes answer "done".
    is_lost: bool,
    modified: SystemTime,
    /// The blocks that were allocated, by their numbers; the rest is a hole.
    blocks: BTreeSet<usize>,
    locks: Vec<(u64, Lock)>,
}

impl World {
    fn empty_dir() -> SimNode {
        SimNode::Dir { now: BTreeMap::new(), durable: BTreeMap::new() }
    }

    /// One operation: whether there is still power for it, and it does not fail.
    fn step(&mut self) -> io::Result<()> {
        let step = self.steps;
        self.steps += 1;
        if self.cut_at.is_some_and(|at| step >= at) {
            return Err(io::Error::other("the power is off"));
        }
        match self.failing {
            Some((at, errno)) if at == step => Err(errno.into()),
            _ => Ok(()),
        }
    }

    /// Fails on a full disk.
    fn allocate(&self) -> io::Result<()> {
        if self.is_full { Err(rustix::io::Errno::NOSPC.into()) } else { Ok(()) }
    }

    fn entries(&self, path: &str) -> io::Result<(usize, &BTreeMap<String, usize>)> {
        let mut at = 0;
        for part in path.split('/').filter(|part| !part.is_empty()) {
            match &self.nodes[at] {
                SimNode::Dir { now, .. } => at = *now.get(part).ok_or(io::ErrorKind::NotFound)?,
                SimNode::File(_) => return Err(io::ErrorKind::NotADirectory.into()),
            }
        }
        match &self.nodes[at] {
            SimNode::Dir { now, .. } => Ok((at, now)),
            SimNode::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn find(&self, path: &str) -> io::Result<usize> {
        let (_, entries) = self.entries(parent(path))?;
        entries.get(name(path)).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    fn names_mut(&mut self, dir: &str) -> io::Result<&mut BTreeMap<String, usize>> {
        let (at, _) = self.entries(dir)?;
        match &mut self.nodes[at] {
            SimNode::Dir { now, .. } => Ok(now),
            SimNode::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    fn add(&mut self, path: &str, node: SimNode) -> io::Result<usize> {
        let at = self.nodes.len();
        self.names_mut(parent(path))?.insert(name(path).to_owned(), at);
        self.nodes.push(node);
        Ok(at)
    }

    fn empty_file() -> SimNode {
        SimNode::File(FileNode {
            now: Vec::new(),
            durable: Vec::new(),
            is_lost: false,
            modified: SystemTime::now(),
            blocks: BTreeSet::new(),
            locks: Vec::new(),
        })
    }

    fn used(&self) -> u64 {
        let files = self.nodes.iter().filter_map(|node| match node {
            SimNode::File(file) => Some(file.now.len() as u64),
            SimNode::Dir { .. } => None,
        });
        files.sum()
    }

    fn file(&mut self, node: usize) -> &mut FileNode {
        match &mut self.nodes[node] {
            SimNode::File(file) => file,
            SimNode::Dir { .. } => panic!("a folder was opened as a file"),
        }
    }

    fn flush(&mut self, node: usize) -> io::Result<()> {
        let outcome = self.step();
        let file = self.file(node);
        match &outcome {
            Ok(()) if !file.is_lost => file.durable = file.now.clone(),
            Err(error) if error.raw_os_error().is_some() => file.is_lost = true,
            Ok(()) | Err(_) => {}
        }
        outcome
    }

    fn describe(&self, node: usize) -> Metadata {
        let (kind, len, modified) = match &self.nodes[node] {
            SimNode::Dir { .. } => (FileType::Dir, 0, SystemTime::UNIX_EPOCH),
            SimNode::File(file) => (FileType::File, file.now.len() as u64, file.modified),
        };
        let names = self.nodes.iter().filter_map(|other| match other {
            SimNode::Dir { now, .. } => Some(now.values().filter(|named| **named == node).count()),
            SimNode::File(_) => None,
        });
        let is_ours = names.sum::<usize>() == 1;
        Metadata { kind, len, modified, dated: modified, is_ours, identity: (0, node as u64), allocated: len }
    }
}

fn name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

impl SimDisk {
    pub(crate) fn new() -> Self {
        SimDisk(Arc::new(Mutex::new(World { nodes: vec![World::empty_dir()], ..World::default() })))
    }

    /// How many operations were done.
    pub(crate) fn steps(&self) -> u64 {
        self.0.lock().steps
    }

    /// From this operation on there is no power.
    pub(crate) fn cut_at(self, step: u64) -> Self {
        self.0.lock().cut_at = Some(step);
        self
    }

    /// This one operation fails.
    pub(crate) fn fail_at(self, step: u64, errno: rustix::io::Errno) -> Self {
        self.0.lock().failing = Some((step, errno));
        self
    }

    /// Bounds the disk's size. Only what [`Disk::space`] tells changes.
    pub(crate) fn of_size(self, bytes: u64) -> Self {
        self.0.lock().capacity = Some(bytes);
        self
    }

    /// Fills the disk: nothing can be allocated, neither bytes nor files, until a file is removed, or until
    /// [`empty`](Self::empty).
    pub(crate) fn fill(&self) {
        self.0.lock().is_full = true;
    }

    /// Makes room on a full disk.
    pub(crate) fn empty(&self) {
        self.0.lock().is_full = false;
    }

    /// Dates all files, as a process does whose clock is wrong.
    pub(crate) fn date_files(&self, time: SystemTime) {
        let mut world = self.0.lock();
        for node in &mut world.nodes {
            if let SimNode::File(file) = node {
                file.modified = time;
            }
        }
    }

    /// The disk that the next process finds when this one was killed: what is not flushed is there,
    /// and may yet be lost.
    pub(crate) fn after_kill(&self) -> Self {
        let mut nodes = self.0.lock().nodes.clone();
        for node in &mut nodes {
            if let SimNode::File(file) = node {
                file.locks.clear();
            }
        }
        SimDisk(Arc::new(Mutex::new(World { nodes, ..World::default() })))
    }

    /// The disk that is found when the power is back.
    pub(crate) fn after_power_cut(&self, unflushed: Unflushed) -> Self {
        let mut chance = match unflushed {
            Unflushed::Chance(seed) => fastrand::Rng::with_seed(seed),
            _ => fastrand::Rng::with_seed(0),
        };
        let old = self.0.lock();
        let nodes = old.nodes.iter().map(|node| match node {
            SimNode::Dir { now, durable } => {
                let found = found_names(now, durable, unflushed, &mut chance);
                SimNode::Dir { now: found.clone(), durable: found }
            }
            SimNode::File(file) => {
                let found = found_content(file, unflushed, &mut chance);
                let durable = found.clone();
                SimNode::File(FileNode {
                    now: found,
                    durable,
                    is_lost: false,
                    // The machine was off for a while.
                    modified: file.modified - Duration::from_secs(60),
                    blocks: file.blocks.clone(),
                    locks: vec![],
                })
            }
        });
        SimDisk(Arc::new(Mutex::new(World { nodes: nodes.collect(), ..World::default() })))
    }
}

fn found_names(
    now: &BTreeMap<String, usize>,
    durable: &BTreeMap<String, usize>,
    unflushed: Unflushed,
    chance: &mut fastrand::Rng,
) -> BTreeMap<String, usize> {
    match unflushed {
        Unflushed::Lost | Unflushed::OnlyContents => durable.clone(),
        Unflushed::Kept | Unflushed::OnlyNames => now.clone(),
        Unflushed::Chance(_) => {
            let names: BTreeSet<_> = now.keys().chain(durable.keys()).collect();
            let pick = |name: &String| {
                let from = if chance.bool() { now } else { durable };
                from.get(name).map(|node| (name.clone(), *node))
            };
            names.into_iter().filter_map(pick).collect()
        }
    }
}

fn found_content(file: &FileNode, unflushed: Unflushed, chance: &mut fastrand::Rng) -> Vec<u8> {
    match unflushed {
        Unflushed::Lost | Unflushed::OnlyNames => file.durable.clone(),
        _ if file.now == file.durable => file.durable.clone(),
        Unflushed::Chance(_) => match chance.u8(..4) {
            0 => file.durable.clone(),
            1 => file.now.clone(),
            2 => vec![0; file.now.len()],
            _ => file.now[..chance.usize(..=file.now.len())].to_vec(),
        },
        // The kernel has dropped what it could not write.
        _ if file.is_lost => file.durable.clone(),
        Unflushed::Kept | Unflushed::OnlyContents => file.now.clone(),
    }
}

impl Disk for SimDisk {
    fn open(&self, path: &str, access: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        let mut world = self.0.lock();
        world.step()?;
        let node = match (world.find(path), access) {
            (Ok(_), OpenMode::Create | OpenMode::CreatePublic) => {
                return Err(io::ErrorKind::AlreadyExists.into());
            }
            (Ok(node), _) => node,
            (Err(error), OpenMode::Update | OpenMode::Create | OpenMode::CreatePublic)
                if error.kind() == io::ErrorKind::NotFound =>
            {
                world.allocate()?;
                world.add(path, World::empty_file())?
            }
            (Err(error), _) => return Err(error),
        };
        if matches!(world.nodes[node], SimNode::Dir { .. }) {
            return Err(io::ErrorKind::IsADirectory.into());
        }
        world.handles += 1;
        Ok(Box::new(SimFile { world: self.0.clone(), node, handle: world.handles }))
    }

    fn open_target(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        self.open(path, OpenMode::Read)
    }

    fn create_whole(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        let mut world = self.0.lock();
        world.step()?;
        if world.find(path).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        world.allocate()?;
        let node = world.add(path, World::empty_file())?;
        world.file(node).now = bytes.to_vec();
        Ok(())
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        let mut world = self.0.lock();
        world.step()?;
        if world.find(path).is_ok() {
            return Err(io::ErrorKind::AlreadyExists.into());
        }
        world.allocate()?;
        world.add(path, World::empty_dir()).map(drop)
    }

    fn read_dir(&self, path: &str) -> io::Result<Vec<String>> {
        let mut world = self.0.lock();
        world.step()?;
        Ok(world.entries(path)?.1.keys().cloned().collect())
    }

    fn metadata(&self, path: &str) -> io::Result<Metadata> {
        let mut world = self.0.lock();
        world.step()?;
        let node = world.find(path)?;
        Ok(world.describe(node))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        let mut world = self.0.lock();
        world.step()?;
        let node = world.find(from)?;
        world.names_mut(parent(to))?.insert(name(to).to_owned(), node);
        world.names_mut(parent(from))?.remove(name(from));
        Ok(())
    }

    fn unlink(&self, path: &str) -> io::Result<()> {
        let mut world = self.0.lock();
        world.step()?;
        world.find(path)?;
        world.is_full = false;
        world.names_mut(parent(path))?.remove(name(path));
        Ok(())
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        let mut world = self.0.lock();
        world.step()?;
        let (at, _) = world.entries(path)?;
        if let SimNode::Dir { now, durable } = &mut world.nodes[at] {
            *durable = now.clone();
        }
        Ok(())
    }

    fn sync_files(&self, files: &[&dyn DiskFile]) -> io::Result<()> {
        files.iter().try_for_each(|file| file.sync())
    }

    fn touch(&self, path: &str) -> io::Result<()> {
        let mut world = self.0.lock();
        world.step()?;
        let node = world.find(path)?;
        world.file(node).modified = SystemTime::now();
        Ok(())
    }

    fn restrict(&self, path: &str) -> io::Result<bool> {
        let mut world = self.0.lock();
        world.step()?;
        world.find(path).map(|_| false)
    }

    fn space(&self) -> io::Result<Space> {
        let mut world = self.0.lock();
        world.step()?;
        let capacity = world.capacity.unwrap_or(1 << 40);
        let used: u64 = world.used();
        let available = if world.is_full { 0 } else { capacity.saturating_sub(used) };
        Ok(Space { capacity, available })
    }
}

#[derive(Debug)]
struct SimFile {
    world: Arc<Mutex<World>>,
    node: usize,
    handle: u64,
}

impl DiskFile for SimFile {
    fn metadata(&self) -> io::Result<Metadata> {
        let mut world = self.world.lock();
        world.step()?;
        Ok(world.describe(self.node))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        let mut world = self.world.lock();
        world.step()?;
        let content = &world.file(self.node).now;
        let rest = content.get(offset as usize..).unwrap_or_default();
        let read = rest.len().min(buffer.len());
        buffer[..read].copy_from_slice(&rest[..read]);
        Ok(read)
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        let mut world = self.world.lock();
        let outcome = world.step();
        // One that is cut or fails may have written a part.
        let bytes = if outcome.is_ok() { bytes } else { &bytes[..bytes.len() / 2] };
        let end = offset as usize + bytes.len();
        let blocks = offset as usize / BLOCK..end.div_ceil(BLOCK);
        if blocks.clone().any(|block| !world.file(self.node).blocks.contains(&block)) {
            world.allocate()?;
        }
        let file = world.file(self.node);
        file.blocks.extend(blocks);
        if file.now.len() < end {
            file.now.resize(end, 0);
        }
        file.now[offset as usize..end].copy_from_slice(bytes);
        file.modified = SystemTime::now();
        outcome
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut world = self.world.lock();
        world.step()?;
        let file = world.file(self.node);
        file.now.resize(len as usize, 0);
        file.blocks.retain(|block| *block < (len as usize).div_ceil(BLOCK));
        Ok(())
    }

    fn set_read_only(&self) -> io::Result<()> {
        self.world.lock().step()
    }

    fn set_public(&self) -> io::Result<()> {
        self.world.lock().step()
    }

    fn sync(&self) -> io::Result<()> {
        self.world.lock().flush(self.node)
    }

    fn try_lock(&self, lock: Lock) -> io::Result<bool> {
        let mut world = self.world.lock();
        world.step()?;
        let locks = &mut world.file(self.node).locks;
        let others = || locks.iter().filter(|(handle, _)| *handle != self.handle);
        let is_free = match lock {
            Lock::Exclusive => others().next().is_none(),
            Lock::Shared => others().all(|(_, held)| *held == Lock::Shared),
        };
        if is_free {
            locks.retain(|(handle, _)| *handle != self.handle);
            locks.push((self.handle, lock));
        }
        Ok(is_free)
    }

    fn unlock(&self) -> io::Result<()> {
        let mut world = self.world.lock();
        world.step()?;
        world.file(self.node).locks.retain(|(handle, _)| *handle != self.handle);
        Ok(())
    }
}

impl Drop for SimFile {
    fn drop(&mut self) {
        self.world.lock().file(self.node).locks.retain(|(handle, _)| *handle != self.handle);
    }
}
