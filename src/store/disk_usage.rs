//! How much space the disk has, and how much of it the store takes.

use std::path::PathBuf;

use crate::durable::{FileType, Space};
use crate::error::{Error, ErrorKind};
use crate::store::error::{is_read_only, refused};
use crate::store::handle::Store;
use crate::store::index_write;
use crate::store::layout::BLOBS;

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
    /// `Store`.
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

    /// Checks that `bytes` can be written without using the reserve. If not, removes partial downloads
    /// that no pull holds, the oldest first.
    ///
    /// # Errors
    /// `DiskFull`, with both figures; `Store`.
    pub(crate) fn require_space(&self, bytes: u64) -> Result<(), Error> {
        if bytes == 0 || self.free()? >= bytes {
            return Ok(());
        }
        self.collect_partials_for(bytes)?;
        let free = self.free()?;
        if free >= bytes {
            return Ok(());
        }
        let text = format!("{bytes} bytes are needed, and {free} are free beside the reserve");
        Err(Error::new(ErrorKind::DiskFull, text))
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
