//! All layers as one tar.
//!
//! Which files an image has is known when its last layer was read, and a layer is read only once. So what
//! files hold goes to an unnamed file beside the store, and from there into the tar, in its order.

use std::collections::HashMap;
use std::fs::File;
use std::io::{self, Read, Write};
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};

use crate::context::PullContext;
use crate::tar::{HeaderFields, Segment, Writer};
use crate::unpack::change::XattrList;
use crate::unpack::fault::UnpackFault;
use crate::unpack::output::{Body, Content, Output, View, Written};
use crate::unpack::rules::Rules;
use crate::unpack::tree::{Meta, NodeId, NodeKind, ROOT, Tree};

/// What precedes a file's content in the unnamed file: its size, and how many bytes of [`Extra`] follow.
const HEADER: usize = 16;
/// Bytes that are written at once.
const WRITE: usize = 128 << 10;

/// Takes the contents of files until the tree is known.
pub(super) struct TarOutput {
    spool: File,
    /// The first byte that no file has.
    end: AtomicU64,
    /// The caller's ids.
    own: (u32, u32),
    rules: Arc<Rules>,
}

/// What few files have.
#[derive(Default, Serialize, Deserialize)]
struct Extra {
    xattrs: XattrList,
    /// Offsets and lengths of what is there of a sparse file.
    segments: Option<Vec<(u64, u64)>>,
}

impl TarOutput {
    /// Makes the unnamed file in the store's own folder, or else where temporary files go.
    pub(super) fn new(store: &Path, rules: Arc<Rules>) -> Result<Self, UnpackFault> {
        let own = store.join(".oci-puller");
        let spool = unnamed(&own).or_else(|_| unnamed(&std::env::temp_dir()));
        let spool = spool.map_err(|error| UnpackFault::disk("make a temporary file for the tar", error))?;
        let own = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
        Ok(TarOutput { spool, end: AtomicU64::new(0), own, rules })
    }

    /// Writes the tar: names in the order of their paths' bytes, a hard link after its target.
    pub(super) fn write(
        &self,
        view: &View<'_>,
        cx: &PullContext,
        out: impl Write,
    ) -> Result<(), UnpackFault> {
        let out = io::BufWriter::with_capacity(WRITE, ContextWriter { out, cx });
        let mut tar = TarWriter { output: self, view, out: Writer::new(out), links: HashMap::new() };
        tar.entry(ROOT)?;
        let mut steps = Vec::new();
        push_children(view.tree, ROOT, &mut steps);
        while let Some(step) = steps.pop() {
            match step {
                TarStep::Entry(id) => tar.entry(id)?,
                TarStep::Children(id) => push_children(view.tree, id, &mut steps),
            }
        }
        tar.out.finish().map(drop).map_err(UnpackFault::written)
    }

    /// Appends a file; returns where.
    fn append(&self, xattrs: &XattrList, body: Body<'_>) -> Result<u64, UnpackFault> {
        let failed = |error: io::Error| UnpackFault::disk("keep the file for the tar", error);
        let pair = |segment: &Segment| (segment.offset, segment.len);
        let segments = body.segments.map(|segments| segments.iter().map(pair).collect::<Vec<_>>());
        let stored = segments.as_ref().map_or(body.size, |list| list.iter().map(|(_, len)| len).sum());
        let extra = match xattrs.is_empty() && segments.is_none() {
            true => Vec::new(),
            false => serde_json::to_vec(&Extra { xattrs: xattrs.clone(), segments })
                .map_err(|error| failed(error.into()))?,
        };
        let mut bytes = [&body.size.to_le_bytes()[..], &(extra.len() as u64).to_le_bytes(), &extra].concat();
        let place = self.end.fetch_add(bytes.len() as u64 + stored, Ordering::Relaxed);
        let (mut at, mut left) = (place, stored);
        // What is small is one write.
        while left > 0 {
            let there = body.content.fill_buf().map_err(UnpackFault::stream)?;
            let most = usize::try_from(left).unwrap_or(usize::MAX).min(there.len());
            let Some(read) = there.get(..most).filter(|read| !read.is_empty()) else {
                return Err(UnpackFault::invalid("it is cut short"));
            };
            if bytes.is_empty() {
                self.spool.write_all_at(read, at).map_err(failed)?;
                at += most as u64;
            } else {
                bytes.extend_from_slice(read);
                self.spool.write_all_at(&bytes, at).map_err(failed)?;
                at += bytes.len() as u64;
                bytes.clear();
            }
            body.content.consume(most);
            left -= most as u64;
        }
        if !bytes.is_empty() {
            self.spool.write_all_at(&bytes, at).map_err(failed)?;
        }
        Ok(place)
    }

    /// A file's size, what few files have, and where its content begins.
    fn find(&self, place: u64) -> io::Result<(u64, Extra, u64)> {
        let mut header = [0; HEADER];
        self.spool.read_exact_at(&mut header, place)?;
        let (size, len) = header.split_at(HEADER / 2);
        let number = |bytes: &[u8]| u64::from_le_bytes(bytes.try_into().unwrap_or_default());
        let (size, len) = (number(size), number(len));
        let start = place + HEADER as u64;
        if len == 0 {
            return Ok((size, Extra::default(), start));
        }
        let mut extra = vec![0; usize::try_from(len).unwrap_or(0)];
        self.spool.read_exact_at(&mut extra, start)?;
        Ok((size, serde_json::from_slice(&extra)?, start + len))
    }
}

/// An unnamed file in a folder; one without a name where there are none.
fn unnamed(folder: &Path) -> io::Result<File> {
    let flags = OFlags::TMPFILE | OFlags::RDWR | OFlags::CLOEXEC;
    if let Ok(file) = rustix::fs::open(folder, flags, Mode::RUSR | Mode::WUSR) {
        return Ok(File::from(file));
    }
    let path = folder.join(format!("tar-{}-{:016x}", std::process::id(), fastrand::u64(..)));
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::RDWR | OFlags::CLOEXEC;
    let file = rustix::fs::open(&path, flags, Mode::RUSR | Mode::WUSR)?;
    rustix::fs::unlink(&path)?;
    Ok(File::from(file))
}

/// What comes next in the tar.
enum TarStep {
    Entry(NodeId),
    Children(NodeId),
}

/// Pushes what is in a folder, the last first. What is in a folder below comes where its path with a slash
/// belongs: after `a` and `a-b` comes `a/c`.
fn push_children(tree: &Tree, folder: NodeId, steps: &mut Vec<TarStep>) {
    let mut found = Vec::new();
    for id in tree.children(folder).filter(|id| tree.present(*id) != 0) {
        if tree.kind(id) == NodeKind::Dir {
            found.push(([tree.name(id), b"/"].concat(), TarStep::Children(id)));
        }
        found.push((tree.name(id).to_vec(), TarStep::Entry(id)));
    }
    found.sort_by(|(one, _), (other, _)| other.cmp(one));
    steps.extend(found.into_iter().map(|(_, step)| step));
}

struct TarWriter<'a, W> {
    output: &'a TarOutput,
    view: &'a View<'a>,
    out: Writer<W>,
    /// Names of inodes of which another name is written.
    links: HashMap<NodeId, NodeId>,
}

impl<W: Write> TarWriter<'_, W> {
    fn entry(&mut self, id: NodeId) -> Result<(), UnpackFault> {
        let tree = self.view.tree;
        let meta = tree.meta(id);
        let (uid, gid) = self.output.rules.owner(&meta)?.unwrap_or(self.output.own);
        let path = match tree.kind(id) {
            NodeKind::Dir if id == ROOT => b"./".to_vec(),
            NodeKind::Dir => [&tree.path(id)[..], b"/"].concat(),
            _ => tree.path(id),
        };
        let mut fields = HeaderFields {
            path: &path,
            mode: meta.mode.into(),
            uid,
            gid,
            mtime: meta.mtime,
            ..HeaderFields::default()
        };
        if let Some(first) = self.links.get(&id) {
            let target = tree.path(*first);
            return self.header(&HeaderFields { flag: b'1', link: &target, ..fields });
        }
        for other in tree.names_of_inode(id).into_iter().skip(1) {
            self.links.insert(other, id);
        }
        fields.flag = match tree.kind(id) {
            NodeKind::File => return self.file(id, fields),
            NodeKind::Symlink => b'2',
            NodeKind::CharDevice => b'3',
            NodeKind::BlockDevice => b'4',
            NodeKind::Dir => b'5',
            NodeKind::Fifo => b'6',
            NodeKind::Gone => return Ok(()),
        };
        match tree.kind(id) {
            NodeKind::Symlink => fields.link = tree.target(id),
            NodeKind::CharDevice | NodeKind::BlockDevice => fields.device = tree.device(id),
            _ => {}
        }
        fields.xattrs = self.view.xattrs.get(&id).map_or(&[], Vec::as_slice);
        self.header(&fields)
    }

    fn file(&mut self, id: NodeId, fields: HeaderFields<'_>) -> Result<(), UnpackFault> {
        let found = self.output.find(self.view.tree.value(id));
        let (size, extra, start) =
            found.map_err(|error| UnpackFault::disk("read the file for the tar", error))?;
        self.header(&HeaderFields { flag: b'0', size, xattrs: &extra.xattrs, ..fields })?;
        let segments = extra.segments.unwrap_or_else(|| vec![(0, size)]);
        let content = Spooled { spool: &self.output.spool, place: start, at: 0, size, segments, next: 0 };
        self.out.content(&String::from_utf8_lossy(fields.path), size, content).map_err(UnpackFault::written)
    }

    fn header(&mut self, fields: &HeaderFields<'_>) -> Result<(), UnpackFault> {
        self.out.header(fields).map_err(UnpackFault::written)
    }
}

/// A file's content, with zeros for its holes.
struct Spooled<'a> {
    spool: &'a File,
    /// Where the next stored byte is.
    place: u64,
    /// Where in the file the next byte is.
    at: u64,
    size: u64,
    segments: Vec<(u64, u64)>,
    next: usize,
}

impl Read for Spooled<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.segments.get(self.next).is_some_and(|(offset, len)| offset + len <= self.at) {
            self.next += 1;
        }
        let (start, end) =
            self.segments.get(self.next).map_or((self.size, self.size), |(at, len)| (*at, at + len));
        let (is_hole, until) = if self.at < start { (true, start) } else { (false, end) };
        let most = usize::try_from(until - self.at).unwrap_or(usize::MAX).min(buffer.len());
        let Some(buffer) = buffer.get_mut(..most).filter(|buffer| !buffer.is_empty()) else { return Ok(0) };
        let read = match is_hole {
            true => {
                buffer.fill(0);
                most
            }
            false => self.spool.read_at(buffer, self.place)?,
        };
        self.at += read as u64;
        if !is_hole {
            self.place += read as u64;
        }
        Ok(read)
    }
}

/// The caller's writer, which is left as soon as the context ends.
struct ContextWriter<'a, W> {
    out: W,
    cx: &'a PullContext,
}

impl<W: Write> Write for ContextWriter<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.cx.check().map_err(io::Error::other)?;
        self.out.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.out.flush()
    }
}

impl Output for TarOutput {
    type Staged = Written;

    fn folder_of(&self, _: u16) -> u16 {
        1
    }

    fn stage(&self, _: u16, _: &Meta, xattrs: &XattrList, body: Body<'_>) -> Result<Written, UnpackFault> {
        Ok(Written { value: self.append(xattrs, body)?, xattrs: Vec::new() })
    }

    fn add_file(
        &self,
        _: &Tree,
        _: u16,
        _: NodeId,
        xattrs: &XattrList,
        content: Content<'_, Written>,
    ) -> Result<Written, UnpackFault> {
        match content {
            Content::Body(body) => Ok(Written { value: self.append(xattrs, body)?, xattrs: Vec::new() }),
            Content::Staged(written) => Ok(written),
        }
    }

    fn add_special(&self, tree: &Tree, _: u16, id: NodeId) -> Result<bool, UnpackFault> {
        let is_left_out = tree.kind(id) != NodeKind::Fifo && !self.rules.creates_devices();
        if is_left_out {
            self.rules.count_device();
        }
        Ok(!is_left_out)
    }
}
