//! What a power cut leaves of a store of which nothing is flushed, made one that can be opened.

use std::io;
use std::time::Duration;

use crate::context::PullContext;
use crate::durable::{self, Access, Disk, DiskFile, FileKind, Flush, Lock};
use crate::error::Error;
use crate::store::index::Index;
use crate::store::layout::{self, DAMAGED, INDEX, INDEX_LOCK, LAYOUT, MAX_INDEX, MAX_LAYOUT, OWN};
use crate::store::{limited, refused, wait};

/// What another tool is writing just now looks the same as what was never written to its end. None
/// takes so long.
const AT_REST: Duration = Duration::from_secs(2);

/// Writes `oci-layout` anew if it cannot be made sense of, and puts such an `index.json` aside for an
/// empty one: a device must not need a visit because its power failed. Images that have lost their names
/// by that are pulled again, and find their blobs. A folder that this crate has not made is left alone.
pub(super) fn after_power_cut(disk: &dyn Disk) -> Result<(), Error> {
    let failed = |error: io::Error| refused(&error, "repair the store");
    if !disk.metadata(OWN).is_ok_and(|own| own.kind == FileKind::Dir) {
        return Ok(());
    }
    let is_marker = |text: &[u8]| layout::check_marker(text).is_ok();
    let is_index = |text: &[u8]| Index::parse(text).is_ok();
    if !is_broken(disk, LAYOUT, MAX_LAYOUT, is_marker) && !is_broken(disk, INDEX, MAX_INDEX, is_index) {
        return Ok(());
    }
    let lock = layout::open_lock(disk, INDEX_LOCK).map_err(failed)?;
    wait::lock(&PullContext::new(), &*lock, Lock::Exclusive, INDEX_LOCK)?;
    // Another process may have repaired it meanwhile.
    if is_broken(disk, LAYOUT, MAX_LAYOUT, is_marker) {
        log::warn!("{LAYOUT} was lost, as by a power cut: it is written anew");
        layout::write_marker(disk, Flush::Wait).map_err(failed)?;
    }
    if is_broken(disk, INDEX, MAX_INDEX, is_index) {
        log::warn!(
            "{INDEX} was lost, as by a power cut: images have to be pulled again, and find their blobs"
        );
        durable::create_dirs(disk, DAMAGED, Flush::Wait)
            .and_then(|()| disk.rename(INDEX, &format!("{DAMAGED}/{INDEX}")))
            .and_then(|()| layout::write_empty_index(disk, Flush::Wait))
            .map_err(failed)?;
    }
    Ok(())
}

/// Whether a file is there, at rest, and not as it should be.
fn is_broken(disk: &dyn Disk, path: &str, limit: u64, is_whole: impl Fn(&[u8]) -> bool) -> bool {
    let read = || -> io::Result<bool> {
        let file = disk.open(path, Access::Read)?;
        Ok(is_at_rest(&*file)? && !is_whole(&limited(&*file, limit)?))
    };
    read().unwrap_or(false)
}

/// A time of change that lies ahead was noted before the clock was set right.
fn is_at_rest(file: &dyn DiskFile) -> io::Result<bool> {
    Ok(file.metadata()?.modified.elapsed().map_or(true, |age| age >= AT_REST))
}
