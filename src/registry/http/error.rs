//! Errors of connections, as this crate's.

use std::io;
use std::time::Duration;

use crate::error::{Error, ErrorKind};

/// Translates an error of ureq. What this crate's own connector said comes back as it was.
pub(super) fn of_ureq(error: ureq::Error, within: Duration) -> Error {
    match error {
        ureq::Error::Io(error) => of_io(error),
        ureq::Error::Timeout(ureq::Timeout::RecvResponse) => {
            let message = format!("the server did not answer in time: not within {within:?}");
            Error::new(ErrorKind::Timeout, message)
        }
        ureq::Error::Timeout(_) => {
            Error::new(ErrorKind::Timeout, "the server did not take the request in time")
        }
        ureq::Error::HostNotFound => Error::new(ErrorKind::HostNotFound, "the name has no address"),
        ureq::Error::Tls(what) => Error::new(ErrorKind::Tls, what),
        ureq::Error::ConnectionFailed => Error::new(ErrorKind::ConnectionFailed, "no connection was made"),
        other => Error::new(ErrorKind::Protocol, other.to_string()),
    }
}

/// Translates an error of reading a body.
pub(super) fn of_body(error: io::Error) -> Error {
    // ureq hides its own errors in those of reading.
    of_ureq(error.into(), Duration::ZERO)
}

/// Translates an error of a connection.
pub(super) fn of_io(error: io::Error) -> Error {
    if let Some(ours) = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>()) {
        return ours.clone();
    }
    if is_timeout(&error) {
        return Error::new(ErrorKind::Timeout, "the connection was not ready in time").with_source(error);
    }
    Error::new(ErrorKind::ConnectionFailed, error.to_string()).with_source(error)
}

/// Tells whether a limit passed.
pub(super) fn is_timeout(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::TimedOut | io::ErrorKind::WouldBlock)
}

/// Tells whether the other side has closed the connection, in order or by a reset.
pub(super) fn is_closed(error: &ureq::Error) -> bool {
    use io::ErrorKind::{BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof};
    let kinds = [BrokenPipe, ConnectionAborted, ConnectionReset, NotConnected, UnexpectedEof];
    matches!(error, ureq::Error::Io(error) if kinds.contains(&error.kind()))
}
