//! Applies the changes of layers, in order, to the tree and to the output.
//!
//! What a layer makes is its entries, in order, applied to what its markers leave of the lower layers. The
//! order of a marker among the entries means nothing: a node knows the layer that made it, and a marker
//! takes only what lower layers made. So entries are applied as they come, but for those that
//! depend on what a later marker may hide: an entry below a symbolic link, and a hard link to a lower
//! file ([`Merge::must_wait`]). A marker below a symbolic link of a lower layer waits for all entries,
//! because one of them may replace the link.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::unpack::change::{Change, What, XattrList};
use crate::unpack::fault::{UnpackFault, shown};
use crate::unpack::output::{Content, Output, View, XattrsByNode};
use crate::unpack::path::{self, MAX_PATH};
use crate::unpack::tree::{Meta, NodeId, NodeKind, ROOT, Tree};

/// How many symbolic links a path may lead through.
const MAX_LINKS: usize = 40;
/// Bytes of extended attributes that are kept in memory.
const MAX_XATTRS: usize = 2 << 20;

/// The tree, and what the layer in turn has done to it.
pub(super) struct Merge<O> {
    pub(super) tree: Tree,
    pub(super) output: Arc<O>,
    /// The layer in turn, and the folder that it is written to.
    pub(super) layer: u16,
    pub(super) folder: u16,
    /// Whether each layer is written to a folder of its own.
    pub(super) is_layered: bool,
    /// Names that lower layers had in a folder, and that the layer took away or cut: whether each was
    /// a folder.
    pub(super) cuts: BTreeSet<(NodeId, Vec<u8>, bool)>,
    pub(super) late_markers: Vec<Change>,
    /// Names of lower inodes that have lost another name.
    pub(super) split_inodes: Vec<NodeId>,
    /// Folders that were made on the disk, parents first.
    made: Vec<NodeId>,
    xattrs: XattrsByNode,
    xattr_bytes: usize,
}

/// Where a path leads.
pub(super) enum Found {
    Folder(NodeId),
    Nothing,
}

/// How many symbolic links a walk has followed: those of lower layers, and those of the layer in turn.
#[derive(Default)]
pub(super) struct Way {
    pub(super) lower_links: usize,
    pub(super) own_links: usize,
}

impl<O: Output> Merge<O> {
    pub(super) fn new(output: Arc<O>) -> Self {
        let (folder, output_of_next) = (output.folder_of(0), output.folder_of(1));
        let mut tree = Tree::new();
        tree.set_present(ROOT, folder);
        Merge {
            tree,
            output,
            layer: 0,
            folder,
            is_layered: folder != output_of_next,
            cuts: BTreeSet::new(),
            late_markers: Vec::new(),
            split_inodes: Vec::new(),
            made: vec![ROOT],
            xattrs: XattrsByNode::new(),
            xattr_bytes: 0,
        }
    }

    /// Begins with the next layer.
    pub(super) fn begin(&mut self, layer: u16) {
        self.layer = layer;
        self.cuts.clear();
        self.split_inodes.clear();
        let folder = self.output.folder_of(layer);
        if folder != self.folder {
            self.folder = folder;
            self.made = vec![ROOT];
            self.tree.set_present(ROOT, folder);
        }
    }

    /// Returns whether an entry depends on what a later marker of this layer may hide.
    pub(super) fn must_wait(&self, change: &Change) -> bool {
        if self.layer == 0 || change.is_marker() {
            return false;
        }
        if self.leads_through_link(path::split(&change.path).0) {
            return true;
        }
        let What::HardLink(target) = &change.what else { return false };
        let (folder, name) = path::split(target);
        if self.leads_through_link(folder) {
            return true;
        }
        let Ok(Found::Folder(folder)) = self.look(folder, &mut Way::default()) else { return false };
        self.tree.lookup(folder, name).is_some_and(|id| self.tree.layer(id) < self.layer)
    }

    /// Returns whether a path leads through a symbolic link. A marker may hide the link, or a folder on
    /// the way that the link leads.
    fn leads_through_link(&self, path: &[u8]) -> bool {
        let mut way = Way::default();
        // A walk fails only at a link.
        self.look(path, &mut way).is_err() || way.lower_links + way.own_links > 0
    }

    /// Applies a change. `content` is that of a file.
    pub(super) fn apply(
        &mut self,
        change: Change,
        content: Option<Content<'_, O::Staged>>,
    ) -> Result<(), UnpackFault> {
        if change.is_marker() {
            return self.marker(change, false);
        }
        let Change { path, what, meta, xattrs } = change;
        if path.is_empty() {
            self.tree.set_layer(ROOT, self.layer);
            self.tree.set_meta(ROOT, meta);
            return self.keep_xattrs(ROOT, xattrs);
        }
        let (folder, name) = path::split(&path);
        match what {
            What::Dir => {
                let folder = self.folder_for(folder)?;
                let id = self.dir(folder, name, meta)?;
                self.keep_xattrs(id, xattrs)
            }
            What::HardLink(target) => self.link(folder, name, &target),
            What::File => {
                let Some(content) = content else {
                    return Err(UnpackFault::invalid("the file has no content"));
                };
                let id = self.add(folder, name, NodeKind::File, meta)?;
                let written = self.output.add_file(&self.tree, self.folder, id, &xattrs, content)?;
                self.tree.set_value(id, written.value);
                self.tree.set_present(id, self.folder);
                self.keep_xattrs(id, written.xattrs)
            }
            What::Symlink(target) => {
                let id = self.add(folder, name, NodeKind::Symlink, Meta { mode: 0o777, ..meta })?;
                self.tree.set_target(id, &target)?;
                self.output.add_symlink(&self.tree, self.folder, id)?;
                self.tree.set_present(id, self.folder);
                Ok(())
            }
            What::Special(kind, device) => {
                let id = self.add(folder, name, kind, meta)?;
                self.tree.set_device(id, device);
                if self.output.add_special(&self.tree, self.folder, id)? {
                    self.tree.set_present(id, self.folder);
                }
                Ok(())
            }
            What::Whiteout | What::Opaque => Ok(()),
        }
    }

    /// Ends the layer: applies the markers that waited, and hides in its folder what it took away of the
    /// folders below.
    pub(super) fn end(&mut self) -> Result<(), UnpackFault> {
        for marker in std::mem::take(&mut self.late_markers) {
            self.marker(marker, true)?;
        }
        // Overlayfs shows the link count of a lower inode, with the names that are hidden.
        for id in std::mem::take(&mut self.split_inodes) {
            if self.tree.kind(id) != NodeKind::Gone {
                self.copy_up(id)?;
            }
        }
        for (folder, name, was_dir) in std::mem::take(&mut self.cuts) {
            // Nothing of a lower layer shows in a folder that was cut itself.
            let is_cut = self.tree.born(folder) == self.layer;
            if self.tree.kind(folder) != NodeKind::Dir || is_cut {
                continue;
            }
            match self.tree.lookup(folder, &name) {
                None => {
                    self.be_present(folder)?;
                    self.output.add_whiteout(&self.tree, self.folder, folder, &name)?;
                }
                Some(id) if was_dir && self.tree.kind(id) == NodeKind::Dir => {
                    self.be_present(id)?;
                    self.output.set_opaque(&self.tree, self.folder, id)?;
                }
                Some(_) => {}
            }
        }
        self.output.end_layer(self.layer, self.view())
    }

    /// What the layer has made of the tree.
    pub(super) fn view(&self) -> View<'_> {
        View {
            tree: &self.tree,
            xattrs: &self.xattrs,
            made: &self.made,
            folder: self.folder,
            is_root_cut: self.layer > 0 && self.tree.born(ROOT) == self.layer,
        }
    }

    /// Adds a name for what is no folder, in place of what has it.
    fn add(&mut self, folder: &[u8], name: &[u8], kind: NodeKind, meta: Meta) -> Result<NodeId, UnpackFault> {
        let folder = self.folder_for(folder)?;
        if let Some(existing) = self.tree.lookup(folder, name) {
            self.remove(existing)?;
        }
        self.insert(folder, name, kind, meta)
    }

    fn insert(
        &mut self,
        folder: NodeId,
        name: &[u8],
        kind: NodeKind,
        meta: Meta,
    ) -> Result<NodeId, UnpackFault> {
        path::check_new_name(name, folder == ROOT)?;
        self.be_present(folder)?;
        self.tree.insert(folder, name, kind, meta, self.layer)
    }

    /// The folder of this name as an entry of this layer.
    fn dir(&mut self, folder: NodeId, name: &[u8], meta: Meta) -> Result<NodeId, UnpackFault> {
        match self.tree.lookup(folder, name) {
            Some(id) if self.tree.kind(id) == NodeKind::Dir => {
                self.be_present(id)?;
                self.tree.set_layer(id, self.layer);
                self.tree.set_meta(id, meta);
                Ok(id)
            }
            Some(other) => {
                self.remove(other)?;
                self.new_dir(folder, name, meta)
            }
            None => self.new_dir(folder, name, meta),
        }
    }

    fn new_dir(&mut self, folder: NodeId, name: &[u8], meta: Meta) -> Result<NodeId, UnpackFault> {
        let id = self.insert(folder, name, NodeKind::Dir, meta)?;
        self.be_present(id)?;
        Ok(id)
    }

    /// Makes a folder, and those above it, in the folder that is written to.
    fn be_present(&mut self, id: NodeId) -> Result<(), UnpackFault> {
        let mut missing = Vec::new();
        let mut at = id;
        while self.tree.present(at) != self.folder {
            missing.push(at);
            at = self.tree.parent(at);
        }
        for id in missing.into_iter().rev() {
            self.output.add_dir(&self.tree, self.folder, id)?;
            self.tree.set_present(id, self.folder);
            self.made.push(id);
        }
        Ok(())
    }

    fn link(&mut self, folder: &[u8], name: &[u8], target: &[u8]) -> Result<(), UnpackFault> {
        let missing =
            || UnpackFault::invalid(format!("it is a hard link to {}, which is not there", shown(target)));
        let (target_folder, target_name) = path::split(target);
        let Found::Folder(target_folder) = self.look(target_folder, &mut Way::default())? else {
            return Err(missing());
        };
        let existing = match self.tree.lookup(target_folder, target_name) {
            _ if target.is_empty() => return Err(UnpackFault::invalid("it is a hard link to the root")),
            None => return Err(missing()),
            Some(id) if self.tree.kind(id) == NodeKind::Dir => {
                return Err(UnpackFault::invalid(format!(
                    "it is a hard link to {}, a folder",
                    shown(target)
                )));
            }
            Some(id) => id,
        };
        let folder = self.folder_for(folder)?;
        if let Some(replaced) = self.tree.lookup(folder, name) {
            if replaced == existing {
                return Err(UnpackFault::invalid("it is a hard link to itself"));
            }
            self.remove(replaced)?;
        }
        // It may have stood in the place of a folder that was made, or below what was replaced.
        if self.tree.kind(existing) == NodeKind::Gone {
            return Err(missing());
        }
        self.copy_up(existing)?;
        let id = self.insert(folder, name, self.tree.kind(existing), self.tree.meta(existing))?;
        self.tree.set_value(id, self.tree.value(existing));
        self.tree.join(id, existing);
        if let Some(xattrs) = self.xattrs.get(&existing).cloned() {
            self.keep_xattrs(id, xattrs)?;
        }
        if self.tree.present(existing) == self.folder {
            self.output.add_link(&self.tree, self.folder, id, existing)?;
            self.tree.set_present(id, self.folder);
        }
        Ok(())
    }

    /// Brings an inode of a lower folder into the folder that is written to, under each of its names.
    fn copy_up(&mut self, id: NodeId) -> Result<(), UnpackFault> {
        if matches!(self.tree.present(id), 0) || self.tree.present(id) == self.folder {
            return Ok(());
        }
        for (at, name) in self.tree.names_of_inode(id).into_iter().enumerate() {
            self.be_present(self.tree.parent(name))?;
            match at {
                0 => self.output.copy_up(&self.tree, self.folder, name)?,
                _ => self.output.add_link(&self.tree, self.folder, name, id)?,
            }
            self.tree.set_present(name, self.folder);
        }
        Ok(())
    }

    /// Keeps the extended attributes of a node, in place of those that it had.
    pub(super) fn keep_xattrs(&mut self, id: NodeId, xattrs: XattrList) -> Result<(), UnpackFault> {
        let bytes = |xattrs: &XattrList| xattrs.iter().map(|(name, value)| name.len() + value.len()).sum();
        let added: usize = bytes(&xattrs);
        let old = if xattrs.is_empty() { self.xattrs.remove(&id) } else { self.xattrs.insert(id, xattrs) };
        self.xattr_bytes = self.xattr_bytes + added - old.as_ref().map_or(0, bytes);
        if self.xattr_bytes > MAX_XATTRS {
            let text = format!("the extended attributes of all folders are more than {MAX_XATTRS} bytes");
            return Err(UnpackFault::unsupported(text));
        }
        Ok(())
    }

    /// The folder that a path leads to, through symbolic links; what is missing of it is made.
    fn folder_for(&mut self, path: &[u8]) -> Result<NodeId, UnpackFault> {
        let mut way = Way::default();
        let mut at = ROOT;
        let mut rest = names(path);
        while let Some(name) = rest.pop() {
            match &name[..] {
                b"" | b"." => continue,
                b".." => {
                    at = self.tree.parent(at);
                    continue;
                }
                _ => {}
            }
            at = match self.tree.lookup(at, &name) {
                None => {
                    if way.lower_links + way.own_links > 0
                        && self.tree.path(at).len() + 1 + name.len() > MAX_PATH
                    {
                        return Err(UnpackFault::invalid(format!(
                            "the path is longer than {MAX_PATH} bytes"
                        )));
                    }
                    self.new_dir(at, &name, Meta::IMPLIED)?
                }
                Some(id) => match self.tree.kind(id) {
                    NodeKind::Dir => id,
                    NodeKind::Symlink => {
                        self.follow(id, &mut at, &mut rest, &mut way)?;
                        at
                    }
                    _ if self.tree.layer(id) < self.layer => {
                        self.remove(id)?;
                        self.new_dir(at, &name, Meta::IMPLIED)?
                    }
                    _ => {
                        let text = format!("{} is no folder", shown(&self.tree.path(id)));
                        return Err(UnpackFault::invalid(text));
                    }
                },
            };
        }
        Ok(at)
    }

    /// The same without making anything.
    pub(super) fn look(&self, path: &[u8], way: &mut Way) -> Result<Found, UnpackFault> {
        let mut at = ROOT;
        let mut rest = names(path);
        while let Some(name) = rest.pop() {
            match &name[..] {
                b"" | b"." => continue,
                b".." => {
                    at = self.tree.parent(at);
                    continue;
                }
                _ => {}
            }
            let Some(id) = self.tree.lookup(at, &name) else { return Ok(Found::Nothing) };
            match self.tree.kind(id) {
                NodeKind::Dir => at = id,
                NodeKind::Symlink => self.follow(id, &mut at, &mut rest, way)?,
                _ => return Ok(Found::Nothing),
            }
        }
        Ok(Found::Folder(at))
    }

    /// Puts a symbolic link's target in front of what is left of a path.
    fn follow(
        &self,
        link: NodeId,
        at: &mut NodeId,
        rest: &mut Vec<Vec<u8>>,
        way: &mut Way,
    ) -> Result<(), UnpackFault> {
        match self.tree.layer(link) < self.layer {
            true => way.lower_links += 1,
            false => way.own_links += 1,
        }
        if way.lower_links + way.own_links > MAX_LINKS {
            return Err(UnpackFault::invalid(format!("it lies behind more than {MAX_LINKS} symbolic links")));
        }
        let target = self.tree.target(link);
        if target.starts_with(b"/") {
            *at = ROOT;
        }
        rest.extend(names(target));
        Ok(())
    }
}

/// The names in a path, the last first.
fn names(path: &[u8]) -> Vec<Vec<u8>> {
    path.split(|byte| *byte == b'/').rev().map(<[u8]>::to_vec).collect()
}
