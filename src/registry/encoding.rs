//! Bodies that carry a `Content-Encoding`, though `identity` was asked for.
//!
//! Storage services keep the header of an upload, and proxies compress what they pass on. The digest decides:
//! bytes that have it are taken as they are. Others are decoded, with the feature `unpack`, and taken if the
//! decoded bytes have it.

#[cfg(feature = "unpack")]
use std::io::{self, BufReader, Read};
use std::time::Duration;

use super::http::HttpBody;
#[cfg(feature = "unpack")]
use crate::decoders::{DEFAULT_ZSTD_WINDOW, decoder};
use crate::error::{Error, ErrorKind};

/// Whether this build decodes bodies.
pub(super) const DECODES: bool = cfg!(feature = "unpack");

/// The buffer of a decoder's input, bytes.
#[cfg(feature = "unpack")]
const INPUT: usize = 64 * 1024;

/// Returns how many bytes a body may have whose decoded bytes are `size`. Frames and members without content
/// could be endless.
pub(super) fn max_encoded(size: u64) -> u64 {
    size.saturating_mul(2).saturating_add(64 * 1024)
}

/// Returns the error of a body that is encoded and could not be used.
pub(super) fn refused(encoding: &str) -> Error {
    let message = match DECODES {
        true => {
            format!(
                "the body is encoded ({encoding}), was asked for as `identity`, and does not decode to it"
            )
        }
        false => format!(
            "the body is encoded ({encoding}), and was asked for as `identity`; a build with the feature \
             `unpack` decodes gzip and zstd"
        ),
    };
    Error::new(ErrorKind::Protocol, message).with_retryable(false)
}

/// Decodes a whole body. `None` if it is neither gzip nor zstd, is broken, or decodes to more than `limit`
/// bytes.
#[cfg(feature = "unpack")]
pub(super) fn decode(encoded: &[u8], limit: usize) -> Option<Vec<u8>> {
    let mut decoded = Vec::new();
    let reader = decoder(encoded, DEFAULT_ZSTD_WINDOW).ok()?;
    let read = reader.take(limit as u64 + 1).read_to_end(&mut decoded).ok()?;
    (read <= limit && decoded != encoded).then_some(decoded)
}

#[cfg(not(feature = "unpack"))]
pub(super) fn decode(_: &[u8], _: usize) -> Option<Vec<u8>> {
    None
}

/// The body of a blob: as it was sent, or decoded.
pub(super) enum BlobBody {
    AsSent(HttpBody),
    #[cfg(feature = "unpack")]
    Decoded(Box<dyn Read>),
}

impl BlobBody {
    /// Decodes a body whose decoded bytes should be `size`.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    #[cfg(feature = "unpack")]
    pub(super) fn into_decoded(self, size: u64) -> Result<Self, Error> {
        let BlobBody::AsSent(body) = self else { return Ok(self) };
        let source = BufReader::with_capacity(INPUT, IoBody(body).take(max_encoded(size)));
        Ok(BlobBody::Decoded(Box::new(decoder(source, DEFAULT_ZSTD_WINDOW).map_err(of_decoder)?)))
    }

    #[cfg(not(feature = "unpack"))]
    pub(super) fn into_decoded(self, _: u64) -> Result<Self, Error> {
        Ok(self)
    }

    /// Returns how long the reads have waited for the bandwidth limit; not known of a decoded body.
    pub(super) fn waited(&self) -> Duration {
        match self {
            BlobBody::AsSent(body) => body.waited(),
            #[cfg(feature = "unpack")]
            BlobBody::Decoded(_) => Duration::ZERO,
        }
    }

    /// Reads the next bytes; none at the end.
    ///
    /// # Errors
    /// As [`HttpBody::read`]; `DigestMismatch` if the body cannot be decoded.
    pub(super) fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        match self {
            BlobBody::AsSent(body) => body.read(buffer),
            #[cfg(feature = "unpack")]
            BlobBody::Decoded(reader) => reader.read(buffer).map_err(of_decoder),
        }
    }
}

/// Adapts a body for a decoder.
#[cfg(feature = "unpack")]
struct IoBody(HttpBody);

#[cfg(feature = "unpack")]
impl Read for IoBody {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer).map_err(io::Error::other)
    }
}

/// Translates an error of a decoder; an error of the body comes back as it was.
#[cfg(feature = "unpack")]
fn of_decoder(error: io::Error) -> Error {
    match error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        Some(of_body) => of_body.clone(),
        None => Error::new(ErrorKind::DigestMismatch, format!("the body cannot be decoded: {error}")),
    }
}
