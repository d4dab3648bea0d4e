//! The tree that the layers make, as far as they were applied: what overlayfs would show.
//!
//! A node is a name in a folder. It takes 64 bytes, its name, and about 8 bytes in the table of names.
//! Names of one inode form a ring. Nodes are never used again, so that a number means one name for ever.

use std::hash::{BuildHasher, RandomState};

use crate::tar::Time;
use crate::unpack::fault::UnpackFault;

/// A node's number; the root's is 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) struct NodeId(u32);

pub(super) const ROOT: NodeId = NodeId(0);
const NONE: u32 = u32::MAX;

/// What a node is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum NodeKind {
    Dir,
    File,
    Symlink,
    CharDevice,
    BlockDevice,
    Fifo,
    /// It was removed.
    Gone,
}

/// What an inode has beside its content.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Meta {
    pub(super) mtime: Time,
    pub(super) uid: u32,
    pub(super) gid: u32,
    /// Permission, set-id and sticky bits.
    pub(super) mode: u16,
}

impl Meta {
    /// What a folder has that no entry names.
    pub(super) const IMPLIED: Meta =
        Meta { mtime: Time { seconds: 0, nanos: 0 }, uid: 0, gid: 0, mode: 0o755 };
}

struct Node {
    seconds: i64,
    /// A file's size or place, a device's number, or where a link's target is among the names.
    value: u64,
    nanos: u32,
    uid: u32,
    gid: u32,
    parent: u32,
    /// Siblings.
    next: u32,
    previous: u32,
    /// A folder's first child, or the next name of the same inode.
    child: u32,
    /// The name of the same inode before this one.
    ring: u32,
    name: u32,
    mode: u16,
    layer: u16,
    born: u16,
    present: u16,
    name_len: u8,
    kind: NodeKind,
}

/// The tree.
pub(super) struct Tree {
    nodes: Vec<Node>,
    /// Names, and the targets of symbolic links.
    text: Vec<u8>,
    /// Open addressing: the nodes by folder and name.
    table: Vec<u32>,
    used: usize,
    hasher: RandomState,
}

impl Tree {
    /// The tree of no layers: a root that no entry names.
    pub(super) fn new() -> Self {
        let mut tree = Tree {
            nodes: Vec::new(),
            text: Vec::new(),
            table: vec![NONE; 64],
            used: 0,
            hasher: RandomState::new(),
        };
        tree.nodes.push(tree.node(NONE, 0, 0, NodeKind::Dir, Meta::IMPLIED));
        tree
    }

    fn node(&self, parent: u32, name: u32, name_len: u8, kind: NodeKind, meta: Meta) -> Node {
        Node {
            seconds: meta.mtime.seconds,
            value: 0,
            nanos: meta.mtime.nanos,
            uid: meta.uid,
            gid: meta.gid,
            parent,
            next: NONE,
            previous: NONE,
            child: NONE,
            ring: NONE,
            name,
            mode: meta.mode,
            layer: 0,
            born: 0,
            present: 0,
            name_len,
            kind,
        }
    }

    /// The node of this name in a folder.
    pub(super) fn lookup(&self, folder: NodeId, name: &[u8]) -> Option<NodeId> {
        self.slot(folder, name).ok().and_then(|slot| self.table.get(slot)).map(|id| NodeId(*id))
    }

    /// Adds a name that the folder does not have yet, as made by `layer`.
    ///
    /// # Errors
    /// `ResourceExhausted` when there are too many names.
    pub(super) fn insert(
        &mut self,
        folder: NodeId,
        name: &[u8],
        kind: NodeKind,
        meta: Meta,
        layer: u16,
    ) -> Result<NodeId, UnpackFault> {
        if (self.used + 1) * 4 > self.table.len() * 3 {
            self.grow();
        }
        let id = u32::try_from(self.nodes.len()).ok().filter(|id| *id != NONE).ok_or_else(too_many)?;
        let at = self.add_text(name)?;
        let mut node = self.node(folder.0, at, u8::try_from(name.len()).unwrap_or(u8::MAX), kind, meta);
        (node.layer, node.born) = (layer, layer);
        if kind != NodeKind::Dir {
            (node.child, node.ring) = (id, id);
        }
        node.next = self.get(folder).child;
        if let Some(next) = self.nodes.get_mut(node.next as usize) {
            next.previous = id;
        }
        self.nodes.push(node);
        self.get_mut(folder).child = id;
        if let Err(slot) = self.slot(folder, name) {
            if let Some(entry) = self.table.get_mut(slot) {
                *entry = id;
            }
            self.used += 1;
        }
        Ok(NodeId(id))
    }

    /// Takes a name out of its folder: no folder, or an empty one.
    pub(super) fn detach(&mut self, id: NodeId) {
        self.remove_from_table(id);
        let Node { parent, next, previous, .. } = *self.get(id);
        match self.nodes.get_mut(previous as usize) {
            Some(previous) => previous.next = next,
            None => self.get_mut(NodeId(parent)).child = next,
        }
        if let Some(next) = self.nodes.get_mut(next as usize) {
            next.previous = previous;
        }
        if self.kind(id) != NodeKind::Dir {
            let Node { child: after, ring: before, .. } = *self.get(id);
            self.get_mut(NodeId(before)).child = after;
            self.get_mut(NodeId(after)).ring = before;
        }
        self.get_mut(id).kind = NodeKind::Gone;
    }

    /// Makes `id`, which is new, another name of the inode of `other`.
    pub(super) fn join(&mut self, id: NodeId, other: NodeId) {
        let next = self.get(other).child;
        (self.get_mut(id).child, self.get_mut(id).ring) = (next, other.0);
        self.get_mut(NodeId(next)).ring = id.0;
        self.get_mut(other).child = id.0;
    }

    /// All names of the inode, `id` first.
    pub(super) fn names_of_inode(&self, id: NodeId) -> Vec<NodeId> {
        let mut names = vec![id];
        let mut next = NodeId(self.get(id).child);
        while next != id && self.kind(id) != NodeKind::Dir {
            names.push(next);
            next = NodeId(self.get(next).child);
        }
        names
    }

    pub(super) fn children(&self, folder: NodeId) -> impl Iterator<Item = NodeId> + '_ {
        let first = Some(self.get(folder).child).filter(|_| self.kind(folder) == NodeKind::Dir);
        let there = |id: &u32| *id != NONE;
        std::iter::successors(first.filter(there), move |id| Some(self.get(NodeId(*id)).next).filter(there))
            .map(NodeId)
    }

    /// All nodes that were ever made.
    pub(super) fn all(&self) -> impl Iterator<Item = NodeId> + use<> {
        (0..u32::try_from(self.nodes.len()).unwrap_or(NONE)).map(NodeId)
    }

    /// The path, from the root.
    pub(super) fn path(&self, id: NodeId) -> Vec<u8> {
        let mut names = Vec::new();
        let mut at = id;
        while at != ROOT {
            names.push(self.name(at));
            at = self.parent(at);
        }
        names.reverse();
        names.join(&b'/')
    }

    pub(super) fn name(&self, id: NodeId) -> &[u8] {
        let node = self.get(id);
        self.text(node.name, usize::from(node.name_len))
    }

    /// The folder that the node stands in; the root stands in itself.
    pub(super) fn parent(&self, id: NodeId) -> NodeId {
        Some(self.get(id).parent).filter(|parent| *parent != NONE).map_or(ROOT, NodeId)
    }

    pub(super) fn kind(&self, id: NodeId) -> NodeKind {
        self.get(id).kind
    }

    pub(super) fn meta(&self, id: NodeId) -> Meta {
        let node = self.get(id);
        let mtime = Time { seconds: node.seconds, nanos: node.nanos };
        Meta { mtime, uid: node.uid, gid: node.gid, mode: node.mode }
    }

    pub(super) fn set_meta(&mut self, id: NodeId, meta: Meta) {
        let node = self.get_mut(id);
        (node.seconds, node.nanos) = (meta.mtime.seconds, meta.mtime.nanos);
        (node.uid, node.gid, node.mode) = (meta.uid, meta.gid, meta.mode);
    }

    /// The last layer that has an entry of this name.
    pub(super) fn layer(&self, id: NodeId) -> u16 {
        self.get(id).layer
    }

    pub(super) fn set_layer(&mut self, id: NodeId, layer: u16) {
        self.get_mut(id).layer = layer;
    }

    /// The layer from which on a folder's content counts: nothing of a lower one shows in it.
    pub(super) fn born(&self, id: NodeId) -> u16 {
        self.get(id).born
    }

    pub(super) fn set_born(&mut self, id: NodeId, layer: u16) {
        self.get_mut(id).born = layer;
    }

    /// The last folder on the disk that has the node; 0 if none.
    pub(super) fn present(&self, id: NodeId) -> u16 {
        self.get(id).present
    }

    pub(super) fn set_present(&mut self, id: NodeId, folder: u16) {
        self.get_mut(id).present = folder;
    }

    /// What only the output knows: where a file's content is.
    pub(super) fn value(&self, id: NodeId) -> u64 {
        self.get(id).value
    }

    pub(super) fn set_value(&mut self, id: NodeId, value: u64) {
        self.get_mut(id).value = value;
    }

    pub(super) fn device(&self, id: NodeId) -> (u32, u32) {
        let value = self.get(id).value;
        ((value >> 32) as u32, (value & u64::from(u32::MAX)) as u32)
    }

    pub(super) fn set_device(&mut self, id: NodeId, (major, minor): (u32, u32)) {
        self.get_mut(id).value = u64::from(major) << 32 | u64::from(minor);
    }

    /// A symbolic link's target.
    pub(super) fn target(&self, id: NodeId) -> &[u8] {
        let value = self.get(id).value;
        self.text((value >> 32) as u32, (value & u64::from(u32::MAX)) as usize)
    }

    pub(super) fn set_target(&mut self, id: NodeId, target: &[u8]) -> Result<(), UnpackFault> {
        let at = self.add_text(target)?;
        self.get_mut(id).value = u64::from(at) << 32 | target.len() as u64;
        Ok(())
    }

    fn text(&self, at: u32, len: usize) -> &[u8] {
        self.text.get(at as usize..).and_then(|text| text.get(..len)).unwrap_or_default()
    }

    fn add_text(&mut self, text: &[u8]) -> Result<u32, UnpackFault> {
        let at = u32::try_from(self.text.len()).map_err(|_| too_many())?;
        self.text.extend_from_slice(text);
        Ok(at)
    }

    #[expect(clippy::indexing_slicing, reason = "numbers come from this tree, which only grows")]
    fn get(&self, id: NodeId) -> &Node {
        &self.nodes[id.0 as usize]
    }

    #[expect(clippy::indexing_slicing, reason = "numbers come from this tree, which only grows")]
    fn get_mut(&mut self, id: NodeId) -> &mut Node {
        &mut self.nodes[id.0 as usize]
    }

    /// The slot of the table that has this name, or else the one that it belongs into.
    fn slot(&self, folder: NodeId, name: &[u8]) -> Result<usize, usize> {
        let mut slot = self.home(folder, name);
        loop {
            match self.table.get(slot).copied() {
                None | Some(NONE) => return Err(slot),
                Some(id) => {
                    if self.parent(NodeId(id)) == folder && self.name(NodeId(id)) == name {
                        return Ok(slot);
                    }
                }
            }
            slot = (slot + 1) & (self.table.len() - 1);
        }
    }

    /// Where a name belongs, if no other has its slot. The hash has a random key: nobody can make
    /// names that collide.
    fn home(&self, folder: NodeId, name: &[u8]) -> usize {
        self.hasher.hash_one((folder.0, name)) as usize & (self.table.len() - 1)
    }

    fn grow(&mut self) {
        let old = std::mem::take(&mut self.table);
        self.table = vec![NONE; old.len() * 2];
        for id in old.into_iter().filter(|id| *id != NONE) {
            if let Err(slot) = self.slot(self.parent(NodeId(id)), self.name(NodeId(id)))
                && let Some(entry) = self.table.get_mut(slot)
            {
                *entry = id;
            }
        }
    }

    /// Empties a slot, and moves back into it what stands behind it only because it was taken.
    fn remove_from_table(&mut self, id: NodeId) {
        let Ok(mut hole) = self.slot(self.parent(id), self.name(id)) else { return };
        let mask = self.table.len() - 1;
        let mut slot = hole;
        self.used -= 1;
        loop {
            if let Some(entry) = self.table.get_mut(hole) {
                *entry = NONE;
            }
            loop {
                slot = (slot + 1) & mask;
                let Some(next) = self.table.get(slot).copied().filter(|next| *next != NONE) else { return };
                let home = self.home(self.parent(NodeId(next)), self.name(NodeId(next)));
                // Whether the hole lies on the way from its home to its slot.
                if (slot.wrapping_sub(home) & mask) >= (slot.wrapping_sub(hole) & mask) {
                    if let Some(entry) = self.table.get_mut(hole) {
                        *entry = next;
                    }
                    hole = slot;
                    break;
                }
            }
        }
    }
}

fn too_many() -> UnpackFault {
    UnpackFault::new(crate::error::ErrorKind::ResourceExhausted, "the image has more names than can be held")
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_node_takes_64_bytes() {
        assert_eq!(size_of::<Node>(), 64);
    }

    proptest::proptest! {
        #[test]
        fn names_are_found_while_others_come_and_go(steps in proptest::collection::vec((0..3u8, 0..40u8), 0..400)) {
            let mut tree = Tree::new();
            let mut model = BTreeMap::new();
            for (what, name) in steps {
                let name = [name];
                match (what, model.get(&name).copied()) {
                    (0, Some(id)) => {
                        tree.detach(id);
                        model.remove(&name);
                    }
                    (_, None) => {
                        let id = tree.insert(ROOT, &name, NodeKind::File, Meta::IMPLIED, 0).unwrap();
                        model.insert(name, id);
                    }
                    _ => {}
                }
                for name in 0..40 {
                    assert_eq!(tree.lookup(ROOT, &[name]), model.get(&[name]).copied());
                }
                assert_eq!(tree.children(ROOT).count(), model.len());
            }
        }
    }
}
