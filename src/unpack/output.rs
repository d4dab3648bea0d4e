//! What the merged tree is written to: a folder, folders of layers, or a tar.

use std::collections::HashMap;
use std::io::BufRead;

use crate::tar::Segment;
use crate::unpack::change::XattrList;
use crate::unpack::fault::UnpackFault;
use crate::unpack::tree::{Meta, NodeId, Tree};

/// The extended attributes of folders, and of files where the output wants to know them.
pub(super) type XattrsByNode = HashMap<NodeId, XattrList>;

/// A file's content, on its way from the layer.
pub(super) struct Body<'a> {
    pub(super) content: &'a mut dyn BufRead,
    /// Bytes, with the holes of a sparse file.
    pub(super) size: u64,
    /// What `content` holds of a sparse file.
    pub(super) segments: Option<&'a [Segment]>,
}

/// Where a file comes from.
pub(super) enum Content<'a, S> {
    Body(Body<'a>),
    /// Its content was written before its place was known.
    Staged(S),
}

/// A file as it was written.
pub(super) struct Written {
    /// What the tree keeps of it.
    pub(super) value: u64,
    /// Attributes that the output has to know again.
    pub(super) xattrs: XattrList,
}

/// Takes the nodes of a tree. What `present` of a node names is the folder that has it; an output without
/// folders has one.
pub(super) trait Output: Sync + Send {
    /// A file whose place is not known yet.
    type Staged: Send;

    /// The folder that a layer is written to.
    fn folder_of(&self, layer: u16) -> u16;
    /// Writes a file of a layer whose turn has not come.
    fn stage(
        &self,
        layer: u16,
        meta: &Meta,
        xattrs: &XattrList,
        body: Body<'_>,
    ) -> Result<Self::Staged, UnpackFault>;
    fn add_file(
        &self,
        tree: &Tree,
        folder: u16,
        id: NodeId,
        xattrs: &XattrList,
        content: Content<'_, Self::Staged>,
    ) -> Result<Written, UnpackFault>;
    /// Adds a device or a named pipe; returns whether it is there.
    fn add_special(&self, tree: &Tree, folder: u16, id: NodeId) -> Result<bool, UnpackFault>;

    // An output that takes all else from the tree at the end has nothing to do here.

    fn add_dir(&self, _tree: &Tree, _folder: u16, _id: NodeId) -> Result<(), UnpackFault> {
        Ok(())
    }

    fn add_symlink(&self, _tree: &Tree, _folder: u16, _id: NodeId) -> Result<(), UnpackFault> {
        Ok(())
    }

    /// Adds a name to an inode that is in the same folder.
    fn add_link(
        &self,
        _tree: &Tree,
        _folder: u16,
        _id: NodeId,
        _existing: NodeId,
    ) -> Result<(), UnpackFault> {
        Ok(())
    }

    /// Removes a file, or an empty folder.
    fn remove(&self, _tree: &Tree, _folder: u16, _id: NodeId) -> Result<(), UnpackFault> {
        Ok(())
    }

    // Only folders of layers have others below them.

    /// Copies a node from the folder that has it.
    fn copy_up(&self, _tree: &Tree, _folder: u16, _id: NodeId) -> Result<(), UnpackFault> {
        Ok(())
    }

    /// Hides a name of the folders below.
    fn add_whiteout(
        &self,
        _tree: &Tree,
        _folder: u16,
        _parent: NodeId,
        _name: &[u8],
    ) -> Result<(), UnpackFault> {
        Ok(())
    }

    /// Hides what the folders below have in this one.
    fn set_opaque(&self, _tree: &Tree, _folder: u16, _id: NodeId) -> Result<(), UnpackFault> {
        Ok(())
    }

    /// Ends a layer while it has the turn.
    fn end_layer(&self, _layer: u16, _view: View<'_>) -> Result<(), UnpackFault> {
        Ok(())
    }

    /// Makes a layer that has ended durable, and gives it its name.
    fn commit_layer(&self, _layer: u16) -> Result<(), UnpackFault> {
        Ok(())
    }
}

/// What a layer has made of the tree.
pub(super) struct View<'a> {
    pub(super) tree: &'a Tree,
    pub(super) xattrs: &'a XattrsByNode,
    /// Folders made on the disk, parents first.
    pub(super) made: &'a [NodeId],
    /// The folder that the layer is written to.
    pub(super) folder: u16,
    /// Whether nothing of lower layers shows in the root.
    pub(super) is_root_cut: bool,
}
