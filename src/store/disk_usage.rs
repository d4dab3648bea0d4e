//! How much space the disk has, and how much of it the store takes.

use std::path::PathBuf;

use crate::context::PullContext;
use crate::durable::{FileType, Lock, OpenMode, Space};
use crate::error::{Error, ErrorKind};
use crate::image::manifest::Descriptor;
use crate::image::size::Size;
use crate::store::error::{is_read_only, refused};
use crate::store::handle::Store;
use crate::store::index_write;
use crate::store::layout::{self, BLOBS, PARTIALS};
use crate::store::reservations::SpaceReservation;

/// Space that a pull leaves free, bytes, unless the disk is small.
const RESERVE: u64 = 64 << 20;

/// The file system that a store is on, and the store's share of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreFsInfo {
    /// The store's folder.
    pub path: PathBuf,
    /// Space that blobs take, unfinished and damaged ones included, bytes. A user that may not look
    /// into `.oci-puller` sees the finished ones alone.
    pub used_bytes: u64,
    /// The number of their files.
    pub inodes_used: u64,
    /// The file system's size, bytes.
    pub capacity_bytes: u64,
    /// Space that an unprivileged user can still use, bytes.
    pub available_bytes: u64,
}

impl Store {
    /// Returns the size of the store and of its file system. Reads the size of every blob, and no content.
    ///
    /// # Errors
    /// [`Store`](ErrorKind::Store).
    pub fn fs_info(&self) -> Result<StoreFsInfo, Error> {
        let space = self.space()?;
        let (mut used_bytes, mut inodes_used) = (0, 0);
        for folder in self.blob_folders()? {
            for name in self.names_in(&folder)? {
                // It may have been removed meanwhile.
                let Ok(metadata) = self.0.disk.metadata(&format!("{folder}/{name}")) else { continue };
                used_bytes += metadata.allocated;
                inodes_used += 1;
            }
        }
        for leftover in self.leftovers()? {
            used_bytes += leftover.bytes;
            inodes_used += 1;
        }
        Ok(StoreFsInfo {
            path: self.0.dir.clone(),
            used_bytes,
            inodes_used,
            capacity_bytes: space.capacity,
            available_bytes: space.available,
        })
    }

    /// Reserves the space for those of `blobs` that the store lacks. Other pulls of this process do not count
    /// on it until the reservation is dropped; those of other processes count by what their partials lack.
    /// If there is too little, removes partial downloads that no pull holds, the oldest first.
    ///
    /// # Errors
    /// `DiskFull`, with both figures; `Store`, `Cancelled`, `Timeout`.
    pub(crate) fn reserve_space(
        &self,
        cx: &PullContext,
        blobs: &[&Descriptor],
    ) -> Result<SpaceReservation, Error> {
        let mut missing = Vec::new();
        for blob in blobs {
            let metadata = self.0.disk.metadata(&layout::blob_path(&blob.digest));
            if metadata.is_err() {
                let there = self.0.disk.metadata(&layout::partial_path(&blob.digest));
                let there = there.map_or(0, |partial| partial.allocated);
                missing.push((blob.digest.clone(), blob.size.saturating_sub(there)));
            }
        }
        let reservations = &self.0.reservations;
        if missing.is_empty() {
            return Ok(reservations.add(missing));
        }
        let _permit = cx.wait_for(reservations.comparison.acquire().granted())?;
        let others = reservations.total();
        let new = missing.iter().filter(|(digest, _)| !reservations.has(digest));
        let needed = new.fold(0_u64, |needed, (_, bytes)| needed.saturating_add(*bytes));
        // From now on its own partials are not removed.
        let reservation = reservations.add(missing);
        self.make_space(needed, others)?;
        Ok(reservation)
    }

    /// Checks that `bytes` can be written, beside what running pulls still write, without using the reserve. If
    /// not, removes partial downloads that no pull holds or has reserved space for, the oldest first.
    ///
    /// # Errors
    /// `DiskFull`, with both figures; `Store`.
    pub(crate) fn require_space(&self, bytes: u64) -> Result<(), Error> {
        self.make_space(bytes, self.0.reservations.total())
    }

    fn make_space(&self, bytes: u64, others: u64) -> Result<(), Error> {
        if bytes == 0 {
            return Ok(());
        }
        let others = others.saturating_add(self.missing_elsewhere()?);
        let needed = bytes.saturating_add(others);
        if self.free()? >= needed {
            return Ok(());
        }
        self.collect_partials_for(needed)?;
        let free = self.free()?;
        if free >= needed {
            return Ok(());
        }
        let mut text = format!("{} are needed, and {} are free beside the reserve", Size(bytes), Size(free));
        if others > 0 {
            text.push_str(&format!(", of which running pulls need {}", Size(others)));
        }
        Err(Error::new(ErrorKind::DiskFull, text))
    }

    /// Returns how many bytes the partials lack that other processes hold. A partial has its full length from
    /// the first note on, and takes only the space of the bytes that came.
    fn missing_elsewhere(&self) -> Result<u64, Error> {
        let disk = &self.0.disk;
        let mut missing = 0_u64;
        for name in self.names_in(PARTIALS)? {
            let path = format!("{PARTIALS}/{name}");
            let is_ours = layout::digest_of_partial(&path)
                .is_some_and(|digest| self.0.reservations.has(&digest) || self.0.in_progress.has(&digest));
            let Ok(found) = disk.metadata(&path) else { continue };
            let lacks = found.len.saturating_sub(found.allocated);
            if is_ours || lacks == 0 {
                continue;
            }
            // One that no process holds grows no more.
            let is_held = disk
                .open(&path, OpenMode::Read)
                .is_ok_and(|file| matches!(file.try_lock(Lock::Shared), Ok(false)));
            if is_held {
                missing = missing.saturating_add(lacks);
            }
        }
        Ok(missing)
    }

    /// Returns how many bytes can be written without using the reserve.
    pub(super) fn free(&self) -> Result<u64, Error> {
        let space = self.space()?;
        let reserve = self.0.settings.reserve.unwrap_or(RESERVE.min(space.capacity / 100));
        Ok(space.available.saturating_sub(reserve))
    }

    pub(super) fn space(&self) -> Result<Space, Error> {
        self.0.disk.space().map_err(|error| refused(&error, "read the free space of the disk"))
    }

    /// Makes the file anew that a removal needs on a full disk, if it is not there.
    pub(super) fn renew_reserve(&self) {
        match index_write::renew_reserve(&*self.0.disk, self.0.settings.flush()) {
            Err(error) if !is_read_only(&error) => {
                let dir = self.0.dir.display();
                log::warn!("{dir} has no reserve: if the disk is full, images cannot be removed: {error}");
            }
            _ => {}
        }
    }

    /// Returns the folders of blobs, one for each algorithm.
    pub(super) fn blob_folders(&self) -> Result<Vec<String>, Error> {
        let paths = self.names_in(BLOBS)?.into_iter().map(|name| format!("{BLOBS}/{name}"));
        Ok(paths.filter(|path| self.is_folder(path)).collect())
    }

    fn is_folder(&self, path: &str) -> bool {
        self.0.disk.metadata(path).is_ok_and(|metadata| metadata.kind == FileType::Dir)
    }

    /// Returns the names in a folder; none if it does not exist.
    pub(super) fn names_in(&self, folder: &str) -> Result<Vec<String>, Error> {
        match self.0.disk.read_dir(folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            outcome => outcome.map_err(|error| refused(&error, format!("list {folder}"))),
        }
    }
}
