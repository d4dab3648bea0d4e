//! The errors of imports.

use std::io;

use crate::context::PullContext;
use crate::error::{Error, ErrorKind};
use crate::image::digest::Digest;

/// The error for what an archive or a layout should not say.
pub(super) fn invalid(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidManifest, why)
}

/// The error for what an archive or a layout should hold.
pub(super) fn lacking(digest: &Digest) -> Error {
    Error::new(ErrorKind::NotFound, format!("{digest} is missing in what is imported"))
}

/// The error of a read from an archive; one that the context's end interrupted is that end's.
pub(super) fn unreadable(cx: &PullContext, error: io::Error) -> Error {
    if let Err(ended) = cx.check() {
        return ended;
    }
    match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            invalid(format!("the archive cannot be used: {error}"))
        }
        io::ErrorKind::Unsupported => {
            Error::new(ErrorKind::Unsupported, format!("the archive cannot be used: {error}"))
        }
        _ => Error::new(ErrorKind::Store, format!("cannot read the archive: {error}")).with_source(error),
    }
}
