//! How much room there is, and what takes it.

use std::path::PathBuf;

use crate::durable::{FileType, Space};
use crate::error::{Error, ErrorKind};
use crate::store::error::refused;
use crate::store::handle::Store;
use crate::store::layout::{BLOBS, DAMAGED, PARTIALS};

/// A pull leaves this much of the disk free, bytes, unless the disk is small.
const RESERVE: u64 = 64 << 20;

/// The file system that a store is on, and what the store takes of it.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct StoreFsInfo {
    /// The store's folder.
    pub path: PathBuf,
    /// Bytes that blobs take, on their way, damaged or in use.
    pub used_bytes: u64,
    /// Files that they take.
    pub inodes_used: u64,
    /// The file system's size, bytes.
    pub capacity_bytes: u64,
    /// What an unprivileged user may still write there, bytes.
    pub available_bytes: u64,
}

impl Store {
    /// The store's file system. Looks at every blob's size; reads none.
    ///
    /// # Errors
    /// `Store`.
    pub fn fs_info(&self) -> Result<StoreFsInfo, Error> {
        let space = self.space()?;
        let (mut used_bytes, mut inodes_used) = (0, 0);
        for folder in self.blob_folders()?.into_iter().chain([PARTIALS.to_owned(), DAMAGED.to_owned()]) {
            for name in self.names_in(&folder)? {
                // One that has gone meanwhile takes nothing.
                let Ok(metadata) = self.0.disk.metadata(&format!("{folder}/{name}")) else { continue };
                used_bytes += metadata.allocated;
                inodes_used += 1;
            }
        }
        Ok(StoreFsInfo {
            path: self.0.dir.clone(),
            used_bytes,
            inodes_used,
            capacity_bytes: space.capacity,
            available_bytes: space.available,
        })
    }

    /// Makes sure that `bytes` can be written and the reserve is still left, if need be by throwing
    /// away partial downloads that nobody is at, the oldest first.
    ///
    /// # Errors
    /// `DiskFull`, with both figures.
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

    /// What may be written, bytes: what is free less the reserve.
    pub(super) fn free(&self) -> Result<u64, Error> {
        let space = self.space()?;
        let reserve = self.0.settings.reserve.unwrap_or(RESERVE.min(space.capacity / 100));
        Ok(space.available.saturating_sub(reserve))
    }

    pub(super) fn space(&self) -> Result<Space, Error> {
        self.0.disk.space().map_err(|error| refused(&error, "ask for the room on the disk"))
    }

    /// The folders that blobs stand in, one an algorithm.
    pub(super) fn blob_folders(&self) -> Result<Vec<String>, Error> {
        let paths = self.names_in(BLOBS)?.into_iter().map(|name| format!("{BLOBS}/{name}"));
        Ok(paths.filter(|path| self.is_folder(path)).collect())
    }

    fn is_folder(&self, path: &str) -> bool {
        self.0.disk.metadata(path).is_ok_and(|metadata| metadata.kind == FileType::Dir)
    }

    /// The names in a folder; none if it is not there.
    pub(super) fn names_in(&self, folder: &str) -> Result<Vec<String>, Error> {
        match self.0.disk.read_dir(folder) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(Vec::new()),
            outcome => outcome.map_err(|error| refused(&error, format!("list {folder}"))),
        }
    }
}
