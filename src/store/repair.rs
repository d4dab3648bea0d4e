//! What a power cut leaves of a store of which nothing is flushed, made one that can be opened.

use std::io;
use std::time::Duration;

use serde::de::IgnoredAny;

use crate::context::PullContext;
use crate::durable::{Disk, DiskFile, FileType, Flush, Lock, OpenMode, read_limited};
use crate::error::Error;
use crate::store::error::refused;
use crate::store::layout::{
    self, EMPTY_INDEX, INDEX, INDEX_LOCK, LAYOUT, LOST_INDEX, MAX_INDEX, MAX_LAYOUT, OWN,
};
use crate::store::{index_write, retry_io};

/// What another tool is writing just now looks the same as what was never written to its end. None
/// takes so long.
const AT_REST: Duration = Duration::from_secs(2);

/// Writes `oci-layout` anew if it was not written to its end, and puts such an `index.json` aside for an
/// empty one: a device must not need a visit because its power failed. Images that have lost their names
/// by that are pulled again, and find their blobs. A folder that this crate has never opened is left
/// alone.
pub(super) fn after_power_cut(disk: &dyn Disk) -> Result<(), Error> {
    let failed = |error: io::Error| refused(&error, "repair the store");
    if !disk.metadata(OWN).is_ok_and(|own| own.kind == FileType::Dir) {
        return Ok(());
    }
    let lock = layout::open_lock(disk, INDEX_LOCK).map_err(failed)?;
    // Another process may be at the same.
    retry_io::lock(&PullContext::new(), &*lock, Lock::Exclusive, INDEX_LOCK)?;
    if is_lost(disk, LAYOUT, MAX_LAYOUT) {
        log::warn!("{LAYOUT} was lost, as by a power cut: it is written anew");
        layout::write_marker(disk, Flush::Wait).map_err(failed)?;
    }
    if is_lost(disk, INDEX, MAX_INDEX) {
        log::warn!(
            "{INDEX} was lost, as by a power cut, and is now {LOST_INDEX}: images have to be pulled again, and \
             find their blobs, which are to be verified"
        );
        disk.rename(INDEX, LOST_INDEX)
            .and_then(|()| index_write::replace(disk, EMPTY_INDEX.as_bytes(), Flush::Wait))
            .map_err(failed)?;
    }
    Ok(())
}

/// Whether a file is there that is no JSON, and at rest. What is JSON, and cannot be made sense of, is
/// somebody's.
fn is_lost(disk: &dyn Disk, path: &str, limit: u64) -> bool {
    let look = || -> io::Result<bool> {
        let file = disk.open(path, OpenMode::Read)?;
        let text = read_limited(&*file, limit)?;
        Ok(serde_json::from_slice::<IgnoredAny>(&text).is_err() && is_at_rest(&*file)?)
    };
    look().unwrap_or(false)
}

/// Asked after the file was read. A time that lies far ahead was noted before the clock was set right.
fn is_at_rest(file: &dyn DiskFile) -> io::Result<bool> {
    let age = file.metadata()?.modified.elapsed();
    Ok(age.unwrap_or_else(|ahead| ahead.duration()) >= AT_REST)
}
