//! Which chunks of a partial are there.

use crate::durable::DiskFile;

/// Begins the bitmap behind the blob's last byte; the size of a chunk follows, then a byte for each chunk.
const MAGIC: &[u8; 8] = b"pieces\0\x01";
pub(super) const HEADER: u64 = 16;

/// No blob has more chunks: those of a larger one are larger.
const MAX_CHUNKS: u64 = 16 * 1024;

/// Which chunks of a partial are there.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct ChunkBitmap {
    pub(super) chunk_size: u64,
    pub(super) there: Vec<bool>,
}

impl ChunkBitmap {
    pub(super) fn of_nothing(size: u64, chunk_size: u64) -> Self {
        let chunk_size = chunk_size.max(size.div_ceil(MAX_CHUNKS)).max(1);
        let chunks = usize::try_from(size.div_ceil(chunk_size)).unwrap_or(0);
        ChunkBitmap { chunk_size, there: vec![false; chunks] }
    }

    /// Reads what is noted behind the blob's `size` bytes in a file of `len`; `None` if it is no bitmap.
    pub(super) fn read(file: &dyn DiskFile, size: u64, len: u64) -> Option<Self> {
        let noted = len.checked_sub(size).filter(|noted| (HEADER..=HEADER + MAX_CHUNKS).contains(noted))?;
        let mut bytes = vec![0; usize::try_from(noted).ok()?];
        let read = file.read_at(&mut bytes, size).ok()?;
        let (magic, rest) = bytes.get(..read)?.split_first_chunk::<8>()?;
        let (chunk_size, there) = rest.split_first_chunk::<8>()?;
        let chunk_size = u64::from_le_bytes(*chunk_size);
        let is_sound = magic == MAGIC && chunk_size > 0 && there.len() as u64 == size.div_ceil(chunk_size);
        is_sound.then(|| ChunkBitmap { chunk_size, there: there.iter().map(|there| *there == 1).collect() })
    }

    pub(super) fn write(&self, file: &dyn DiskFile, size: u64) -> std::io::Result<()> {
        let mut bytes = MAGIC.to_vec();
        bytes.extend_from_slice(&self.chunk_size.to_le_bytes());
        bytes.extend(self.there.iter().map(|there| u8::from(*there)));
        file.write_at(&bytes, size)
    }

    /// How many bytes from the first one on are there without a gap.
    pub(super) fn whole_up_to(&self, size: u64) -> u64 {
        let whole = self.there.iter().take_while(|there| **there).count() as u64;
        whole.saturating_mul(self.chunk_size).min(size)
    }

    /// How many bytes are there behind the first gap.
    pub(super) fn ahead(&self, size: u64) -> u64 {
        let behind_gap = self.there.iter().enumerate().skip_while(|(_, there)| **there);
        behind_gap.filter(|(_, there)| **there).map(|(index, _)| self.span(index, size).1).sum()
    }

    /// Where a chunk begins, and how long it is.
    pub(super) fn span(&self, index: usize, size: u64) -> (u64, u64) {
        let start = (index as u64).saturating_mul(self.chunk_size).min(size);
        (start, self.chunk_size.min(size - start))
    }
}
