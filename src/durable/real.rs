//! The file operations of the operating system.

// Other systems lack what some of these parts are for.
#![cfg_attr(not(any(target_os = "linux", target_os = "android")), allow(dead_code, unused_imports))]

use std::collections::HashMap;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::Mutex;
use rustix::fs::{AtFlags, Mode, OFlags, Timespec, Timestamps};
use rustix::io::Errno;

use crate::durable::disk::{Disk, DiskFile, Metadata, OpenMode, Space};
use crate::durable::real_file::{DiskOwners, RealFile, described};

/// From this many files on, one flush of the whole file system is cheaper than one for each: on ext4
/// 8 small files took 1.2 ms one by one and 0.35 ms at once, and 400 took 55 and 5. Fewer are flushed
/// by themselves, so that the flush does not wait for the writes of other programs.
const FLUSH_ALL_FROM: usize = 8;

/// How many folders stay open, besides the disk's own. A process may have few descriptors, and a pull needs three
/// folders again and again.
const OPEN_FOLDERS: usize = 3;

/// The disk beneath one folder. The folder is opened once: it stays the same one, even when its path
/// comes to mean another.
#[derive(Debug)]
pub(crate) struct RealDisk {
    root: Arc<OwnedFd>,
    owners: DiskOwners,
    /// The mode of new private files.
    private: Mode,
    /// Whether `syncfs` tells of failed writes.
    syncfs_reports: bool,
    /// Folders that are kept open, by their paths.
    folders: Mutex<HashMap<String, Arc<OwnedFd>>>,
    /// Set when the kernel, or a sandbox around us, has no `openat2`.
    without_openat2: AtomicBool,
    /// Set where a file cannot, or had better not, get its name later.
    without_unnamed: AtomicBool,
}

impl RealDisk {
    /// The disk beneath `dir`, which is a folder or a link to one: the path to the store is the
    /// user's own; only its content is not trusted.
    pub(crate) fn open(dir: &Path) -> io::Result<Self> {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root = rustix::fs::open(dir, flags, Mode::empty())?;
        let stat = rustix::fs::fstat(&root)?;
        let process = rustix::process::geteuid().as_raw();
        Ok(RealDisk {
            owners: DiskOwners { process, folder: stat.st_uid },
            private: private_mode(Mode::from_raw_mode(stat.st_mode)),
            without_unnamed: AtomicBool::new(is_slow_to_link(&root)),
            root: Arc::new(root),
            syncfs_reports: syncfs_reports(),
            folders: Mutex::default(),
            without_openat2: AtomicBool::new(false),
        })
    }

    /// Opens the file or folder at `path`, and follows no link in any part of it.
    fn open_beneath(&self, path: &str, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
        let flags = flags | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if !self.without_openat2.load(Ordering::Relaxed) {
            use rustix::fs::ResolveFlags;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            let beneath = if path.is_empty() { "." } else { path };
            match rustix::fs::openat2(&self.root, beneath, flags, mode, resolve) {
                // Sandboxes answer EPERM to system calls that they do not know.
                Err(Errno::NOSYS | Errno::PERM) => self.without_openat2.store(true, Ordering::Relaxed),
                // A rename elsewhere in the tree came between.
                Err(Errno::AGAIN) => return self.open_by_parts(path, flags, mode),
                answer => return answer,
            }
        }
        self.open_by_parts(path, flags, mode)
    }

    /// The same for kernels without `openat2`: part by part.
    fn open_by_parts(&self, path: &str, flags: OFlags, mode: Mode) -> rustix::io::Result<OwnedFd> {
        let (dir, name) = split(path);
        let walk = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC | OFlags::NOFOLLOW;
        let mut folder = rustix::fs::openat(&self.root, ".", walk, Mode::empty())?;
        for part in dir.split('/').filter(|part| !part.is_empty()) {
            check_part(part)?;
            folder = rustix::fs::openat(&folder, part, walk, Mode::empty())?;
        }
        if name.is_empty() {
            return Ok(folder);
        }
        check_part(name)?;
        rustix::fs::openat(&folder, name, flags, mode)
    }

    /// Notes that files cannot get their names later: by the file system (NFS), the kernel, or what is
    /// around us. Android forbids links, and some have no `/proc`.
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn unless_never<T>(&self, outcome: rustix::io::Result<T>) -> rustix::io::Result<T> {
        if let Err(
            error @ (Errno::OPNOTSUPP
            | Errno::ISDIR
            | Errno::INVAL
            | Errno::NOSYS
            | Errno::NOENT
            | Errno::PERM
            | Errno::ACCESS
            | Errno::XDEV),
        ) = outcome
        {
            log::debug!("files get their names at once from now on: {error}");
            self.without_unnamed.store(true, Ordering::Relaxed);
        }
        outcome
    }

    fn folder(&self, path: &str) -> rustix::io::Result<Arc<OwnedFd>> {
        if path.is_empty() {
            return Ok(self.root.clone());
        }
        if let Some(folder) = self.folders.lock().get(path) {
            return Ok(folder.clone());
        }
        let folder = Arc::new(self.open_folder(path)?);
        let mut folders = self.folders.lock();
        let closed = match folders.len() < OPEN_FOLDERS {
            true => None,
            false => folders.keys().next().cloned().and_then(|other| folders.remove(&other)),
        };
        folders.insert(path.to_owned(), folder.clone());
        drop(folders);
        drop(closed);
        Ok(folder)
    }

    fn open_folder(&self, path: &str) -> rustix::io::Result<OwnedFd> {
        self.open_beneath(path, OFlags::RDONLY | OFlags::DIRECTORY, Mode::empty())
    }

    /// Does `operation` in the folder that `path` stands in. One that was opened before may have been
    /// removed since, and made anew: then it is looked up again.
    fn within<T>(
        &self,
        path: &str,
        operation: impl Fn(&OwnedFd, &str) -> rustix::io::Result<T>,
    ) -> io::Result<T> {
        let (dir, name) = split(path);
        check_part(name)?;
        let folder = self.folder(dir)?;
        match operation(&folder, name) {
            Err(Errno::NOENT) if !dir.is_empty() && was_removed(&folder) => {
                self.folders.lock().remove(dir);
                Ok(operation(&*self.folder(dir)?, name)?)
            }
            outcome => Ok(outcome?),
        }
    }
}

/// Returns how many files this process may have open (`RLIMIT_NOFILE`).
pub(crate) fn max_open_files() -> usize {
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    limit.and_then(|limit| usize::try_from(limit).ok()).unwrap_or(usize::MAX)
}

/// ZFS waits for the disk when it gives such a file its name.
#[cfg(any(target_os = "linux", target_os = "android"))]
#[allow(clippy::unnecessary_cast, reason = "the type differs by system")]
fn is_slow_to_link(folder: &OwnedFd) -> bool {
    const ZFS: i64 = 0x2fc1_2fc1;
    rustix::fs::fstatfs(folder).is_ok_and(|system| system.f_type as i64 == ZFS)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn is_slow_to_link(_: &OwnedFd) -> bool {
    true
}

/// The mode of private files in a folder of this mode: those may read and write that may write to the
/// folder.
fn private_mode(folder: Mode) -> Mode {
    let mut private = Mode::RUSR | Mode::WUSR;
    if folder.contains(Mode::WGRP) {
        private |= Mode::RGRP | Mode::WGRP;
    }
    if folder.contains(Mode::WOTH) {
        private |= Mode::ROTH | Mode::WOTH;
    }
    private
}

/// The right to enter a folder, for the classes that may read.
fn class_search(private: Mode) -> Mode {
    let group = if private.contains(Mode::RGRP) { Mode::XGRP } else { Mode::empty() };
    let others = if private.contains(Mode::ROTH) { Mode::XOTH } else { Mode::empty() };
    group | others
}

fn special_bits() -> Mode {
    Mode::SUID | Mode::SGID | Mode::SVTX
}

fn was_removed(folder: &OwnedFd) -> bool {
    rustix::fs::fstat(folder).is_ok_and(|stat| stat.st_nlink == 0)
}

fn split(path: &str) -> (&str, &str) {
    path.rsplit_once('/').unwrap_or(("", path))
}

fn check_part(part: &str) -> rustix::io::Result<()> {
    if matches!(part, "" | "." | "..") { Err(Errno::INVAL) } else { Ok(()) }
}

/// Linux tells callers of `syncfs` about failed writes [since 5.8](https://man7.org/linux/man-pages/man2/syncfs.2.html).
#[cfg(any(target_os = "linux", target_os = "android"))]
pub(crate) fn syncfs_reports() -> bool {
    let system = rustix::system::uname();
    let release = system.release().to_string_lossy();
    let mut numbers =
        release.split(|c: char| !c.is_ascii_digit()).map(|part| part.parse::<u32>().unwrap_or(0));
    (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0)) >= (5, 8)
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
pub(crate) fn syncfs_reports() -> bool {
    false
}

impl Disk for RealDisk {
    fn open(&self, path: &str, access: OpenMode) -> io::Result<Box<dyn DiskFile>> {
        // NONBLOCK: opening a FIFO would wait for its other end.
        let flags = OFlags::NONBLOCK
            | match access {
                OpenMode::Read => OFlags::RDONLY,
                OpenMode::Update => OFlags::RDWR | OFlags::CREATE,
                OpenMode::Create | OpenMode::CreatePublic => OFlags::RDWR | OFlags::CREATE | OFlags::EXCL,
            };
        let mode = match access {
            OpenMode::Read => Mode::empty(),
            OpenMode::Update | OpenMode::Create => self.private,
            OpenMode::CreatePublic => Mode::from_raw_mode(0o644),
        };
        let file = File::from(self.open_beneath(path, flags, mode)?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(Box::new(RealFile::new(file, self.owners)))
    }

    fn open_target(&self, path: &str) -> io::Result<Box<dyn DiskFile>> {
        let flags = OFlags::RDONLY | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let open = |folder: &OwnedFd, name: &str| rustix::fs::openat(folder, name, flags, Mode::empty());
        let file = File::from(self.within(path, open)?);
        if !file.metadata()?.is_file() {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file"));
        }
        Ok(Box::new(RealFile::new(file, self.owners)))
    }

    /// By a file that has no name until it is linked under its own. The way there that needs no privilege
    /// is that of [open(2)](https://man7.org/linux/man-pages/man2/open.2.html).
    #[cfg(any(target_os = "linux", target_os = "android"))]
    fn create_whole(&self, path: &str, bytes: &[u8]) -> io::Result<()> {
        use std::os::fd::AsRawFd;
        if self.without_unnamed.load(Ordering::Relaxed) {
            return Err(io::ErrorKind::Unsupported.into());
        }
        let (dir, name) = split(path);
        check_part(name)?;
        let folder = self.folder(dir)?;
        let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
        let unnamed = rustix::fs::openat(&*folder, ".", flags, Mode::from_raw_mode(0o444));
        let file = File::from(self.unless_never(unnamed)?);
        file.write_all_at(bytes, 0)?;
        rustix::fs::fchmod(&file, Mode::from_raw_mode(0o444))?;
        // The thread's own: it may share its files with no other.
        let itself = format!("/proc/thread-self/fd/{}", file.as_raw_fd());
        let linked = rustix::fs::linkat(rustix::fs::CWD, itself, &*folder, name, AtFlags::SYMLINK_FOLLOW);
        Ok(self.unless_never(linked)?)
    }

    #[cfg(not(any(target_os = "linux", target_os = "android")))]
    fn create_whole(&self, _: &str, _: &[u8]) -> io::Result<()> {
        Err(io::ErrorKind::Unsupported.into())
    }

    fn create_dir(&self, path: &str) -> io::Result<()> {
        self.within(path, |folder, name| rustix::fs::mkdirat(folder, name, Mode::from_raw_mode(0o755)))
    }

    fn read_dir(&self, path: &str) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in rustix::fs::Dir::new(self.open_folder(path)?)? {
            match entry?.file_name().to_str() {
                Ok("." | "..") | Err(_) => {}
                Ok(name) => names.push(name.to_owned()),
            }
        }
        Ok(names)
    }

    fn metadata(&self, path: &str) -> io::Result<Metadata> {
        let look = |folder: &OwnedFd, name: &str| rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW);
        Ok(described(&self.within(path, look)?, self.owners))
    }

    fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        self.within(from, |from_folder, from_name| {
            let (to_dir, to_name) = split(to);
            check_part(to_name)?;
            let to_folder = self.folder(to_dir)?;
            if was_removed(&to_folder) {
                self.folders.lock().remove(to_dir);
            }
            rustix::fs::renameat(from_folder, from_name, &*self.folder(to_dir)?, to_name)
        })
    }

    fn unlink(&self, path: &str) -> io::Result<()> {
        self.within(path, |folder, name| rustix::fs::unlinkat(folder, name, AtFlags::empty()))
    }

    fn sync_dir(&self, path: &str) -> io::Result<()> {
        Ok(rustix::fs::fsync(&*self.folder(path)?)?)
    }

    fn sync_files(&self, files: &[&dyn DiskFile]) -> io::Result<()> {
        #[cfg(any(target_os = "linux", target_os = "android"))]
        if self.syncfs_reports && files.len() >= FLUSH_ALL_FROM {
            return Ok(rustix::fs::syncfs(&self.root)?);
        }
        files.iter().try_for_each(|file| file.sync())
    }

    fn touch(&self, path: &str) -> io::Result<()> {
        let now = Timespec { tv_sec: 0, tv_nsec: rustix::fs::UTIME_NOW };
        let times = Timestamps { last_access: now, last_modification: now };
        self.within(path, |folder, name| {
            rustix::fs::utimensat(folder, name, &times, AtFlags::SYMLINK_NOFOLLOW)
        })
    }

    #[allow(clippy::useless_conversion, reason = "the types differ by system")]
    fn restrict(&self, path: &str) -> io::Result<bool> {
        // Not by the path: a link there would lead the change elsewhere.
        let found = match self.open_beneath(path, OFlags::RDONLY | OFlags::NONBLOCK, Mode::empty()) {
            // It belongs to another user, or is gone.
            Err(Errno::ACCESS | Errno::NOENT | Errno::LOOP) => return Ok(false),
            outcome => outcome?,
        };
        let stat = rustix::fs::fstat(&found)?;
        let mode = Mode::from_raw_mode(stat.st_mode.into());
        let allowed = mode & (self.private | Mode::RWXU | class_search(self.private) | special_bits());
        let is_loose = allowed != mode && mode.contains(Mode::WUSR) && stat.st_uid == self.owners.process;
        if is_loose {
            rustix::fs::fchmod(&found, allowed)?;
        }
        Ok(is_loose)
    }

    fn space(&self) -> io::Result<Space> {
        let stat = rustix::fs::fstatvfs(&self.root)?;
        Ok(Space {
            capacity: stat.f_blocks.saturating_mul(stat.f_frsize),
            available: stat.f_bavail.saturating_mul(stat.f_frsize),
        })
    }
}
