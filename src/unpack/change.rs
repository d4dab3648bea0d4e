//! Turns an entry of a layer into the change that it makes.

use std::io;

use crate::tar::{Entry, Kind};
use crate::unpack::fault::UnpackFault;
use crate::unpack::path::{self, Named};
use crate::unpack::settings::Xattrs;
use crate::unpack::tree::{Meta, NodeKind};

/// The largest id: the one above means "no change" to the kernel.
const MAX_ID: u64 = u32::MAX as u64 - 1;
/// The longest target of a symbolic link, bytes.
const MAX_TARGET: usize = 4095;
/// The longest value of an extended attribute, and its longest name, bytes.
const MAX_XATTR: usize = 64 << 10;
const MAX_XATTR_NAME: usize = 255;

/// Names and values of extended attributes.
pub(super) type XattrList = Vec<(Vec<u8>, Vec<u8>)>;

/// What an entry changes.
#[derive(Debug)]
pub(super) struct Change {
    /// Cleaned: no `.`, `..` or empty names, no slash at its ends. Empty for the root.
    pub(super) path: Vec<u8>,
    pub(super) what: What,
    pub(super) meta: Meta,
    /// Those that are to be set.
    pub(super) xattrs: XattrList,
}

#[derive(Debug)]
pub(super) enum What {
    Dir,
    File,
    Symlink(Vec<u8>),
    /// A device or a named pipe; of the latter the numbers are zero.
    Special(NodeKind, (u32, u32)),
    /// Another name of what stands at this path, which is cleaned.
    HardLink(Vec<u8>),
    /// Hides what lower layers have at the path.
    Whiteout,
    /// Hides what lower layers have in the folder at the path.
    Opaque,
}

impl Change {
    /// Reads an entry; `None` for one that is no part of the image.
    pub(super) fn read(entry: &Entry, xattrs: Xattrs) -> Result<Option<Change>, UnpackFault> {
        let cleaned = path::clean(entry.path())?;
        let marker =
            |path: Vec<u8>, what| Ok(Some(Change { path, what, meta: Meta::IMPLIED, xattrs: Vec::new() }));
        match path::classify(&cleaned)? {
            Named::Nothing => return Ok(None),
            Named::Opaque(folder) => return marker(folder.to_vec(), What::Opaque),
            Named::Whiteout(path) => return marker(path, What::Whiteout),
            Named::Root if entry.kind() != Kind::Dir => {
                return Err(UnpackFault::invalid("the root is no folder"));
            }
            Named::Root | Named::Entry(_) => {}
        }
        let what = match entry.kind() {
            Kind::Dir => What::Dir,
            Kind::File => What::File,
            Kind::Symlink => What::Symlink(target(entry)?),
            Kind::HardLink => What::HardLink(path::clean(entry.link())?),
            // Overlayfs would take this device for a whiteout.
            Kind::CharDevice if device(entry)? == (0, 0) => return marker(cleaned, What::Whiteout),
            Kind::CharDevice => What::Special(NodeKind::CharDevice, device(entry)?),
            Kind::BlockDevice => What::Special(NodeKind::BlockDevice, device(entry)?),
            Kind::Fifo => What::Special(NodeKind::Fifo, (0, 0)),
            Kind::Unknown(flag) => {
                let text = format!("it has the type flag {:?}, which is not known", char::from(flag));
                return Err(UnpackFault::unsupported(text));
            }
        };
        let meta = Meta {
            mtime: read(entry.mtime())?,
            uid: id(read(entry.uid())?, "user")?,
            gid: id(read(entry.gid())?, "group")?,
            mode: u16::try_from(read(entry.mode())? & 0o7777).unwrap_or(0),
        };
        Ok(Some(Change { path: cleaned, what, meta, xattrs: wanted(entry, xattrs)? }))
    }

    pub(super) fn is_marker(&self) -> bool {
        matches!(self.what, What::Whiteout | What::Opaque)
    }
}

fn target(entry: &Entry) -> Result<Vec<u8>, UnpackFault> {
    let target = entry.link();
    if target.is_empty() {
        return Err(UnpackFault::invalid("the symbolic link leads to an empty path"));
    }
    if target.len() > MAX_TARGET || target.contains(&0) {
        return Err(UnpackFault::invalid("the symbolic link's target is too long, or has a NUL in it"));
    }
    Ok(target.to_vec())
}

/// The numbers of a device; Linux has 12 bits for one and 20 for the other.
fn device(entry: &Entry) -> Result<(u32, u32), UnpackFault> {
    match read(entry.device())? {
        (major @ 0..=0xfff, minor @ 0..=0xf_ffff) => Ok((major as u32, minor as u32)),
        (major, minor) => Err(UnpackFault::invalid(format!("{major}:{minor} are no numbers of a device"))),
    }
}

fn id(id: u64, whose: &str) -> Result<u32, UnpackFault> {
    match u32::try_from(id) {
        Ok(small) if id <= MAX_ID => Ok(small),
        _ => Err(UnpackFault::invalid(format!("the {whose} id {id} is larger than {MAX_ID}"))),
    }
}

fn wanted(entry: &Entry, xattrs: Xattrs) -> Result<XattrList, UnpackFault> {
    let mut list = Vec::new();
    for (name, value) in entry.xattrs() {
        if name.len() > MAX_XATTR_NAME || name.contains(&0) || value.len() > MAX_XATTR {
            return Err(UnpackFault::invalid(format!(
                "an extended attribute's name is longer than {MAX_XATTR_NAME} bytes or has a NUL in it, or \
                 its value is longer than {MAX_XATTR} bytes"
            )));
        }
        if xattrs.takes(name) {
            list.push((name.clone(), value.clone()));
        }
    }
    Ok(list)
}

/// A field of the header.
fn read<T>(field: io::Result<T>) -> Result<T, UnpackFault> {
    field.map_err(UnpackFault::stream)
}
