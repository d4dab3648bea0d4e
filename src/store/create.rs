//! Makes a layout in a folder, and makes an existing one ready to use.

use std::error::Error as _;
use std::io;
use std::path::Path;

use crate::durable::{self, Disk, Flush, OpenMode, read_limited};
use crate::error::{Error, ErrorKind};
use crate::store::error::{is_read_only, refused};
use crate::store::layout::{
    self, BLOBS, COLLECT_LOCK, DAMAGED, EMPTY_INDEX, INDEX, INDEX_LOCK, LAYOUT, LEASES, MAX_LAYOUT, OWN,
    PARTIALS,
};
use crate::store::{index_write, repair};

/// Opens the layout in the disk's folder, or makes one if the folder is empty.
pub(super) fn open_or_create(disk: &dyn Disk, dir: &Path, flush: Flush) -> Result<(), Error> {
    let failed = |error: io::Error| refused(&error, format!("open the store {}", dir.display()));
    match state_of(disk).map_err(failed)? {
        FolderState::Layout => match layout::check(disk, dir) {
            Err(_) if flush == Flush::Skip => {
                if let Err(error) = repair::after_power_cut(disk) {
                    log::warn!("{}: {error}", dir.display());
                }
                layout::check(disk, dir)?;
            }
            checked => checked?,
        },
        FolderState::Empty => create(disk, &first_index(disk)?, flush).map_err(failed)?,
        FolderState::Foreign(name) => {
            let text = format!(
                "{} is no image layout: it has no {LAYOUT}, and is not empty ({name:?} is there)",
                dir.display()
            );
            return Err(Error::new(ErrorKind::InvalidConfig, text));
        }
    }
    match make_ready(disk, flush) {
        // A read-only store can still be read.
        Err(error) if is_read_only(&error) => Ok(()),
        outcome => outcome.map_err(failed),
    }
}

/// What a folder holds.
enum FolderState {
    Layout,
    /// Nothing, or the remains of a creation that was interrupted.
    Empty,
    /// A file that is not of a store; its name.
    Foreign(String),
}

fn state_of(disk: &dyn Disk) -> io::Result<FolderState> {
    let names = disk.read_dir("")?;
    let has = |name: &str| names.iter().any(|found| found == name);
    if has(LAYOUT) {
        return Ok(FolderState::Layout);
    }
    let is_begun = has(OWN);
    let is_ours = |name: &str| match name {
        // Every fresh ext4 file system has lost+found.
        "lost+found" | OWN => true,
        INDEX | BLOBS => is_begun,
        _ => false,
    };
    Ok(match names.iter().find(|name| !is_ours(name)) {
        Some(name) => FolderState::Foreign(name.clone()),
        None => FolderState::Empty,
    })
}

/// Makes the layout's parts, `oci-layout` last: from then on the folder is an image layout, and before
/// that `.oci-puller` marks it as one that this crate has begun.
fn create(disk: &dyn Disk, index: &[u8], flush: Flush) -> io::Result<()> {
    durable::create_dirs(disk, OWN, flush)?;
    let _ = disk.restrict(OWN)?;
    index_write::replace(disk, index, flush)?;
    layout::write_marker(disk, flush)
}

/// Returns the index to begin with. It lists images if power loss took only `oci-layout`.
fn first_index(disk: &dyn Disk) -> Result<Vec<u8>, Error> {
    match layout::read_index(disk) {
        Ok((index, _)) => Ok(index.print()),
        Err(error) if error.source().is_none() => Ok(EMPTY_INDEX.into()),
        Err(error) => Err(error),
    }
}

/// Makes the folders of this crate, and flushes the layout: another tool, or a process that was
/// killed, may not have flushed it.
fn make_ready(disk: &dyn Disk, flush: Flush) -> io::Result<()> {
    for folder in [PARTIALS, LEASES, DAMAGED, "blobs/sha256"] {
        durable::create_dirs(disk, folder, Flush::Skip)?;
    }
    make_private(disk)?;
    if flush == Flush::Wait {
        flush_layout(disk)?;
        disk.sync_dir(BLOBS)?;
        disk.sync_dir("")?;
    }
    Ok(())
}

/// Takes the rights of other users to this crate's own files: a lock can be taken by any user that can
/// read its file. Version 0.1.0 left the files readable.
fn make_private(disk: &dyn Disk) -> io::Result<()> {
    let was_open = disk.restrict(OWN)?;
    for folder in [PARTIALS, LEASES, DAMAGED] {
        disk.restrict(folder)?;
        let names = if was_open { disk.read_dir(folder)? } else { Vec::new() };
        for name in names {
            disk.restrict(&format!("{folder}/{name}"))?;
        }
    }
    for lock in [INDEX_LOCK, COLLECT_LOCK] {
        layout::open_lock(disk, lock)?;
        disk.restrict(lock)?;
    }
    Ok(())
}

/// Flushes `oci-layout`, and writes it anew if that fails: a file whose flush failed once is not
/// flushed again.
fn flush_layout(disk: &dyn Disk) -> io::Result<()> {
    let file = disk.open(LAYOUT, OpenMode::Read)?;
    let text = read_limited(&*file, MAX_LAYOUT)?;
    match file.sync() {
        Ok(()) => Ok(()),
        Err(_) => layout::replace_marker(disk, &text, Flush::Wait),
    }
}
