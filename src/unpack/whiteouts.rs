//! Removes the entries that whiteouts hide and other entries replace.

use crate::unpack::change::{Change, What};
use crate::unpack::fault::UnpackFault;
use crate::unpack::merge::{Found, Merge, Way};
use crate::unpack::output::Output;
use crate::unpack::path;
use crate::unpack::tree::{Meta, NodeId, NodeKind, ROOT};

impl<O: Output> Merge<O> {
    /// Applies a marker; `is_last` says that no entry of the layer follows.
    pub(super) fn marker(&mut self, marker: Change, is_last: bool) -> Result<(), UnpackFault> {
        let is_opaque = matches!(marker.what, What::Opaque);
        let (folder, name) = if is_opaque { (&marker.path[..], &b""[..]) } else { path::split(&marker.path) };
        let mut way = Way::default();
        let found = self.look(folder, &mut way);
        if way.lower_links > 0 && !is_last {
            self.late_markers.push(marker);
            return Ok(());
        }
        // A link of this layer leads to nothing that the marker is about. A loop leads nowhere.
        let Ok(Found::Folder(folder)) = found else { return Ok(()) };
        if way.own_links > 0 {
            return Ok(());
        }
        if is_opaque {
            return self.cut(folder);
        }
        match self.tree.lookup(folder, name) {
            Some(id) if self.tree.kind(id) == NodeKind::Dir => self.hide_dir(id),
            Some(id) if self.tree.layer(id) < self.layer => self.remove(id),
            _ => Ok(()),
        }
    }

    /// Hides what lower layers have in a folder.
    pub(super) fn cut(&mut self, folder: NodeId) -> Result<(), UnpackFault> {
        if self.tree.born(folder) == self.layer {
            return Ok(());
        }
        self.note_cut(folder);
        self.prune(folder)?;
        self.tree.set_born(folder, self.layer);
        Ok(())
    }

    /// Hides a folder of lower layers. If this layer has put something into it, a new folder holds that.
    fn hide_dir(&mut self, id: NodeId) -> Result<(), UnpackFault> {
        if self.is_own_dir(id) {
            return Ok(());
        }
        self.note_cut(id);
        self.prune(id)?;
        self.leave(id)
    }

    /// Returns whether this layer made the folder, or named it and hides what lower layers have in it.
    fn is_own_dir(&self, id: NodeId) -> bool {
        self.tree.born(id) == self.layer && self.tree.layer(id) == self.layer
    }

    /// Removes what lower layers have in a folder.
    fn prune(&mut self, folder: NodeId) -> Result<(), UnpackFault> {
        let mut entered = Vec::new();
        let mut found = self.tree.children(folder).collect::<Vec<_>>();
        while let Some(id) = found.pop() {
            let is_dir = self.tree.kind(id) == NodeKind::Dir;
            if is_dir && !self.is_own_dir(id) {
                found.extend(self.tree.children(id));
                entered.push(id);
            } else if !is_dir && self.tree.layer(id) < self.layer {
                self.delete(id)?;
            }
        }
        // Those below come after those above.
        entered.into_iter().rev().try_for_each(|id| self.leave(id))
    }

    /// Ends the pruning of a folder: it goes, unless this layer has put something into it or named it.
    fn leave(&mut self, id: NodeId) -> Result<(), UnpackFault> {
        let is_named = self.tree.layer(id) == self.layer;
        if !is_named && self.tree.children(id).next().is_none() {
            return self.delete(id);
        }
        self.tree.set_born(id, self.layer);
        if !is_named {
            self.tree.set_layer(id, self.layer);
            self.tree.set_meta(id, Meta::IMPLIED);
            self.keep_xattrs(id, Vec::new())?;
        }
        Ok(())
    }

    /// Removes a node, and all that is below it.
    pub(super) fn remove(&mut self, id: NodeId) -> Result<(), UnpackFault> {
        let made_by = match self.tree.kind(id) {
            NodeKind::Dir => self.tree.born(id),
            _ => self.tree.layer(id),
        };
        if made_by < self.layer {
            self.note_cut(id);
        }
        let mut found = vec![id];
        while let Some(last) = found.last().copied() {
            let child = self.tree.children(last).next();
            match child {
                Some(child) => found.push(child),
                None => {
                    self.delete(last)?;
                    found.pop();
                }
            }
        }
        Ok(())
    }

    /// Removes a file, or an empty folder.
    fn delete(&mut self, id: NodeId) -> Result<(), UnpackFault> {
        if self.tree.present(id) == self.folder {
            self.output.remove(&self.tree, self.folder, id)?;
        } else if self.is_layered {
            self.split_inodes.extend(self.tree.names_of_inode(id).into_iter().nth(1));
        }
        self.keep_xattrs(id, Vec::new())?;
        self.tree.detach(id);
        Ok(())
    }

    fn note_cut(&mut self, id: NodeId) {
        if self.is_layered && id != ROOT {
            let was_dir = self.tree.kind(id) == NodeKind::Dir;
            self.cuts.insert((self.tree.parent(id), self.tree.name(id).to_vec(), was_dir));
        }
    }
}
