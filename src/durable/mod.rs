//! Writing that survives power loss.
//!
//! [`Disk`] is the seam: the few file operations that the store needs, on paths beneath one folder.
//! [`RealDisk`] does them; the simulated disk of the tests keeps what is durable apart from what is
//! merely written, and can lose power at every one of them.

mod real;
#[cfg(test)]
pub(crate) mod sim;

use std::fmt;
use std::io;
use std::time::SystemTime;

pub(crate) use real::RealDisk;

/// File operations beneath one folder. Paths are relative to it, with `/` between their parts; no
/// operation follows a symbolic link.
pub(crate) trait Disk: Send + Sync + fmt::Debug {
    /// Opens a regular file.
    fn open(&self, path: &str, access: Access) -> io::Result<Box<dyn DiskFile>>;
    /// Makes a read-only file of these bytes under a name that nothing may have yet: who finds the name
    /// finds all of it, as long as the power lasts. Nothing makes it durable before it has the name, on all
    /// file systems. Not every system can do it at all.
    fn create_whole(&self, path: &str, bytes: &[u8]) -> io::Result<()>;
    /// Makes a folder whose parent is there.
    fn create_dir(&self, path: &str) -> io::Result<()>;
    /// The names in a folder, those that are no UTF-8 left out: none of ours is.
    fn read_dir(&self, path: &str) -> io::Result<Vec<String>>;
    /// What stands at `path`; of a link, the link itself.
    fn metadata(&self, path: &str) -> io::Result<Metadata>;
    /// Gives a file another name, in place of what had it.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Takes a file's name away.
    fn unlink(&self, path: &str) -> io::Result<()>;
    /// Makes the names in a folder durable; `""` is the folder of the disk itself.
    fn sync_dir(&self, path: &str) -> io::Result<()>;
    /// Makes the contents of all these files durable, which are fewer flushes than files.
    fn sync_files(&self, files: &[&dyn DiskFile]) -> io::Result<()>;
    /// Sets a file's time of modification to now.
    fn touch(&self, path: &str) -> io::Result<()>;
    /// How large the file system is, and how much of it is free.
    fn space(&self) -> io::Result<Space>;
}

/// An open file. Reads and writes name their place, so that several threads can share it.
pub(crate) trait DiskFile: Send + Sync + fmt::Debug {
    /// What the file is now.
    fn metadata(&self) -> io::Result<Metadata>;
    /// Reads some bytes at `offset`; none at the file's end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Cuts the file, or fills it up with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Takes the right to write away, for who opens the file from now on.
    fn set_read_only(&self) -> io::Result<()>;
    /// Makes the content durable. After an error nobody knows what is on the disk: the file is to be
    /// thrown away, for a second flush would answer "done" about pages the kernel has dropped.
    fn sync(&self) -> io::Result<()>;
    /// Locks the file against other holders, without waiting: whether that worked.
    fn try_lock(&self, lock: Lock) -> io::Result<bool>;
    /// Gives the lock back; closing the file does, too.
    fn unlock(&self) -> io::Result<()>;
}

/// How a file is opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Access {
    /// To read; the file is there.
    Read,
    /// To read and write; the file is made if it is not there.
    Update,
    /// To read and write; the file must not be there yet.
    Create,
}

/// Who else may hold a file's lock.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lock {
    /// Others that share it.
    Shared,
    /// Nobody.
    Exclusive,
}

/// What stands at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Metadata {
    pub(crate) kind: FileKind,
    /// Bytes.
    pub(crate) len: u64,
    /// When the content last changed, or was touched.
    pub(crate) modified: SystemTime,
    /// Tells this file from any other that is there now.
    pub(crate) identity: (u64, u64),
    /// Bytes that it takes on the disk.
    pub(crate) allocated: u64,
}

/// What kind of thing stands at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    File,
    Dir,
    /// A link, a device, a socket: nothing that belongs here.
    Other,
}

/// A file system's room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Space {
    /// Bytes in all.
    pub(crate) capacity: u64,
    /// Bytes that an unprivileged user may still write.
    pub(crate) available: u64,
}

/// Whether to wait until a change is on the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flush {
    Wait,
    Skip,
}

/// Replaces the file at `path` as a whole: whoever reads it, after a power cut too, finds the old
/// content or the new one. `temp` is another path on the same file system, which only one writer
/// uses at a time; what a writer that was killed left there is overwritten.
pub(crate) fn replace(disk: &dyn Disk, path: &str, temp: &str, bytes: &[u8], flush: Flush) -> io::Result<()> {
    write_new(disk, temp, bytes, flush)?;
    put_in_place(disk, temp, path)?;
    match flush {
        Flush::Wait => disk.sync_dir(parent(path)),
        Flush::Skip => Ok(()),
    }
}

/// The first step of [`replace`]: writes the new content at `temp`. Answers what the file then is.
pub(crate) fn write_new(disk: &dyn Disk, temp: &str, bytes: &[u8], flush: Flush) -> io::Result<Metadata> {
    let write = || {
        let file = disk.open(temp, Access::Update)?;
        file.set_len(0)?;
        file.write_at(bytes, 0)?;
        if flush == Flush::Wait {
            file.sync()?;
        }
        file.metadata()
    };
    write().inspect_err(|_| drop(disk.unlink(temp)))
}

/// The second step of [`replace`], after which the folder is to be flushed.
pub(crate) fn put_in_place(disk: &dyn Disk, temp: &str, path: &str) -> io::Result<()> {
    disk.rename(temp, path).inspect_err(|_| drop(disk.unlink(temp)))
}

/// Makes the folder at `path` and its parents, as far as they are not there, each durable before
/// something is put into it.
pub(crate) fn create_dirs(disk: &dyn Disk, path: &str, flush: Flush) -> io::Result<()> {
    match disk.create_dir(path) {
        Ok(()) => {}
        // Whoever made it may not have come to flush it.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound && !parent(path).is_empty() => {
            create_dirs(disk, parent(path), flush)?;
            return create_dirs(disk, path, flush);
        }
        Err(error) => return Err(error),
    }
    match flush {
        Flush::Wait => disk.sync_dir(parent(path)),
        Flush::Skip => Ok(()),
    }
}

/// The folder that `path` stands in; `""` for the disk's own.
pub(crate) fn parent(path: &str) -> &str {
    path.rsplit_once('/').map_or("", |(parent, _)| parent)
}
