//! Sets mode, times and attributes of folders when their content is complete.

use std::collections::HashMap;

use crate::unpack::change::XattrList;
use crate::unpack::fault::UnpackFault;
use crate::unpack::folder::Folder;
use crate::unpack::output::{View, XattrsByNode};
use crate::unpack::tree::{NodeId, NodeKind};

/// Gives the folders that were made all that they have, the deepest first: one may be such that it cannot be
/// entered any more. Returns the attributes that could not be set.
pub(super) fn finish_dirs(
    folder: &Folder,
    view: &View<'_>,
    which: impl Fn(NodeId) -> bool,
) -> Result<XattrsByNode, UnpackFault> {
    let none = XattrList::new();
    let mut unset = HashMap::new();
    let is_there = |id: &NodeId| view.tree.kind(*id) == NodeKind::Dir && which(*id);
    for id in view.made.iter().rev().copied().filter(is_there) {
        let left = folder.finish_dir(view.tree, id, view.xattrs.get(&id).unwrap_or(&none))?;
        if !left.is_empty() {
            unset.insert(id, left);
        }
    }
    Ok(unset)
}
