//! The note of a partial: which of the blob's bytes the file has, and their checksums.
//!
//! A partial is the file `.oci-puller/partial/ALGORITHM-HEX`. Each byte of the blob stands at its own
//! offset. Behind the blob's last byte, at the offset `size`, stands the note (all numbers little-endian):
//!
//! ```text
//! offset       bytes
//! size         8       "blocks\0\x02"
//! size + 8     8       block size B: 256 KiB, or less for small chunks, or more for a blob of over 16 GiB
//! size + 16    12 * n  one entry for each of the n = ceil(size / B) blocks:
//!                        8  how many bytes of the block are there, counted from its start
//!                        4  CRC-32 (IEEE) of these bytes
//! ```
//!
//! **Protocol.** Bytes are written first, and the entry that covers them afterwards, so an entry never
//! promises bytes that were not written. Entries are written after each 256 KiB of the blob, and when a
//! writer gives its chunk back or drops the ingest; nothing is flushed for that. With full durability the
//! whole file, bytes and entries, is flushed in the background after each 64 MiB or 30 s. The order in which
//! bytes and entries reach the disk does not matter: an entry counts only if the bytes match its checksum.
//! The commit cuts the note off before the blob gets its name.
//!
//! **What a crash can leave.**
//! - SIGKILL: all bytes up to the last entries. At most the last 256 KiB of the blob are fetched again.
//! - Power loss: entries without bytes, bytes without entries, a note that is torn, short or absent. A
//!   block whose bytes do not match its entry is fetched again, alone; without entries nothing is there. A
//!   file without holes that ends before its note is taken for a prefix (see below), and the digest decides
//!   when the blob is complete.
//!
//! **Other formats that are read.**
//! - No note: the file is a prefix of the blob. Blobs of up to 256 KiB are kept so, and larger ones until
//!   their first note. Version 0.1 kept all blobs so that it did not fetch in chunks.
//! - Version 0.1: `"pieces\0\x01"`, the piece size (8 bytes), and one byte for each piece, 1 if it is there.
//!
//! Neither has checksums, so these bytes are taken as they are, and the digest decides at the end. Version
//! 0.1 does not know this note: it starts such a partial anew.

use std::io;
use std::ops::Range;

use crate::durable::DiskFile;

/// The size of a block, bytes.
pub(super) const BLOCK: u64 = 256 << 10;

/// The most blocks of a blob: the blocks of a larger blob are larger.
const MAX_BLOCKS: u64 = 64 << 10;

const MAGIC: &[u8; 8] = b"blocks\0\x02";
const MAGIC_0_1: &[u8; 8] = b"pieces\0\x01";
const HEADER: u64 = 16;
const ENTRY: u64 = 12;

/// How much of each block of a blob is there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct BlockMap {
    size: u64,
    block_size: u64,
    blocks: Vec<Block>,
}

/// How much of a block is there, from its start, and the checksum of that.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Block {
    pub(super) len: u64,
    pub(super) crc: u32,
}

/// What a partial says it has.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Noted {
    /// Bytes with checksums.
    Checked(BlockMap),
    /// Bytes without checksums.
    Unchecked(BlockMap),
}

impl BlockMap {
    /// Returns the map of a blob of which nothing is there.
    pub(super) fn empty(size: u64, block_size: u64) -> Self {
        let block_size = block_size.max(size.div_ceil(MAX_BLOCKS)).max(1);
        let blocks = usize::try_from(size.div_ceil(block_size)).unwrap_or(0);
        BlockMap { size, block_size, blocks: vec![Block::default(); blocks] }
    }

    /// Returns the map of a blob whose first `len` bytes are there, without checksums.
    pub(super) fn prefix_of(size: u64, block_size: u64, len: u64) -> Self {
        let mut map = BlockMap::empty(size, block_size);
        map.fill(|at, end| len.clamp(at, end));
        map
    }

    /// Sets each block's length to where `there` ends, which gets its first offset and its end.
    fn fill(&mut self, there: impl Fn(u64, u64) -> u64) {
        for index in 0..self.blocks.len() {
            let Range { start, end } = self.span(index);
            if let Some(block) = self.blocks.get_mut(index) {
                block.len = there(start, end) - start;
            }
        }
    }

    /// Reads what the partial of a blob of `size` bytes has; the file has `len` bytes and takes
    /// `allocated` on the disk.
    pub(super) fn read(file: &dyn DiskFile, size: u64, len: u64, allocated: u64) -> io::Result<Noted> {
        if len > size {
            return BlockMap::read_note(file, size, len);
        }
        // A file with holes is no prefix: power loss took its note.
        let prefix = if allocated >= len { len } else { 0 };
        Ok(Noted::Unchecked(BlockMap::prefix_of(size, BLOCK, prefix)))
    }

    fn read_note(file: &dyn DiskFile, size: u64, len: u64) -> io::Result<Noted> {
        let longest = HEADER + ENTRY * MAX_BLOCKS;
        let note = read_up_to(file, size, (len - size).min(longest))?;
        let nothing = || Noted::Unchecked(BlockMap::empty(size, BLOCK));
        let Some((magic, rest)) = note.split_first_chunk::<8>() else { return Ok(nothing()) };
        let Some((unit, entries)) = rest.split_first_chunk::<8>() else { return Ok(nothing()) };
        let unit = u64::from_le_bytes(*unit);
        if unit == 0 || size.div_ceil(unit) > MAX_BLOCKS {
            return Ok(nothing());
        }
        Ok(match magic {
            MAGIC => Noted::Checked(BlockMap::decode(size, unit, entries)),
            MAGIC_0_1 => Noted::Unchecked(BlockMap::decode_0_1(size, unit, entries)),
            _ => nothing(),
        })
    }

    /// Decodes the entries. One that is absent or impossible has nothing.
    fn decode(size: u64, block_size: u64, entries: &[u8]) -> Self {
        let mut map = BlockMap::empty(size, block_size);
        for (index, entry) in entries.as_chunks::<{ ENTRY as usize }>().0.iter().enumerate() {
            let Range { start, end } = map.span(index);
            let [l0, l1, l2, l3, l4, l5, l6, l7, crc @ ..] = *entry;
            let len = u64::from_le_bytes([l0, l1, l2, l3, l4, l5, l6, l7]);
            if let Some(block) = map.blocks.get_mut(index).filter(|_| len <= end - start) {
                *block = Block { len, crc: u32::from_le_bytes(crc) };
            }
        }
        map
    }

    fn decode_0_1(size: u64, piece_size: u64, there: &[u8]) -> Self {
        let has = |at: u64| {
            let piece = usize::try_from(at / piece_size).unwrap_or(usize::MAX);
            there.get(piece) == Some(&1)
        };
        let mut map = BlockMap::empty(size, BLOCK);
        map.fill(|mut at, end| {
            while at < end && has(at) {
                at = (at / piece_size + 1).saturating_mul(piece_size).min(end);
            }
            at
        });
        map
    }

    /// Returns the entries of `blocks`, with `header` the note's head before them, and their offset in
    /// the file.
    pub(super) fn encode(&self, blocks: Range<usize>, header: bool) -> (u64, Vec<u8>) {
        let mut bytes = Vec::new();
        let mut place = self.size.saturating_add(HEADER + ENTRY * blocks.start as u64);
        if header {
            bytes.extend_from_slice(MAGIC);
            bytes.extend_from_slice(&self.block_size.to_le_bytes());
            place = self.size;
        }
        for block in self.blocks.get(blocks).unwrap_or_default() {
            bytes.extend_from_slice(&block.len.to_le_bytes());
            bytes.extend_from_slice(&block.crc.to_le_bytes());
        }
        (place, bytes)
    }

    pub(super) fn size(&self) -> u64 {
        self.size
    }

    pub(super) fn block_size(&self) -> u64 {
        self.block_size
    }

    /// Returns how many blocks there are.
    pub(super) fn count(&self) -> usize {
        self.blocks.len()
    }

    pub(super) fn get(&self, index: usize) -> Block {
        self.blocks.get(index).copied().unwrap_or_default()
    }

    pub(super) fn set(&mut self, index: usize, block: Block) {
        if let Some(place) = self.blocks.get_mut(index) {
            *place = block;
        }
    }

    /// Returns the offsets of a block.
    pub(super) fn span(&self, index: usize) -> Range<u64> {
        let start = (index as u64).saturating_mul(self.block_size).min(self.size);
        start..start.saturating_add(self.block_size).min(self.size)
    }

    /// Returns the block that holds the byte at `offset`.
    pub(super) fn index_of(&self, offset: u64) -> usize {
        usize::try_from(offset / self.block_size).unwrap_or(usize::MAX)
    }

    /// Returns whether all of a block is there.
    pub(super) fn is_complete(&self, index: usize) -> bool {
        let Range { start, end } = self.span(index);
        self.get(index).len == end - start
    }

    /// Returns up to which offset no byte is missing, counted from `offset`, up to which none is.
    pub(super) fn gapless_from(&self, offset: u64) -> u64 {
        let mut index = self.index_of(offset);
        while index < self.count() && self.is_complete(index) {
            index += 1;
        }
        (self.span(index).start + self.get(index).len).max(offset)
    }

    /// Returns how many bytes are there.
    pub(super) fn there(&self) -> u64 {
        self.blocks.iter().map(|block| block.len).sum()
    }
}

/// Reads up to `len` bytes at `offset`, fewer at the file's end.
fn read_up_to(file: &dyn DiskFile, offset: u64, len: u64) -> io::Result<Vec<u8>> {
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(0)];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, offset + filled as u64)? {
            0 => break,
            read => filled += read,
        }
    }
    bytes.truncate(filled);
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::durable::sim::SimDisk;
    use crate::durable::{Disk, OpenMode};

    /// Reads a note from a file with these bytes behind a blob of `size` zeros.
    fn read(size: u64, note: &[u8]) -> Noted {
        let file = SimDisk::new().open("partial", OpenMode::Create).unwrap();
        let bytes = [vec![0; usize::try_from(size).unwrap()], note.to_vec()].concat();
        file.write_at(&bytes, 0).unwrap();
        BlockMap::read(&*file, size, bytes.len() as u64, bytes.len() as u64).unwrap()
    }

    fn lengths(noted: &Noted) -> Vec<u64> {
        let (Noted::Checked(map) | Noted::Unchecked(map)) = noted;
        map.blocks.iter().map(|block| block.len).collect()
    }

    #[test]
    fn a_note_reads_back_as_it_was_written() {
        let mut map = BlockMap::empty(1000, 300);
        map.set(0, Block { len: 300, crc: 7 });
        map.set(2, Block { len: 5, crc: 9 });
        let file = SimDisk::new().open("partial", OpenMode::Create).unwrap();
        let (place, note) = map.encode(0..map.count(), true);
        file.write_at(&note, place).unwrap();
        map.set(3, Block { len: 100, crc: 1 });
        let (place, entry) = map.encode(3..4, false);
        file.write_at(&entry, place).unwrap();
        let len = file.metadata().unwrap().len;
        assert_eq!(len, 1000 + HEADER + 4 * ENTRY);
        assert_eq!(BlockMap::read(&*file, 1000, len, len).unwrap(), Noted::Checked(map));
    }

    #[test]
    fn a_file_without_a_note_is_a_prefix_unless_it_has_holes() {
        let file = SimDisk::new().open("partial", OpenMode::Create).unwrap();
        for (len, allocated, expected) in [
            (0, 0, [0, 0]),
            (100, 4096, [100, 0]),
            (BLOCK + 9, 2 * BLOCK, [BLOCK, 9]),
            (BLOCK + 9, 4096, [0, 0]),
        ] {
            let noted = BlockMap::read(&*file, BLOCK + 100, len, allocated).unwrap();
            assert!(matches!(noted, Noted::Unchecked(_)));
            assert_eq!(lengths(&noted), expected, "{len} bytes, {allocated} allocated");
        }
    }

    #[test]
    fn the_pieces_of_version_0_1_become_blocks() {
        let note =
            |piece_size: u64, there: &[u8]| [&MAGIC_0_1[..], &piece_size.to_le_bytes(), there].concat();
        let size = 4 * BLOCK - 10;
        for (piece_size, there, expected) in [
            (2 * BLOCK, &[0, 1][..], [0, 0, BLOCK, BLOCK - 10]),
            (2 * BLOCK, &[1, 0], [BLOCK, BLOCK, 0, 0]),
            (BLOCK / 2, &[1, 1, 1, 0, 0, 1, 1, 1], [BLOCK, BLOCK / 2, 0, BLOCK - 10]),
            // A note that is cut short.
            (2 * BLOCK, &[1], [BLOCK, BLOCK, 0, 0]),
        ] {
            assert_eq!(lengths(&read(size, &note(piece_size, there))), expected, "{piece_size}, {there:?}");
        }
    }

    #[test]
    fn a_damaged_note_promises_nothing_that_cannot_be() {
        let head = |block_size: u64| [&MAGIC[..], &block_size.to_le_bytes()].concat();
        let entry = |len: u64| [&len.to_le_bytes()[..], &[0; 4]].concat();
        let cases: [(&str, Vec<u8>, &[u64]); 7] = [
            ("zeros", vec![0; 40], &[0]),
            ("a short head", MAGIC[..5].to_vec(), &[0]),
            ("blocks of nothing", head(0), &[0]),
            ("more blocks than any blob has", [head(1), entry(1)].concat(), &[0]),
            ("one entry of four", [head(30_000), entry(30_000)].concat(), &[30_000, 0, 0, 0]),
            (
                "a torn entry",
                [head(30_000), entry(30_000), entry(5)[..7].to_vec()].concat(),
                &[30_000, 0, 0, 0],
            ),
            ("longer than a block", [head(30_000), entry(30_001), entry(3)].concat(), &[0, 3, 0, 0]),
        ];
        for (what, note, expected) in cases {
            assert_eq!(lengths(&read(100_000, &note)), expected, "{what}");
        }
    }
}
