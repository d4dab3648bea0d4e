//! What of a partial is believed when a pull continues with it.

use super::block_map::{Block, BlockMap, Noted};
use super::hash::READ;
use super::partial::Partial;
use crate::context::PullContext;
use crate::durable::DiskFile;
use crate::error::Error;
use crate::image::digest::Hasher;
use crate::store::error::refused;

/// Reads all bytes that the partial of a blob of `size` bytes says it has. Returns up to where they have no
/// gap, which `hasher` has hashed, and the map of the blocks whose checksums are right.
///
/// # Errors
/// `Store`, `Cancelled`, `Timeout`.
pub(super) fn verify(
    cx: &PullContext,
    partial: &Partial,
    size: u64,
    hasher: &mut Hasher,
) -> Result<(u64, BlockMap), Error> {
    let failed = |error| refused(&error, "read a partial download");
    let Partial { file, found, allocated, .. } = partial;
    let (mut map, is_checked) = match BlockMap::read(&**file, size, *found, *allocated).map_err(failed)? {
        Noted::Checked(map) => (map, true),
        Noted::Unchecked(map) => (map, false),
    };
    let mut offset = 0;
    let mut dropped = 0_u64;
    for index in 0..map.count() {
        let (noted, start) = (map.get(index), map.span(index).start);
        if noted.len == 0 {
            continue;
        }
        // Bytes behind a gap are hashed when it is closed.
        let mut hashed = (offset == start).then(|| hasher.clone());
        let read = read_block(cx, &**file, start, noted.len, hashed.as_mut())?;
        if is_checked && read != noted {
            dropped += noted.len;
            map.set(index, Block::default());
            continue;
        }
        map.set(index, read);
        if let Some(hashed) = hashed {
            *hasher = hashed;
            offset = start + read.len;
        }
    }
    if dropped > 0 {
        log::warn!(
            "{dropped} bytes of {} do not match their checksums: they are fetched again",
            partial.path
        );
    }
    Ok((offset, map))
}

/// Sets the checksums of a map's blocks to those of the bytes in the file.
///
/// # Errors
/// `Store`, `Cancelled`, `Timeout`.
pub(super) fn add_checksums(cx: &PullContext, file: &dyn DiskFile, map: &mut BlockMap) -> Result<(), Error> {
    for index in 0..map.count() {
        let Block { len, .. } = map.get(index);
        if len > 0 {
            let block = read_block(cx, file, map.span(index).start, len, None)?;
            map.set(index, block);
        }
    }
    Ok(())
}

/// Reads up to `len` bytes of a block, fewer at the file's end, and hashes them on.
fn read_block(
    cx: &PullContext,
    file: &dyn DiskFile,
    start: u64,
    len: u64,
    mut hasher: Option<&mut Hasher>,
) -> Result<Block, Error> {
    let mut buffer = vec![0; usize::try_from(len).unwrap_or(READ).min(READ)];
    let mut crc = crc32fast::Hasher::new();
    let mut there = 0;
    while there < len {
        cx.check()?;
        let wanted = usize::try_from(len - there).unwrap_or(READ).min(READ);
        let space = buffer.get_mut(..wanted).unwrap_or_default();
        let read = file.read_at(space, start + there);
        let read = read.map_err(|error| refused(&error, "read a partial download"))?;
        let Some(bytes) = space.get(..read).filter(|bytes| !bytes.is_empty()) else { break };
        crc.update(bytes);
        if let Some(hasher) = &mut hasher {
            hasher.update(bytes);
        }
        there += read as u64;
    }
    Ok(Block { len: there, crc: crc.finalize() })
}
