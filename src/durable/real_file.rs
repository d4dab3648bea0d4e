//! An open file of the operating system.

use std::fs::{File, TryLockError};
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, SystemTime};

use rustix::fs::{Mode, Stat};

use crate::durable::disk::{DiskFile, FileType, Lock, Metadata};

/// The users whose files a store writes on: that of this process, and the owner of the disk's folder.
#[derive(Clone, Copy, Debug)]
pub(super) struct DiskOwners {
    pub(super) process: u32,
    pub(super) folder: u32,
}

#[derive(Debug)]
pub(super) struct RealFile {
    file: File,
    owners: DiskOwners,
    is_locked: AtomicBool,
}

impl RealFile {
    pub(super) fn new(file: File, owners: DiskOwners) -> Self {
        RealFile { file, owners, is_locked: AtomicBool::new(false) }
    }
}

impl DiskFile for RealFile {
    fn metadata(&self) -> io::Result<Metadata> {
        Ok(described(&rustix::fs::fstat(&self.file)?, self.owners))
    }

    fn read_at(&self, buffer: &mut [u8], offset: u64) -> io::Result<usize> {
        loop {
            match self.file.read_at(buffer, offset) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                answer => return answer,
            }
        }
    }

    fn write_at(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        self.file.write_all_at(bytes, offset)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.file.set_len(len)
    }

    fn set_read_only(&self) -> io::Result<()> {
        Ok(rustix::fs::fchmod(self.file.as_fd(), Mode::from_raw_mode(0o444))?)
    }

    fn set_public(&self) -> io::Result<()> {
        Ok(rustix::fs::fchmod(self.file.as_fd(), Mode::from_raw_mode(0o644))?)
    }

    fn sync(&self) -> io::Result<()> {
        self.file.sync_all()
    }

    fn try_lock(&self, lock: Lock) -> io::Result<bool> {
        let outcome = match lock {
            Lock::Shared => self.file.try_lock_shared(),
            Lock::Exclusive => self.file.try_lock(),
        };
        match outcome {
            Ok(()) => {
                self.is_locked.store(true, Ordering::Relaxed);
                Ok(true)
            }
            Err(TryLockError::WouldBlock) => Ok(false),
            Err(TryLockError::Error(error)) => Err(error),
        }
    }

    fn unlock(&self) -> io::Result<()> {
        self.file.unlock()?;
        self.is_locked.store(false, Ordering::Relaxed);
        Ok(())
    }
}

impl Drop for RealFile {
    fn drop(&mut self) {
        if *self.is_locked.get_mut() {
            let _ = self.file.unlock();
        }
    }
}

#[allow(clippy::useless_conversion, clippy::unnecessary_cast, reason = "the types differ by system")]
pub(super) fn described(stat: &Stat, owners: DiskOwners) -> Metadata {
    let time = |seconds: i64, nanos: i64| {
        let seconds = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        SystemTime::UNIX_EPOCH + seconds + Duration::from_nanos(u64::try_from(nanos).unwrap_or(0))
    };
    let modified = time(stat.st_mtime as i64, stat.st_mtime_nsec as i64);
    Metadata {
        kind: match rustix::fs::FileType::from_raw_mode(stat.st_mode) {
            rustix::fs::FileType::RegularFile => FileType::File,
            rustix::fs::FileType::Directory => FileType::Dir,
            _ => FileType::Other,
        },
        len: u64::try_from(stat.st_size).unwrap_or(0),
        modified,
        dated: modified.min(time(stat.st_ctime as i64, stat.st_ctime_nsec as i64)),
        is_ours: stat.st_nlink == 1 && [owners.process, owners.folder].contains(&stat.st_uid),
        identity: (stat.st_dev as u64, stat.st_ino as u64),
        allocated: u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_ends_with_its_file_though_a_forked_process_has_the_descriptor_too() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lock");
        let owners = DiskOwners { process: 0, folder: 0 };
        let open = || RealFile::new(File::options().create(true).append(true).open(&path).unwrap(), owners);
        let held = open();
        assert!(held.try_lock(Lock::Exclusive).unwrap());
        // As after a fork: another descriptor of the same open file.
        let inherited = held.file.try_clone().unwrap();
        assert!(!open().try_lock(Lock::Exclusive).unwrap());
        drop(held);
        assert!(open().try_lock(Lock::Exclusive).unwrap());
        drop(inherited);
    }
}
