//! Sparse files: the parts of a file that an archive holds. The holes between them are zeros.
//!
//! GNU tar writes them in four ways: in the header (type `S`), and as pax records in
//! [three versions](https://www.gnu.org/software/tar/manual/html_section/Sparse-Formats.html).

use std::io;

use super::block::{BLOCK, decimal, invalid};
use super::header::{Header, number};

/// A part of a sparse file that holds data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Segment {
    pub(crate) offset: u64,
    pub(crate) len: u64,
}

/// The records of a sparse file.
#[derive(Clone, Debug, Default)]
pub(super) struct SparseRecords {
    pub(super) name: Option<Vec<u8>>,
    major: Option<u64>,
    minor: Option<u64>,
    /// `size` of versions 0.x.
    size: Option<u64>,
    /// `realsize` of version 1.0.
    real_size: Option<u64>,
    map: Option<Vec<Segment>>,
    /// An offset whose length has not come yet.
    offset: Option<u64>,
}

impl SparseRecords {
    pub(super) fn take(&mut self, name: &[u8], value: &[u8]) -> io::Result<()> {
        match name {
            b"major" => self.major = Some(decimal(value)?),
            b"minor" => self.minor = Some(decimal(value)?),
            b"name" => self.name = Some(value.to_vec()),
            b"size" => self.size = Some(decimal(value)?),
            b"realsize" => self.real_size = Some(decimal(value)?),
            // Version 0.0: pairs of records.
            b"offset" if self.offset.is_some() => return Err(broken()),
            b"offset" => self.offset = Some(decimal(value)?),
            b"numbytes" => {
                let offset = self.offset.take().ok_or_else(broken)?;
                self.map.get_or_insert_default().push(Segment { offset, len: decimal(value)? });
            }
            // Version 0.1: all numbers in one record.
            b"map" if value.is_empty() => self.map = Some(Vec::new()),
            b"map" => self.map = Some(pairs(value.split(|byte| *byte == b','))?),
            _ => {}
        }
        Ok(())
    }

    /// What the records describe; `None` if the file is not sparse.
    pub(super) fn layout(self) -> io::Result<Option<Layout>> {
        if self.offset.is_some() {
            return Err(broken());
        }
        match (self.major.unwrap_or(0), self.minor.unwrap_or(0)) {
            (0, _) => match (self.map, self.size.or(self.real_size)) {
                (None, None) => Ok(None),
                (map, Some(size)) => Ok(Some(Layout::Known { size, segments: map.unwrap_or_default() })),
                (Some(_), None) => Err(broken()),
            },
            (1, 0) => {
                let size = self.real_size.or(self.size).ok_or_else(broken)?;
                Ok(Some(Layout::InContent { size }))
            }
            (major, minor) => Err(invalid(format!("a sparse file is of version {major}.{minor}"))),
        }
    }
}

/// Where the map of a sparse file is.
pub(super) enum Layout {
    /// The file's size, and its map.
    Known { size: u64, segments: Vec<Segment> },
    /// The map precedes the content, in version 1.0.
    InContent { size: u64 },
}

/// The segments that a header of type `S`, or a block that continues one, has room for; and whether
/// another block follows.
pub(super) fn header_segments(block: &[u8; BLOCK], is_first: bool) -> io::Result<(Vec<Segment>, bool)> {
    let (start, count, flag) = if is_first { (386, 4, 482) } else { (0, 21, 504) };
    let mut segments = Vec::new();
    for at in 0..count {
        let entry = block.get(start + at * 24..).and_then(|entry| entry.get(..24)).unwrap_or_default();
        let (offset, len) = entry.split_at(entry.len() / 2);
        if offset.first().is_none_or(|byte| *byte == 0) {
            break;
        }
        let unsigned = |field| u64::try_from(number(field)?).map_err(|_| broken());
        segments.push(Segment { offset: unsigned(offset)?, len: unsigned(len)? });
    }
    Ok((segments, block.get(flag).is_some_and(|more| *more != 0)))
}

/// The file's size in a header of type `S`.
pub(super) fn header_size(header: &Header) -> io::Result<u64> {
    header.unsigned(483..495, "size")
}

/// How many lines the map of version 1.0 has, by the first: a count of segments.
pub(super) fn lines_of_map(text: &[u8]) -> io::Result<u64> {
    let first = text.split(|byte| *byte == b'\n').next().unwrap_or_default();
    decimal(first)?.checked_mul(2).and_then(|numbers| numbers.checked_add(1)).ok_or_else(broken)
}

/// The map of version 1.0: after the count an offset and a length for each segment, each on a line.
pub(super) fn parse_map(text: &[u8]) -> io::Result<Vec<Segment>> {
    let count = usize::try_from(lines_of_map(text)? - 1).map_err(|_| broken())?;
    pairs(text.split(|byte| *byte == b'\n').skip(1).take(count))
}

/// Checks that the segments are in order, do not overlap, lie in the file, and are all that is stored.
pub(super) fn check(segments: &[Segment], size: u64, stored: u64) -> io::Result<()> {
    let mut end = 0_u64;
    let mut sum = 0_u64;
    for segment in segments {
        if segment.offset < end {
            return Err(broken());
        }
        end = segment.offset.checked_add(segment.len).ok_or_else(broken)?;
        sum = sum.checked_add(segment.len).ok_or_else(broken)?;
    }
    if end > size || sum != stored { Err(broken()) } else { Ok(()) }
}

fn pairs<'a>(mut numbers: impl Iterator<Item = &'a [u8]>) -> io::Result<Vec<Segment>> {
    let mut segments = Vec::new();
    while let Some(offset) = numbers.next() {
        let len = numbers.next().ok_or_else(broken)?;
        segments.push(Segment { offset: decimal(offset)?, len: decimal(len)? });
    }
    Ok(segments)
}

pub(super) fn broken() -> io::Error {
    invalid("the map of a sparse file is broken")
}
