//! Errors of the disk, as the store reports them.

use std::io;

use rustix::io::Errno;

use crate::error::{Error, ErrorKind};

/// Returns the error of an operation that the disk refused.
pub(super) fn refused(error: &io::Error, doing: impl std::fmt::Display) -> Error {
    let kind = match error {
        _ if is_full(error) => ErrorKind::DiskFull,
        _ if is_out_of_files(error) => ErrorKind::ResourceExhausted,
        _ => ErrorKind::Store,
    };
    // `io::Error` cannot be cloned: the source keeps the code, or else the kind and the text.
    let source = match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    };
    Error::new(kind, format!("cannot {doing}: {error}")).with_source(source)
}

/// Returns whether this process (EMFILE) or the machine (ENFILE) has no file descriptor left.
pub(super) fn is_out_of_files(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    code == Some(Errno::MFILE.raw_os_error()) || code == Some(Errno::NFILE.raw_os_error())
}

/// Returns whether this user may not write there.
pub(super) fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}

/// Returns whether the disk, or the user's share of it, is full.
pub(super) fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}
