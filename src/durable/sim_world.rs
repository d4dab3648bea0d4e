//! The state of the simulated disk: names and contents, each durable or not.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::time::{Duration, SystemTime};

use crate::durable::disk::{FileType, Lock, Metadata};
use crate::durable::write::parent;

/// What a power cut leaves of unflushed state.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Unflushed {
    /// It is lost.
    Lost,
    /// Names are there, contents are not: ext4 may leave that of a file that was renamed unflushed.
    OnlyNames,
    /// Contents are there, names are not.
    OnlyContents,
    /// All is there: the process was killed, not the machine.
    Kept,
    /// Each name and each content by chance; contents also torn, or as zeros.
    Chance(u64),
}

#[derive(Debug, Default)]
pub(super) struct World {
    pub(super) nodes: Vec<SimNode>,
    pub(super) steps: u64,
    pub(super) cut_at: Option<u64>,
    pub(super) failing: Option<(u64, rustix::io::Errno)>,
    pub(super) handles: u64,
    /// Nothing can be allocated.
    pub(super) is_full: bool,
    /// The disk's size, bytes; unlimited if `None`.
    pub(super) capacity: Option<u64>,
}

#[derive(Clone, Debug)]
pub(super) enum SimNode {
    Dir { now: BTreeMap<String, usize>, durable: BTreeMap<String, usize> },
    File(FileNode),
}

#[derive(Clone, Debug)]
pub(super) struct FileNode {
    pub(super) now: Vec<u8>,
    pub(super) durable: Vec<u8>,
    /// A flush failed: the kernel has dropped the pages, and later flushes succeed without them.
    pub(super) is_lost: bool,
    pub(super) modified: SystemTime,
    /// The blocks that were allocated, by their numbers; the rest is a hole.
    pub(super) blocks: BTreeSet<usize>,
    pub(super) locks: Vec<(u64, Lock)>,
}

impl World {
    pub(super) fn empty_dir() -> SimNode {
        SimNode::Dir { now: BTreeMap::new(), durable: BTreeMap::new() }
    }

    /// Counts an operation, and fails it if the power is off or it was told to fail.
    pub(super) fn step(&mut self) -> io::Result<()> {
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
    pub(super) fn allocate(&self) -> io::Result<()> {
        if self.is_full { Err(rustix::io::Errno::NOSPC.into()) } else { Ok(()) }
    }

    pub(super) fn entries(&self, path: &str) -> io::Result<(usize, &BTreeMap<String, usize>)> {
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

    pub(super) fn find(&self, path: &str) -> io::Result<usize> {
        let (_, entries) = self.entries(parent(path))?;
        entries.get(name(path)).copied().ok_or_else(|| io::ErrorKind::NotFound.into())
    }

    pub(super) fn names_mut(&mut self, dir: &str) -> io::Result<&mut BTreeMap<String, usize>> {
        let (at, _) = self.entries(dir)?;
        match &mut self.nodes[at] {
            SimNode::Dir { now, .. } => Ok(now),
            SimNode::File(_) => Err(io::ErrorKind::NotADirectory.into()),
        }
    }

    pub(super) fn add(&mut self, path: &str, node: SimNode) -> io::Result<usize> {
        let at = self.nodes.len();
        self.names_mut(parent(path))?.insert(name(path).to_owned(), at);
        self.nodes.push(node);
        Ok(at)
    }

    pub(super) fn empty_file() -> SimNode {
        SimNode::File(FileNode {
            now: Vec::new(),
            durable: Vec::new(),
            is_lost: false,
            modified: SystemTime::now(),
            blocks: BTreeSet::new(),
            locks: Vec::new(),
        })
    }

    pub(super) fn used(&self) -> u64 {
        let files = self.nodes.iter().filter_map(|node| match node {
            SimNode::File(file) => Some(file.now.len() as u64),
            SimNode::Dir { .. } => None,
        });
        files.sum()
    }

    pub(super) fn file(&mut self, node: usize) -> &mut FileNode {
        match &mut self.nodes[node] {
            SimNode::File(file) => file,
            SimNode::Dir { .. } => panic!("a folder was opened as a file"),
        }
    }

    pub(super) fn flush(&mut self, node: usize) -> io::Result<()> {
        let outcome = self.step();
        let file = self.file(node);
        match &outcome {
            Ok(()) if !file.is_lost => file.durable = file.now.clone(),
            Err(error) if error.raw_os_error().is_some() => file.is_lost = true,
            Ok(()) | Err(_) => {}
        }
        outcome
    }

    pub(super) fn describe(&self, node: usize) -> Metadata {
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

pub(super) fn name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

impl SimNode {
    /// Returns the node that is found when the power is back.
    pub(super) fn after_power_cut(&self, unflushed: Unflushed, chance: &mut fastrand::Rng) -> SimNode {
        match self {
            SimNode::Dir { now, durable } => {
                let found = found_names(now, durable, unflushed, chance);
                SimNode::Dir { now: found.clone(), durable: found }
            }
            SimNode::File(file) => {
                let found = found_content(file, unflushed, chance);
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
        }
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
        // The kernel has dropped the pages that it could not write.
        _ if file.is_lost => file.durable.clone(),
        Unflushed::Kept | Unflushed::OnlyContents => file.now.clone(),
    }
}
