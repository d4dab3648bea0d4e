//! One folder on the disk that takes a tree: every operation names a folder by its descriptor and a name in
//! it, and follows no symbolic link.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, BufRead, Seek, SeekFrom, Write};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use rustix::fs::{AtFlags, Dev, FileType, Gid, Mode, OFlags, Stat, Timespec, Timestamps, Uid, XattrFlags};
use rustix::io::Errno;

use crate::unpack::beneath;
use crate::unpack::change::XattrList;
use crate::unpack::fault::UnpackFault;
use crate::unpack::output::{Body, Content, Written};
use crate::unpack::path::STAGING;
use crate::unpack::rules::Rules;
use crate::unpack::tree::{Meta, NodeId, NodeKind, ROOT, Tree};

/// A folder that is filled.
pub(super) struct Folder {
    root: OwnedFd,
    /// A folder for files whose place is not known yet, and the number of the next one.
    staging: OwnedFd,
    next_staged: AtomicU64,
    rules: Arc<Rules>,
    /// What a new file has by itself: its owner and group, and the bits of its mode that it does not get.
    owner: (u32, u32),
    mask: u16,
    /// The folder that was used last.
    last: Mutex<Option<(NodeId, Arc<OwnedFd>)>>,
}

/// A file whose place is not known yet.
#[derive(Debug)]
pub(super) struct StagedFile {
    number: u64,
    written: Written,
}

impl std::fmt::Debug for Written {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Written").field("value", &self.value).finish_non_exhaustive()
    }
}

impl Folder {
    /// Prepares to fill the folder, which nothing but our own marker may be in.
    pub(super) fn new(root: OwnedFd, rules: Arc<Rules>) -> Result<Self, UnpackFault> {
        let failed = |error: Errno| UnpackFault::disk("prepare the folder", error);
        // Nothing in it may inherit an access control list.
        for list in ["system.posix_acl_default", "system.posix_acl_access"] {
            match rustix::fs::fremovexattr(&root, list) {
                Ok(()) | Err(Errno::NODATA | Errno::OPNOTSUPP | Errno::PERM | Errno::ACCESS) => {}
                Err(error) => return Err(failed(error)),
            }
        }
        rustix::fs::fchmod(&root, Mode::RWXU).map_err(failed)?;
        rustix::fs::mkdirat(&root, STAGING, Mode::RWXU).map_err(failed)?;
        let staging = beneath::open(&root, STAGING.as_bytes(), beneath::DIR).map_err(failed)?;
        let probe = create(&staging, OsStr::new("probe"), 0o777).map_err(failed)?;
        let stat = rustix::fs::fstat(&probe).map_err(failed)?;
        rustix::fs::unlinkat(&staging, "probe", AtFlags::empty()).map_err(failed)?;
        Ok(Folder {
            root,
            staging,
            next_staged: AtomicU64::new(0),
            rules,
            owner: (stat.st_uid, stat.st_gid),
            mask: !mode_of(&stat) & 0o777,
            last: Mutex::new(None),
        })
    }

    pub(super) fn root(&self) -> &OwnedFd {
        &self.root
    }

    /// The owner and group that a file has by itself.
    pub(super) fn owner(&self) -> (u32, u32) {
        self.owner
    }

    /// Removes the folder of staged files, which is empty at the end.
    pub(super) fn remove_staging(&self) -> Result<(), UnpackFault> {
        rustix::fs::unlinkat(&self.root, STAGING, AtFlags::REMOVEDIR)
            .map_err(|error| UnpackFault::disk("remove the staging folder", error))
    }

    pub(super) fn stage(
        &self,
        meta: &Meta,
        xattrs: &XattrList,
        body: Body<'_>,
    ) -> Result<StagedFile, UnpackFault> {
        let number = self.next_staged.fetch_add(1, Ordering::Relaxed);
        let file = create(&self.staging, OsStr::new(&number.to_string()), meta.mode)
            .map_err(|error| UnpackFault::disk("create the file", error))?;
        let written = self.fill(file, meta, xattrs, body)?;
        Ok(StagedFile { number, written })
    }

    pub(super) fn add_dir(&self, tree: &Tree, id: NodeId) -> Result<(), UnpackFault> {
        let parent = self.parent(tree, id)?;
        rustix::fs::mkdirat(&*parent, name(tree, id), Mode::RWXU)
            .map_err(|error| UnpackFault::disk("create the folder", error))
    }

    pub(super) fn add_file(
        &self,
        tree: &Tree,
        id: NodeId,
        xattrs: &XattrList,
        content: Content<'_, StagedFile>,
    ) -> Result<Written, UnpackFault> {
        let parent = self.parent(tree, id)?;
        let meta = tree.meta(id);
        match content {
            Content::Body(body) => {
                let file = create(&parent, name(tree, id), meta.mode)
                    .map_err(|error| UnpackFault::disk("create the file", error))?;
                self.fill(file, &meta, xattrs, body)
            }
            Content::Staged(StagedFile { number, written }) => {
                rustix::fs::renameat(&self.staging, number.to_string(), &*parent, name(tree, id))
                    .map_err(|error| UnpackFault::disk("move the file into its place", error))?;
                Ok(written)
            }
        }
    }

    pub(super) fn add_symlink(&self, tree: &Tree, id: NodeId) -> Result<(), UnpackFault> {
        let parent = self.parent(tree, id)?;
        rustix::fs::symlinkat(tree.target(id), &*parent, name(tree, id))
            .map_err(|error| UnpackFault::disk("create the symbolic link", error))?;
        self.finish_name(tree, id, &parent)
    }

    pub(super) fn add_special(&self, tree: &Tree, id: NodeId) -> Result<bool, UnpackFault> {
        let (kind, (major, minor)) = match tree.kind(id) {
            NodeKind::CharDevice => (FileType::CharacterDevice, tree.device(id)),
            NodeKind::BlockDevice => (FileType::BlockDevice, tree.device(id)),
            _ => (FileType::Fifo, (0, 0)),
        };
        let is_device = kind != FileType::Fifo;
        if is_device && !self.rules.creates_devices() {
            self.rules.count_device();
            return Ok(false);
        }
        let parent = self.parent(tree, id)?;
        let meta = tree.meta(id);
        match self.make_special(&parent, name(tree, id), kind, meta.mode, rustix::fs::makedev(major, minor)) {
            Err(Errno::PERM) if is_device && !self.rules.insists_on_devices() => {
                self.rules.count_device();
                return Ok(false);
            }
            Err(error) => return Err(UnpackFault::disk("create the device or pipe", error)),
            Ok(()) => {}
        }
        self.finish_name(tree, id, &parent)?;
        if meta.mode & (self.mask | 0o7000) != 0 {
            // Neither can be opened: its mode is set by the descriptor of its name alone.
            let path = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            rustix::fs::openat(&*parent, name(tree, id), path, Mode::empty())
                .and_then(|fd| set_mode_of_path(&fd, meta.mode))
                .map_err(|error| UnpackFault::disk("set the mode", error))?;
            self.set_times(tree, id, &parent)?;
        }
        Ok(true)
    }

    fn make_special(
        &self,
        parent: &OwnedFd,
        name: &OsStr,
        kind: FileType,
        mode: u16,
        device: Dev,
    ) -> rustix::io::Result<()> {
        rustix::fs::mknodat(parent, name, kind, mode_bits(mode & 0o777), device)
    }

    pub(super) fn add_link(&self, tree: &Tree, id: NodeId, existing: NodeId) -> Result<(), UnpackFault> {
        let from = self.parent(tree, existing)?;
        let to = self.parent(tree, id)?;
        rustix::fs::linkat(&*from, name(tree, existing), &*to, name(tree, id), AtFlags::empty())
            .map_err(|error| UnpackFault::disk("create the hard link", error))
    }

    /// Copies a node from another folder, with all that it has there.
    pub(super) fn copy_from(&self, tree: &Tree, id: NodeId, lower: &OwnedFd) -> Result<(), UnpackFault> {
        match tree.kind(id) {
            NodeKind::File => self.copy_file(tree, id, lower),
            NodeKind::Symlink => self.add_symlink(tree, id),
            _ => self.add_special(tree, id).map(drop),
        }
    }

    fn copy_file(&self, tree: &Tree, id: NodeId, lower: &OwnedFd) -> Result<(), UnpackFault> {
        let failed = |error: io::Error| UnpackFault::disk("copy the file from the layer below", error);
        let from = beneath::open(lower, &tree.path(id), OFlags::RDONLY | OFlags::NONBLOCK)
            .map_err(|error| failed(error.into()))?;
        let meta = tree.meta(id);
        let parent = self.parent(tree, id)?;
        let to = create(&parent, name(tree, id), meta.mode).map_err(|error| failed(error.into()))?;
        if rustix::fs::ioctl_ficlone(&to, &from).is_err() {
            copy_data(File::from(from.try_clone().map_err(failed)?), &to).map_err(failed)?;
        }
        let xattrs = read_xattrs(&from).map_err(|error| failed(error.into()))?;
        self.finish_file(&to, &meta, &xattrs).map(drop)
    }

    pub(super) fn remove(&self, tree: &Tree, id: NodeId) -> Result<(), UnpackFault> {
        let parent = self.parent(tree, id)?;
        let flags = match tree.kind(id) {
            NodeKind::Dir => AtFlags::REMOVEDIR,
            _ => AtFlags::empty(),
        };
        rustix::fs::unlinkat(&*parent, name(tree, id), flags)
            .map_err(|error| UnpackFault::disk("remove what the layer hides or replaces", error))
    }

    pub(super) fn add_whiteout(&self, tree: &Tree, parent: NodeId, name: &[u8]) -> Result<(), UnpackFault> {
        let parent = self.dir(tree, parent)?;
        let name = OsStr::from_bytes(name);
        rustix::fs::mknodat(&*parent, name, FileType::CharacterDevice, Mode::empty(), 0)
            .map_err(|error| UnpackFault::disk("create a whiteout", error))
    }

    /// Sets an extended attribute of a folder.
    pub(super) fn set_dir_xattr(
        &self,
        tree: &Tree,
        id: NodeId,
        name: &str,
        value: &[u8],
    ) -> Result<(), UnpackFault> {
        let dir = self.dir(tree, id)?;
        rustix::fs::fsetxattr(&*dir, name, value, XattrFlags::empty())
            .map_err(|error| UnpackFault::disk("mark a folder as opaque", error))
    }

    /// Gives a folder owner, mode, attributes and time; after that nothing is put into it any more.
    /// Returns the attributes that could not be set.
    pub(super) fn finish_dir(
        &self,
        tree: &Tree,
        id: NodeId,
        xattrs: &XattrList,
    ) -> Result<XattrList, UnpackFault> {
        let dir = beneath::open(&self.root, &tree.path(id), beneath::DIR)
            .map_err(|error| UnpackFault::disk("open the folder", error))?;
        let meta = tree.meta(id);
        // The root may have been there before.
        self.set_owner(&dir, &meta, Some(self.owner).filter(|_| id != ROOT))?;
        let unset = self.set_xattrs(&dir, xattrs)?;
        rustix::fs::fchmod(&dir, mode_bits(meta.mode))
            .map_err(|error| UnpackFault::disk("set the mode", error))?;
        rustix::fs::futimens(&dir, &times(&meta))
            .map_err(|error| UnpackFault::disk("set the time", error))?;
        Ok(unset)
    }

    /// Sets the root's time.
    pub(super) fn set_root_time(&self, tree: &Tree) -> Result<(), UnpackFault> {
        rustix::fs::futimens(&self.root, &times(&tree.meta(ROOT)))
            .map_err(|error| UnpackFault::disk("set the time", error))
    }

    /// Writes a file's content, and then all else that it has.
    fn fill(
        &self,
        file: OwnedFd,
        meta: &Meta,
        xattrs: &XattrList,
        body: Body<'_>,
    ) -> Result<Written, UnpackFault> {
        let mut file = File::from(file);
        let size = body.size;
        write_body(&mut file, body)?;
        let unset = self.finish_file(&file, meta, xattrs)?;
        Ok(Written { value: size, xattrs: if self.rules.records() { unset } else { Vec::new() } })
    }

    /// Owner before mode, both before capabilities, times last: each undoes those after it.
    fn finish_file(
        &self,
        file: impl AsFd,
        meta: &Meta,
        xattrs: &XattrList,
    ) -> Result<XattrList, UnpackFault> {
        let has_owner = self.set_owner(&file, meta, Some(self.owner))?;
        if has_owner || meta.mode & (self.mask | 0o7000) != 0 {
            rustix::fs::fchmod(&file, mode_bits(meta.mode))
                .map_err(|error| UnpackFault::disk("set the mode", error))?;
        }
        let unset = self.set_xattrs(&file, xattrs)?;
        rustix::fs::futimens(&file, &times(meta))
            .map_err(|error| UnpackFault::disk("set the time", error))?;
        Ok(unset)
    }

    /// Sets the owner if it is another than `own`; returns whether it did.
    fn set_owner(&self, file: impl AsFd, meta: &Meta, own: Option<(u32, u32)>) -> Result<bool, UnpackFault> {
        let Some((uid, gid)) = self.rules.owner(meta)?.filter(|owner| Some(*owner) != own) else {
            return Ok(false);
        };
        rustix::fs::fchown(file, Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)))
            .map_err(|error| self.rules.owner_fault(uid, gid, error))?;
        Ok(true)
    }

    /// Gives owner and time to what cannot be opened.
    fn finish_name(&self, tree: &Tree, id: NodeId, parent: &OwnedFd) -> Result<(), UnpackFault> {
        if let Some((uid, gid)) = self.rules.owner(&tree.meta(id))?.filter(|owner| *owner != self.owner) {
            let (owner, group) = (Some(Uid::from_raw(uid)), Some(Gid::from_raw(gid)));
            rustix::fs::chownat(parent, name(tree, id), owner, group, AtFlags::SYMLINK_NOFOLLOW)
                .map_err(|error| self.rules.owner_fault(uid, gid, error))?;
        }
        self.set_times(tree, id, parent)
    }

    fn set_times(&self, tree: &Tree, id: NodeId, parent: &OwnedFd) -> Result<(), UnpackFault> {
        rustix::fs::utimensat(parent, name(tree, id), &times(&tree.meta(id)), AtFlags::SYMLINK_NOFOLLOW)
            .map_err(|error| UnpackFault::disk("set the time", error))
    }

    /// Sets attributes; returns those that the disk does not take.
    fn set_xattrs(&self, file: impl AsFd, xattrs: &XattrList) -> Result<XattrList, UnpackFault> {
        let mut unset = Vec::new();
        for (name, value) in xattrs {
            match rustix::fs::fsetxattr(&file, &name[..], value, XattrFlags::empty()) {
                Ok(()) => {}
                Err(
                    Errno::OPNOTSUPP
                    | Errno::PERM
                    | Errno::ACCESS
                    | Errno::INVAL
                    | Errno::RANGE
                    | Errno::TOOBIG,
                ) => unset.push((name.clone(), value.clone())),
                // Some file systems have room for few attributes.
                Err(Errno::NOSPC) if has_space(&file) => unset.push((name.clone(), value.clone())),
                Err(error) => return Err(UnpackFault::disk("set an extended attribute", error)),
            }
        }
        self.rules.count_xattrs(unset.len());
        Ok(unset)
    }

    fn parent(&self, tree: &Tree, id: NodeId) -> Result<Arc<OwnedFd>, UnpackFault> {
        self.dir(tree, tree.parent(id))
    }

    fn dir(&self, tree: &Tree, id: NodeId) -> Result<Arc<OwnedFd>, UnpackFault> {
        let mut last = self.last.lock();
        if let Some((known, dir)) = &*last
            && *known == id
        {
            return Ok(dir.clone());
        }
        let dir = beneath::open(&self.root, &tree.path(id), beneath::DIR)
            .map_err(|error| UnpackFault::disk("open the folder that it belongs into", error))?;
        let dir = Arc::new(dir);
        *last = Some((id, dir.clone()));
        Ok(dir)
    }
}

fn create(folder: &OwnedFd, name: &OsStr, mode: u16) -> rustix::io::Result<OwnedFd> {
    let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    rustix::fs::openat(folder, name, flags, mode_bits(mode & 0o777))
}

fn write_body(file: &mut File, body: Body<'_>) -> Result<(), UnpackFault> {
    let Some(segments) = body.segments else { return copy(body.content, file, body.size) };
    for segment in segments {
        file.seek(SeekFrom::Start(segment.offset))
            .map_err(|error| UnpackFault::disk("write the file", error))?;
        copy(body.content, file, segment.len)?;
    }
    file.set_len(body.size).map_err(|error| UnpackFault::disk("write the file", error))
}

/// Copies so many bytes from the layer.
fn copy(from: &mut dyn BufRead, to: &mut File, mut left: u64) -> Result<(), UnpackFault> {
    while left > 0 {
        let there = from.fill_buf().map_err(UnpackFault::stream)?;
        let most = usize::try_from(left).unwrap_or(usize::MAX).min(there.len());
        let Some(bytes) = there.get(..most).filter(|bytes| !bytes.is_empty()) else {
            return Err(UnpackFault::invalid("it is cut short"));
        };
        to.write_all(bytes).map_err(|error| UnpackFault::disk("write the file", error))?;
        from.consume(most);
        left -= most as u64;
    }
    Ok(())
}

/// Copies a file's content, and keeps its holes.
fn copy_data(mut from: File, to: &OwnedFd) -> io::Result<()> {
    let mut to = File::from(to.try_clone()?);
    let len = from.metadata()?.len();
    let mut at = 0;
    while at < len {
        let start = match rustix::fs::seek(&from, rustix::fs::SeekFrom::Data(at)) {
            Ok(start) => start,
            Err(Errno::NXIO) => break,
            Err(error) => return Err(error.into()),
        };
        let end = rustix::fs::seek(&from, rustix::fs::SeekFrom::Hole(start))?;
        from.seek(SeekFrom::Start(start))?;
        to.seek(SeekFrom::Start(start))?;
        io::copy(&mut io::Read::take(&mut from, end - start), &mut to)?;
        at = end;
    }
    to.set_len(len)
}

fn read_xattrs(file: &OwnedFd) -> rustix::io::Result<XattrList> {
    let mut names = vec![0_u8; 64 << 10];
    let len = match rustix::fs::flistxattr(file, &mut names[..]) {
        Ok(len) => len,
        Err(Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(error),
    };
    let names = names.get(..len).unwrap_or_default();
    let mut list = Vec::new();
    let mut value = vec![0_u8; 64 << 10];
    for name in names.split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        match rustix::fs::fgetxattr(file, name, &mut value[..]) {
            Ok(len) => list.push((name.to_vec(), value.get(..len).unwrap_or_default().to_vec())),
            Err(Errno::NODATA) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(list)
}

fn has_space(file: impl AsFd) -> bool {
    rustix::fs::fstatvfs(file).is_ok_and(|space| space.f_bavail > 0 && space.f_favail > 0)
}

/// Sets the mode of what an `O_PATH` descriptor stands for.
fn set_mode_of_path(fd: &OwnedFd, mode: u16) -> rustix::io::Result<()> {
    use std::os::fd::AsRawFd;
    // The thread's own: it may share its files with no other.
    let itself = format!("/proc/thread-self/fd/{}", fd.as_raw_fd());
    rustix::fs::chmod(itself, mode_bits(mode))
}

fn name(tree: &Tree, id: NodeId) -> &OsStr {
    OsStr::from_bytes(tree.name(id))
}

fn mode_of(stat: &Stat) -> u16 {
    u16::try_from(stat.st_mode & 0o7777).unwrap_or(0)
}

fn mode_bits(mode: u16) -> Mode {
    Mode::from_bits_retain(u32::from(mode))
}

fn times(meta: &Meta) -> Timestamps {
    let time = Timespec { tv_sec: meta.mtime.seconds, tv_nsec: meta.mtime.nanos.into() };
    Timestamps { last_access: time, last_modification: time }
}
