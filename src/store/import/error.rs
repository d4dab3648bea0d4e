//! The errors of imports.

use std::io;

use crate::context::PullContext;
use crate::error::{Error, ErrorKind};
use crate::image::digest::Digest;

/// Makes the error for an archive or a layout that is not valid.
pub(super) fn invalid(why: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidManifest, why)
}

/// Makes the error for a blob that an archive or a layout lacks.
pub(super) fn lacking(digest: &Digest) -> Error {
    Error::new(ErrorKind::NotFound, format!("{digest} is missing in what is imported"))
}

/// Returns the error of a read from an archive; if the context has ended, the error of that.
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
