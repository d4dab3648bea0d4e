//! Removes what is in a folder, by descriptors, without following symbolic links.

use std::os::fd::OwnedFd;

use rustix::fs::{AtFlags, Dir, FileType, Mode};
use rustix::io::Errno;

use crate::unpack::beneath;
use crate::unpack::fault::UnpackFault;

/// Names in a folder.
pub(super) fn names_in(folder: &OwnedFd) -> rustix::io::Result<Vec<Vec<u8>>> {
    let mut names = Vec::new();
    for entry in Dir::read_from(folder)? {
        let entry = entry?;
        match entry.file_name().to_bytes() {
            b"." | b".." => {}
            name => names.push(name.to_vec()),
        }
    }
    Ok(names)
}

/// Removes all that is in a folder, but for the file named `kept`.
pub(super) fn clear(folder: &OwnedFd, kept: Option<&str>) -> Result<(), UnpackFault> {
    let failed = |error: Errno| UnpackFault::disk("remove what an earlier run has left", error);
    for name in names_in(folder).map_err(failed)? {
        if kept.is_none_or(|kept| kept.as_bytes() != name.as_slice()) {
            remove(folder, &name).map_err(failed)?;
        }
    }
    Ok(())
}

/// Removes a name, and all that is below it. Depth costs a path, not a descriptor or a stack frame.
pub(super) fn remove(folder: &OwnedFd, name: &[u8]) -> rustix::io::Result<()> {
    let mut at = vec![name.to_vec()];
    while let Some(path) = at.last().cloned() {
        let (parent, name) = crate::unpack::path::split(&path);
        let parent = beneath::open(folder, parent, beneath::DIR)?;
        match rustix::fs::unlinkat(&parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {
                at.pop();
                continue;
            }
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(error),
        }
        match rustix::fs::unlinkat(&parent, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => {
                at.pop();
            }
            Err(Errno::NOTEMPTY | Errno::EXIST | Errno::ACCESS) => at.extend(empty(&parent, name, &path)?),
            Err(error) => return Err(error),
        }
    }
    Ok(())
}

/// Removes the files in a folder; returns the paths of the folders in it.
fn empty(parent: &OwnedFd, name: &[u8], path: &[u8]) -> rustix::io::Result<Vec<Vec<u8>>> {
    let folder = match beneath::open(parent, name, beneath::DIR) {
        // An image may have folders that not even their owner can read.
        Err(Errno::ACCESS) => {
            make_accessible(parent, name)?;
            beneath::open(parent, name, beneath::DIR)?
        }
        folder => folder?,
    };
    let stat = rustix::fs::fstat(&folder)?;
    if stat.st_mode & 0o700 != 0o700 {
        rustix::fs::fchmod(&folder, Mode::RWXU)?;
    }
    let mut folders = Vec::new();
    for name in names_in(&folder)? {
        match rustix::fs::unlinkat(&folder, &name[..], AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => {}
            Err(Errno::ISDIR | Errno::PERM) => folders.push([path, b"/", &name].concat()),
            Err(error) => return Err(error),
        }
    }
    Ok(folders)
}

fn make_accessible(parent: &OwnedFd, name: &[u8]) -> rustix::io::Result<()> {
    use rustix::fs::OFlags;
    use std::os::fd::AsRawFd;
    let folder = beneath::open(parent, name, OFlags::PATH | OFlags::DIRECTORY)?;
    let stat = rustix::fs::fstat(&folder)?;
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return Err(Errno::NOTDIR);
    }
    rustix::fs::chmod(format!("/proc/thread-self/fd/{}", folder.as_raw_fd()), Mode::RWXU)
}
