//! Decompression of gzip and Zstandard, chosen by a stream's first bytes.

mod errors;
mod gzip;
mod zstd;

use std::io::{self, BufRead, Cursor, Read};

/// The largest window of a zstd frame that is decoded by default, bytes: what all levels up to 19 need.
pub(crate) const DEFAULT_ZSTD_WINDOW: u64 = 8 << 20;
/// The largest window that can be allowed, bytes.
pub(crate) const MAX_ZSTD_WINDOW: u64 = 128 << 20;

/// First bytes of compressions that are not decoded here.
const OTHERS: [(&[u8], &str); 6] = [
    (b"BZh", "bzip2"),
    (b"\xfd7zXZ\0", "xz"),
    (b"\x04\x22\x4d\x18", "lz4"),
    (b"\x1f\x9d", "compress"),
    (b"LZIP", "lzip"),
    (b"PK\x03\x04", "zip"),
];

/// Returns a reader of what `source` holds, decompressed; of what is not compressed, as it is.
///
/// Reading fails with `InvalidData` for a stream that is broken, or that has bytes after its end which are
/// no further member or frame; `UnexpectedEof` for one that is cut short; `Unsupported` for a zstd frame
/// whose window is larger than `zstd_window` bytes.
///
/// # Errors
/// `Unsupported` for another compression; what `source` fails with.
pub(crate) fn decoder<R: BufRead>(mut source: R, zstd_window: u64) -> io::Result<Decoder<impl BufRead>> {
    let mut head = Vec::new();
    source.by_ref().take(6).read_to_end(&mut head)?;
    if let Some((_, name)) = OTHERS.iter().find(|(magic, _)| head.starts_with(magic)) {
        let text = format!("it is compressed with {name}; only gzip and zstd are decoded");
        return Err(io::Error::new(io::ErrorKind::Unsupported, text));
    }
    let is_gzip = head.starts_with(gzip::MAGIC);
    let is_zstd = zstd::is_magic(&head);
    let source = Cursor::new(head).chain(source);
    Ok(match (is_gzip, is_zstd) {
        (true, _) => Decoder::Gzip(Box::new(gzip::GzipDecoder::new(source))),
        (_, true) => Decoder::Zstd(Box::new(zstd::ZstdDecoder::new(source, zstd_window))),
        _ => Decoder::None(source),
    })
}

/// A stream that is decompressed, or passed on as it is.
pub(crate) enum Decoder<R> {
    Gzip(Box<gzip::GzipDecoder<R>>),
    Zstd(Box<zstd::ZstdDecoder<R>>),
    None(R),
}

impl<R> Decoder<R> {
    /// Returns whether the stream is compressed.
    pub(crate) fn is_compressed(&self) -> bool {
        !matches!(self, Decoder::None(_))
    }
}

impl<R: BufRead> Read for Decoder<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Decoder::Gzip(decoder) => decoder.read(buffer),
            Decoder::Zstd(decoder) => decoder.read(buffer),
            Decoder::None(source) => source.read(buffer),
        }
    }
}
