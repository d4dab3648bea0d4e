//! A temporary folder.

use std::fs;
use std::path::{Path, PathBuf};

use crate::exit::Exit;

/// A folder below `$TMPDIR` or `/tmp`, which is removed on drop.
pub(crate) struct TempFolder(PathBuf);

impl TempFolder {
    /// Creates a folder with a name that no other process has.
    pub(crate) fn create() -> Result<Self, Exit> {
        let name = format!("oci-puller-{}-{:016x}", std::process::id(), fastrand::u64(..));
        let path = std::env::temp_dir().join(name);
        let failed = |error| Exit::Own(format!("the temporary folder {}: {error}", path.display()));
        fs::create_dir(&path).map_err(failed)?;
        Ok(TempFolder(path))
    }

    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for TempFolder {
    fn drop(&mut self) {
        if let Err(error) = fs::remove_dir_all(&self.0) {
            log::warn!("{} could not be removed: {error}", self.0.display());
        }
    }
}
