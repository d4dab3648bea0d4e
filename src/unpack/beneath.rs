//! Opens files and folders below a folder that stays the same one, and follows no symbolic link: paths
//! come from the tree, in which links were resolved.

use std::ffi::OsStr;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;

/// The longest path that one system call takes, bytes.
const MAX_PATH: usize = 4095;

/// Set when the kernel, or a sandbox around us, has no `openat2`.
static WITHOUT_OPENAT2: AtomicBool = AtomicBool::new(false);

pub(super) const DIR: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

/// Opens what is at `path` below `root`; the root itself if the path is empty.
pub(super) fn open(root: impl AsFd, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    if path.len() <= MAX_PATH && !WITHOUT_OPENAT2.load(Ordering::Relaxed) {
        let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
        let beneath = if path.is_empty() { b"." } else { path };
        match rustix::fs::openat2(&root, beneath, flags, Mode::empty(), resolve) {
            // Sandboxes answer EPERM to system calls that they do not know.
            Err(Errno::NOSYS | Errno::PERM) => WITHOUT_OPENAT2.store(true, Ordering::Relaxed),
            // A rename elsewhere came between.
            Err(Errno::AGAIN) => {}
            answer => return answer,
        }
    }
    open_by_names(root, path, flags)
}

/// Does the same without `openat2`, name by name.
fn open_by_names(root: impl AsFd, path: &[u8], flags: OFlags) -> rustix::io::Result<OwnedFd> {
    let walk = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
    let (folder, name) = crate::unpack::path::split(path);
    let mut at = rustix::fs::openat(root, ".", walk, Mode::empty())?;
    for name in folder.split(|byte| *byte == b'/').filter(|name| !name.is_empty()) {
        at = rustix::fs::openat(&at, name_of(name)?, walk, Mode::empty())?;
    }
    let name = if name.is_empty() { OsStr::new(".") } else { name_of(name)? };
    rustix::fs::openat(&at, name, flags, Mode::empty())
}

fn name_of(name: &[u8]) -> rustix::io::Result<&OsStr> {
    if matches!(name, b"" | b"." | b"..") { Err(Errno::INVAL) } else { Ok(OsStr::from_bytes(name)) }
}
