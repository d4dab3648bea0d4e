//! A record of entries, as JSON lines: what a tree has, for those that cannot read it from the disk.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::{self, BufRead, Write};

use base64::Engine;
use base64::prelude::BASE64_STANDARD;
use serde::{Deserialize, Serialize};

use crate::tar::Time;
use crate::unpack::change::XattrList;
use crate::unpack::fault::UnpackFault;
use crate::unpack::output::View;
use crate::unpack::tree::{Meta, NodeId, NodeKind, Tree};

/// The longest line that is read, bytes.
const MAX_LINE: u64 = 4 << 20;

/// Bytes that are mostly text: a JSON string, or base64 under another key.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Bytes {
    text: Option<String>,
    base64: Option<String>,
}

impl Bytes {
    fn new(bytes: &[u8]) -> Self {
        match std::str::from_utf8(bytes) {
            Ok(text) => Bytes { text: Some(text.to_owned()), base64: None },
            Err(_) => Bytes { text: None, base64: Some(BASE64_STANDARD.encode(bytes)) },
        }
    }

    fn read(text: Option<String>, base64: Option<String>) -> io::Result<Option<Vec<u8>>> {
        let decode = |base64: String| BASE64_STANDARD.decode(base64).map_err(|_| broken());
        match (text, base64) {
            (Some(text), None) => Ok(Some(text.into_bytes())),
            (None, Some(base64)) => decode(base64).map(Some),
            (None, None) => Ok(None),
            (Some(_), Some(_)) => Err(broken()),
        }
    }
}

/// A line as it is written.
#[derive(Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    #[serde(skip_serializing_if = "Option::is_none")]
    path: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    path_base64: Option<String>,
    /// As of `st_mode`; 0 for a whiteout.
    mode: u32,
    uid: u32,
    gid: u32,
    /// Seconds and nanoseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    mtime: Option<(i64, u32)>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    target_base64: Option<String>,
    /// The number of the line, from 0, that has the first name of the same inode.
    #[serde(skip_serializing_if = "Option::is_none")]
    link: Option<usize>,
    #[serde(skip_serializing_if = "Option::is_none")]
    dev: Option<(u32, u32)>,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    xattrs: BTreeMap<String, String>,
    #[serde(default, skip_serializing_if = "is_false")]
    opaque: bool,
    #[serde(default, skip_serializing_if = "is_false")]
    left_out: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_false(value: &bool) -> bool {
    !value
}

/// A line as it is read.
#[derive(Debug)]
pub(super) struct Recorded {
    /// Empty for the root.
    pub(super) path: Vec<u8>,
    /// `None` for a whiteout.
    pub(super) kind: Option<NodeKind>,
    pub(super) meta: Meta,
    pub(super) size: u64,
    pub(super) target: Vec<u8>,
    pub(super) link: Option<usize>,
    pub(super) device: (u32, u32),
    pub(super) xattrs: XattrList,
    pub(super) is_opaque: bool,
    pub(super) is_left_out: bool,
}

/// Writes what a layer's folder has: each node that is there, parents first, and its whiteouts.
pub(super) fn write_layer(
    out: &mut impl Write,
    layer: u16,
    view: &View<'_>,
    whiteouts: &[Vec<u8>],
    opaque: &HashSet<NodeId>,
) -> Result<(), UnpackFault> {
    let failed = |error: io::Error| UnpackFault::disk("write the record of the layer", error);
    let tree = view.tree;
    let mut links: HashMap<NodeId, usize> = HashMap::new();
    let is_left_out = |id| tree.present(id) == 0 && tree.layer(id) == layer;
    let here = tree.all().filter(|id| tree.present(*id) == view.folder || is_left_out(*id));
    for (at, id) in here.filter(|id| tree.kind(*id) != NodeKind::Gone).enumerate() {
        let mut line = Line::of(tree, id, view.xattrs.get(&id));
        let time = tree.meta(id).mtime;
        line.mtime = Some((time.seconds, time.nanos));
        line.opaque = opaque.contains(&id) || (id == crate::unpack::tree::ROOT && view.is_root_cut);
        line.left_out = is_left_out(id);
        match tree.kind(id) {
            NodeKind::File => line.size = Some(tree.value(id)),
            NodeKind::Symlink => {
                let target = Bytes::new(tree.target(id));
                (line.target, line.target_base64) = (target.text, target.base64);
            }
            _ => {}
        }
        match links.get(&id) {
            Some(first) => line.link = Some(*first),
            None => links.extend(tree.names_of_inode(id).into_iter().skip(1).map(|other| (other, at))),
        }
        line.write(out).map_err(failed)?;
    }
    for path in whiteouts {
        Line::at(path).write(out).map_err(failed)?;
    }
    Ok(())
}

/// Writes what the disk could not take: each node whose owner is another, that was left out, or that
/// lacks attributes.
pub(super) fn write_rest(
    out: &mut impl Write,
    view: &View<'_>,
    owner: (u32, u32),
    unset: &HashMap<NodeId, XattrList>,
) -> Result<(), UnpackFault> {
    let tree = view.tree;
    for id in tree.all().filter(|id| tree.kind(*id) != NodeKind::Gone) {
        let meta = tree.meta(id);
        let is_whole = (meta.uid, meta.gid) == owner && tree.present(id) != 0 && !unset.contains_key(&id);
        if !is_whole {
            let line = Line::of(tree, id, unset.get(&id));
            line.write(out).map_err(|error| UnpackFault::disk("write the record of owners", error))?;
        }
    }
    Ok(())
}

/// Reads a record line by line.
pub(super) fn read(mut from: impl BufRead) -> impl Iterator<Item = io::Result<Recorded>> {
    std::iter::from_fn(move || {
        let mut line = Vec::new();
        match io::Read::take(&mut from, MAX_LINE).read_until(b'\n', &mut line) {
            Ok(0) => None,
            Ok(_) if !line.ends_with(b"\n") => Some(Err(broken())),
            Ok(_) => Some(serde_json::from_slice(&line).map_err(|_| broken()).and_then(Line::read)),
            Err(error) => Some(Err(error)),
        }
    })
}

impl Line {
    fn at(path: &[u8]) -> Self {
        let path = Bytes::new(path);
        Line { path: path.text, path_base64: path.base64, ..Line::default() }
    }

    fn of(tree: &Tree, id: NodeId, xattrs: Option<&XattrList>) -> Self {
        let meta = tree.meta(id);
        let encode = |(name, value): &(Vec<u8>, Vec<u8>)| {
            (String::from_utf8_lossy(name).into_owned(), BASE64_STANDARD.encode(value))
        };
        let is_device = matches!(tree.kind(id), NodeKind::CharDevice | NodeKind::BlockDevice);
        Line {
            mode: type_bits(tree.kind(id)) | u32::from(meta.mode),
            uid: meta.uid,
            gid: meta.gid,
            dev: is_device.then(|| tree.device(id)),
            xattrs: xattrs.into_iter().flatten().map(encode).collect(),
            ..Line::at(&tree.path(id))
        }
    }

    fn write(&self, out: &mut impl Write) -> io::Result<()> {
        serde_json::to_writer(&mut *out, self)?;
        out.write_all(b"\n")
    }

    fn read(self) -> io::Result<Recorded> {
        let (seconds, nanos) = self.mtime.unwrap_or_default();
        let decode = |(name, value): (String, String)| {
            BASE64_STANDARD.decode(value).map(|value| (name.into_bytes(), value)).map_err(|_| broken())
        };
        Ok(Recorded {
            path: Bytes::read(self.path, self.path_base64)?.ok_or_else(broken)?,
            kind: if self.mode == 0 { None } else { Some(kind_of(self.mode)?) },
            meta: Meta {
                mtime: Time { seconds, nanos },
                uid: self.uid,
                gid: self.gid,
                mode: u16::try_from(self.mode & 0o7777).unwrap_or(0),
            },
            size: self.size.unwrap_or(0),
            target: Bytes::read(self.target, self.target_base64)?.unwrap_or_default(),
            link: self.link,
            device: self.dev.unwrap_or_default(),
            xattrs: self.xattrs.into_iter().map(decode).collect::<io::Result<_>>()?,
            is_opaque: self.opaque,
            is_left_out: self.left_out,
        })
    }
}

const TYPES: [(u32, NodeKind); 6] = [
    (0o040_000, NodeKind::Dir),
    (0o100_000, NodeKind::File),
    (0o120_000, NodeKind::Symlink),
    (0o020_000, NodeKind::CharDevice),
    (0o060_000, NodeKind::BlockDevice),
    (0o010_000, NodeKind::Fifo),
];

fn type_bits(kind: NodeKind) -> u32 {
    TYPES.iter().find(|(_, known)| *known == kind).map_or(0, |(bits, _)| *bits)
}

pub(super) fn kind_of(mode: u32) -> io::Result<NodeKind> {
    let found = TYPES.iter().find(|(bits, _)| mode & 0o170_000 == *bits);
    found.map(|(_, kind)| *kind).ok_or_else(broken)
}

fn broken() -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, "the record of a layer is broken")
}
