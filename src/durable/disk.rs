//! The file operations that a store needs, as a trait.

use std::fmt;
use std::io;
use std::time::SystemTime;

/// File operations beneath one folder. Paths are relative to it, with `/` between their parts. No
/// operation but [`open_target`](Self::open_target) follows a symbolic link.
pub(crate) trait Disk: Send + Sync + fmt::Debug {
    /// Opens a regular file.
    fn open(&self, path: &str, access: OpenMode) -> io::Result<Box<dyn DiskFile>>;
    /// Opens the regular file that a link at `path` leads to, to check its content: the one operation
    /// that follows a link.
    fn open_target(&self, path: &str) -> io::Result<Box<dyn DiskFile>>;
    /// Makes a read-only file with this content under a name that is free: until a power cut, a reader
    /// that finds the name finds all of the content. No file system is known to make it durable before it
    /// has the name. `Unsupported` where the system cannot do this.
    fn create_whole(&self, path: &str, bytes: &[u8]) -> io::Result<()>;
    /// Makes a folder whose parent exists, with mode 0755.
    fn create_dir(&self, path: &str) -> io::Result<()>;
    /// Returns the names in a folder, except those that are not UTF-8: the store writes no such name.
    fn read_dir(&self, path: &str) -> io::Result<Vec<String>>;
    /// Returns the metadata of `path`; for a link, of the link itself.
    fn metadata(&self, path: &str) -> io::Result<Metadata>;
    /// Renames a file, and replaces the file that had the name.
    fn rename(&self, from: &str, to: &str) -> io::Result<()>;
    /// Removes a file.
    fn unlink(&self, path: &str) -> io::Result<()>;
    /// Makes the names in a folder durable; `""` is the disk's own folder.
    fn sync_dir(&self, path: &str) -> io::Result<()>;
    /// Makes the contents of these files durable, with fewer flushes than files where that is possible.
    fn sync_files(&self, files: &[&dyn DiskFile]) -> io::Result<()>;
    /// Sets a file's time of modification to now.
    fn touch(&self, path: &str) -> io::Result<()>;
    /// Takes all rights to `path` from the group and from other users, unless they may write to the
    /// disk's own folder; returns whether they had any. Leaves a read-only file, and what belongs to
    /// another user, as it is.
    fn restrict(&self, path: &str) -> io::Result<bool>;
    /// Returns the size and the free space of the file system.
    fn space(&self) -> io::Result<Space>;
}

/// An open file. Reads and writes take an offset, so that several threads can share it.
pub(crate) trait DiskFile: Send + Sync + fmt::Debug {
    /// Returns the file's metadata.
    fn metadata(&self) -> io::Result<Metadata>;
    /// Reads some bytes at `offset`; returns 0 at the file's end.
    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize>;
    /// Writes all of `bytes` at `offset`.
    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()>;
    /// Truncates the file, or extends it with zeros.
    fn set_len(&self, len: u64) -> io::Result<()>;
    /// Sets the mode to 0444: later openings cannot write.
    fn set_read_only(&self) -> io::Result<()>;
    /// Sets the mode to 0644: every user can read.
    fn set_public(&self) -> io::Result<()>;
    /// Makes the content durable. After an error the content on the disk is unknown, and the caller must
    /// discard the file: a second flush would succeed although the kernel has dropped the pages.
    fn sync(&self) -> io::Result<()>;
    /// Tries to lock the file, without waiting; returns whether it did.
    fn try_lock(&self, lock: Lock) -> io::Result<bool>;
    /// Unlocks the file. Dropping it does the same: a process that was forked meanwhile has a copy of the
    /// descriptor, so that closing it alone would not.
    fn unlock(&self) -> io::Result<()>;
}

/// How a file is opened. A new file gets mode 0600, and the same rights for the classes of users that
/// may write to the disk's own folder.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum OpenMode {
    /// To read; the file must exist.
    Read,
    /// To read and write; made if it does not exist.
    Update,
    /// To read and write; the file must not exist.
    Create,
    /// The same, for a file that every user may read: its mode is 0644.
    CreatePublic,
}

/// How a file is locked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Lock {
    /// Other holders may share it.
    Shared,
    /// Held alone.
    Exclusive,
}

/// What the file system says about a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Metadata {
    pub(crate) kind: FileType,
    /// Length, bytes.
    pub(crate) len: u64,
    /// Time of the last change of the content, or of the last touch.
    pub(crate) modified: SystemTime,
    /// The earlier of the times of the last change of content and of metadata. Nothing but a wrong clock
    /// puts it into the future.
    pub(crate) dated: SystemTime,
    /// Whether it has one name, and belongs to this process's user or to the owner of the disk's folder:
    /// a file that may be written on.
    pub(crate) is_ours: bool,
    /// Device and inode number: unique among the files that exist at one moment.
    pub(crate) identity: (u64, u64),
    /// Space that it takes on the disk, bytes.
    pub(crate) allocated: u64,
}

/// The type of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileType {
    File,
    Dir,
    /// A link, device, FIFO or socket, which a store never has.
    Other,
}

/// The space of a file system.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Space {
    /// Size, bytes.
    pub(crate) capacity: u64,
    /// Free for an unprivileged user, bytes.
    pub(crate) available: u64,
}

/// Whether a change is flushed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Flush {
    Wait,
    Skip,
}
