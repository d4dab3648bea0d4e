//! Adds the entries of an unpacked layer's record to the tree.

use std::io::BufRead;

use crate::error::ErrorKind;
use crate::unpack::fault::{UnpackFault, shown};
use crate::unpack::merge::Merge;
use crate::unpack::output::Output;
use crate::unpack::path;
use crate::unpack::record::{self, Recorded};
use crate::unpack::tree::{NodeId, NodeKind, ROOT};

/// Adds the layer in turn to the tree. Nothing is written: all that the record names is there.
pub(super) fn load<O: Output>(merge: &mut Merge<O>, from: impl BufRead) -> Result<(), UnpackFault> {
    let mut nodes = Vec::new();
    for line in record::read(from) {
        let line = line.map_err(|error| UnpackFault::disk("read the record of the layer", error))?;
        let path = line.path.clone();
        let node = add(merge, line, &nodes);
        nodes.push(node.map_err(|fault| damaged(&path, fault))?);
    }
    Ok(())
}

/// Adds a line; `nodes` are those of the lines before it.
fn add<O: Output>(merge: &mut Merge<O>, line: Recorded, nodes: &[NodeId]) -> Result<NodeId, UnpackFault> {
    let (layer, folder) = (merge.layer, merge.folder);
    let (parent, name) = path::split(&line.path);
    let parent = find_dir(merge, parent).ok_or_else(|| UnpackFault::invalid("it has no folder"))?;
    let existing = if line.path.is_empty() { Some(ROOT) } else { merge.tree.lookup(parent, name) };
    let Some(kind) = line.kind else {
        return existing.map_or(Ok(()), |id| merge.remove(id)).map(|()| ROOT);
    };
    let id = match existing {
        Some(id) if kind == NodeKind::Dir && merge.tree.kind(id) == NodeKind::Dir => {
            merge.tree.set_meta(id, line.meta);
            if line.is_opaque {
                merge.cut(id)?;
            }
            id
        }
        Some(ROOT) => return Err(UnpackFault::invalid("the root is no folder")),
        existing => {
            existing.map_or(Ok(()), |id| merge.remove(id))?;
            merge.tree.insert(parent, name, kind, line.meta, layer)?
        }
    };
    merge.tree.set_layer(id, layer);
    merge.tree.set_present(id, if line.is_left_out { 0 } else { folder });
    match kind {
        NodeKind::File => merge.tree.set_value(id, line.size),
        NodeKind::Symlink => merge.tree.set_target(id, &line.target)?,
        NodeKind::CharDevice | NodeKind::BlockDevice => merge.tree.set_device(id, line.device),
        _ => {}
    }
    if let Some(first) = line.link {
        let first =
            nodes.get(first).filter(|first| merge.tree.kind(**first) == kind && kind != NodeKind::Dir);
        merge.tree.join(id, *first.ok_or_else(|| UnpackFault::invalid("its inode has no first name"))?);
    }
    merge.keep_xattrs(id, line.xattrs)?;
    Ok(id)
}

/// A folder by its path, in which nothing is a link.
fn find_dir<O: Output>(merge: &Merge<O>, path: &[u8]) -> Option<NodeId> {
    let mut names = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
    names.try_fold(ROOT, |at, name| {
        merge.tree.lookup(at, name).filter(|id| merge.tree.kind(*id) == NodeKind::Dir)
    })
}

fn damaged(path: &[u8], fault: UnpackFault) -> UnpackFault {
    let text = format!("the record of the layer is damaged at {}: {}", shown(path), fault.cause());
    UnpackFault::new(ErrorKind::Store, text)
}
