//! Writes `index.json`, on a full disk as well.
//!
//! A write makes the next index beside the current one, flushes it, renames it over the current one, and
//! flushes the folder. This needs room for a second file, which a full disk does not have; then nothing
//! could be removed from it either. So each store keeps a reserve: a file of zeros, written and not
//! sparse, at least 64 KiB larger than the index. When the disk has no room for an index that removes an
//! image, the reserve *becomes* the next index: it is renamed to the temporary name, overwritten,
//! truncated and flushed, which allocates neither blocks nor an inode. The removal then frees blobs, and
//! the reserve is made anew. An index that grows never takes the reserve: it would leave none for the
//! removal that makes room.
//!
//! All of it happens under `index.lock`. A crash leaves the reserve, or a temporary file that the next
//! write removes, and never a part of an index under its name.

use std::io;

use crate::durable::{self, Disk, FileType, Flush, Lock, Metadata, OpenMode};
use crate::image::size::Size;
use crate::store::error::is_full;
use crate::store::layout::{self, DAMAGED, INDEX, INDEX_LOCK, INDEX_TEMP, OWN, PARTIALS, RESERVE};
use crate::store::{leftovers, retry_io};

/// The reserve is at least this much larger than the index, and grows in steps of it, bytes.
const MARGIN: u64 = 64 << 10;

/// Writes the next `index.json` beside the current one, and returns the file's metadata. The caller holds
/// `index.lock`, and then calls [`put_next`].
///
/// # Errors
/// `StorageFull` names the bytes that are needed.
pub(super) fn write_next(disk: &dyn Disk, bytes: &[u8], flush: Flush) -> io::Result<Metadata> {
    if let Err(error) = ensure_reserve(disk, bytes.len() as u64, flush) {
        log::debug!("the store has no reserve for a full disk: {error}");
    }
    match durable::write_new(disk, INDEX_TEMP, bytes, flush) {
        Err(error) if is_full(&error) => write_on_full_disk(disk, bytes, flush),
        outcome => outcome,
    }
}

/// Renames the next `index.json` over the current one. The caller flushes the folder.
pub(super) fn put_next(disk: &dyn Disk) -> io::Result<()> {
    durable::put_in_place(disk, INDEX_TEMP, INDEX)
}

/// Replaces `index.json`, and flushes the folder.
pub(super) fn replace(disk: &dyn Disk, bytes: &[u8], flush: Flush) -> io::Result<()> {
    write_next(disk, bytes, flush)?;
    put_next(disk)?;
    match flush {
        Flush::Wait => disk.sync_dir(""),
        Flush::Skip => Ok(()),
    }
}

/// Makes or enlarges the reserve, unless another process is writing the index and will see to it.
pub(super) fn renew_reserve(disk: &dyn Disk, flush: Flush) -> io::Result<()> {
    let index = layout::regular_file(disk, INDEX)?.map_or(0, |index| index.len);
    if has_reserve(disk, index)? {
        return Ok(());
    }
    let lock = layout::open_lock(disk, INDEX_LOCK)?;
    match retry_io::try_lock(&*lock, Lock::Exclusive)? {
        true => ensure_reserve(disk, index, flush),
        false => Ok(()),
    }
}

/// Frees what is of least use, until there is room.
fn write_on_full_disk(disk: &dyn Disk, bytes: &[u8], flush: Flush) -> io::Result<Metadata> {
    for damaged in leftovers::list(disk, &[DAMAGED])? {
        damaged.discard(disk);
    }
    match durable::write_new(disk, INDEX_TEMP, bytes, flush) {
        Err(error) if is_full(&error) => {}
        outcome => return outcome,
    }
    let current = layout::regular_file(disk, INDEX)?.map_or(0, |index| index.len);
    if (bytes.len() as u64) < current {
        match write_on_reserve(disk, bytes, flush) {
            Ok(metadata) => return Ok(metadata),
            Err(why) => log::warn!("the reserve for a full disk cannot be used: {why}"),
        }
    }
    for partial in leftovers::list(disk, &[PARTIALS])? {
        partial.discard(disk);
        match durable::write_new(disk, INDEX_TEMP, bytes, flush) {
            Err(error) if is_full(&error) => {}
            outcome => return outcome,
        }
    }
    let text = format!(
        "{} and a file are needed for the next {INDEX}, and the disk is full",
        Size(bytes.len() as u64)
    );
    Err(io::Error::new(io::ErrorKind::StorageFull, text))
}

/// Makes the reserve the next index.
fn write_on_reserve(disk: &dyn Disk, bytes: &[u8], flush: Flush) -> io::Result<Metadata> {
    if !has_reserve(disk, bytes.len() as u64)? {
        return Err(io::Error::new(io::ErrorKind::NotFound, format!("there is no {RESERVE} of its size")));
    }
    disk.rename(RESERVE, INDEX_TEMP)?;
    let write = || {
        let file = disk.open(INDEX_TEMP, OpenMode::Update)?;
        file.write_at(bytes, 0)?;
        file.set_len(bytes.len() as u64)?;
        file.set_public()?;
        if flush == Flush::Wait {
            file.sync()?;
        }
        file.metadata()
    };
    write().inspect_err(|_| drop(disk.unlink(INDEX_TEMP)))
}

/// Returns whether the reserve is large enough for an index of `index` bytes, now and as it grows.
fn has_reserve(disk: &dyn Disk, index: u64) -> io::Result<bool> {
    Ok(match disk.metadata(RESERVE) {
        Ok(reserve) => is_usable(&reserve) && reserve.len >= index.saturating_add(MARGIN),
        Err(error) if error.kind() == io::ErrorKind::NotFound => false,
        Err(error) => return Err(error),
    })
}

/// Returns whether the reserve may be written on, and has its blocks.
fn is_usable(reserve: &Metadata) -> bool {
    reserve.kind == FileType::File && reserve.is_ours && reserve.allocated >= reserve.len
}

/// Makes or enlarges the reserve. The caller holds `index.lock`.
fn ensure_reserve(disk: &dyn Disk, index: u64, flush: Flush) -> io::Result<()> {
    if has_reserve(disk, index)? {
        return Ok(());
    }
    // In steps, so that it does not grow with each image.
    let len = index.saturating_add(2 * MARGIN).next_multiple_of(MARGIN);
    let make = || {
        durable::remove(disk, INDEX_TEMP)?;
        let file = disk.open(INDEX_TEMP, OpenMode::Create)?;
        let zeros = vec![0; MARGIN as usize];
        for offset in (0..len).step_by(MARGIN as usize) {
            file.write_at(&zeros, offset)?;
        }
        if flush == Flush::Wait {
            file.sync()?;
        }
        disk.rename(INDEX_TEMP, RESERVE)?;
        match flush {
            Flush::Wait => disk.sync_dir(OWN),
            Flush::Skip => Ok(()),
        }
    };
    make().inspect_err(|_| drop(disk.unlink(INDEX_TEMP)))
}
