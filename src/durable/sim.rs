//! A disk in memory that can lose power at every operation.
//!
//! It keeps durable state apart from unflushed state. [`SimDisk::after_power_cut`] returns the disk that the machine
//! would find: with all that was flushed, and all, none or any part of the rest, as on a real disk.

use std::io;
use std::sync::Arc;
use std::time::SystemTime;

use parking_lot::Mutex;

use crate::durable::disk::{Disk, DiskFile, Lock, Metadata, OpenMode, Space};
pub(crate) use crate::durable::sim_world::Unflushed;
use crate::durable::sim_world::{SimNode, World, name};
use crate::durable::write::parent;

/// The unit of allocation, bytes.
const BLOCK: usize = 512;

#[derive(Clone, Debug)]
pub(crate) struct SimDisk(Arc<Mutex<World>>);

impl SimDisk {
    pub(crate) fn new() -> Self {
        SimDisk(Arc::new(Mutex::new(World { nodes: vec![World::empty_dir()], ..World::default() })))
    }

    /// Returns the number of operations so far.
    pub(crate) fn steps(&self) -> u64 {
        self.0.lock().steps
    }

    /// Cuts the power at this operation and all later ones.
    pub(crate) fn cut_at(self, step: u64) -> Self {
        self.0.lock().cut_at = Some(step);
        self
    }

    /// Fails this one operation.
    pub(crate) fn fail_at(self, step: u64, errno: rustix::io::Errno) -> Self {
        self.0.lock().failing = Some((step, errno));
        self
    }

    /// Bounds the size that [`Disk::space`] reports.
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

    /// Dates all files, as a process with a wrong clock does.
    pub(crate) fn date_files(&self, time: SystemTime) {
        let mut world = self.0.lock();
        for node in &mut world.nodes {
            if let SimNode::File(file) = node {
                file.modified = time;
            }
        }
    }

    /// Returns the disk that the next process finds when this one was killed: unflushed state is there, and may
    /// still be lost.
    pub(crate) fn after_kill(&self) -> Self {
        let mut nodes = self.0.lock().nodes.clone();
        for node in &mut nodes {
            if let SimNode::File(file) = node {
                file.locks.clear();
            }
        }
        SimDisk(Arc::new(Mutex::new(World { nodes, ..World::default() })))
    }

    /// Returns the disk that is found when the power is back.
    pub(crate) fn after_power_cut(&self, unflushed: Unflushed) -> Self {
        let mut chance = match unflushed {
            Unflushed::Chance(seed) => fastrand::Rng::with_seed(seed),
            _ => fastrand::Rng::with_seed(0),
        };
        let nodes =
            self.0.lock().nodes.iter().map(|node| node.after_power_cut(unflushed, &mut chance)).collect();
        SimDisk(Arc::new(Mutex::new(World { nodes, ..World::default() })))
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
        // A write that is cut or fails may have written a part.
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
