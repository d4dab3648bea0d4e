//! The errors of compressed streams.

use std::io;

pub(super) fn broken(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("the {what} stream is broken"))
}

pub(super) fn cut_short(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, format!("the {what} stream is cut short"))
}

pub(super) fn trailing(what: &str) -> io::Error {
    let text = format!("bytes follow the end of the {what} stream");
    io::Error::new(io::ErrorKind::InvalidData, text)
}
