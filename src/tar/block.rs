//! Shared parts: the size of a block, numbers in decimal, and errors.

use std::io;

/// Bytes of a block: headers are one, and contents are padded to whole ones.
pub(super) const BLOCK: usize = 512;

pub(super) fn invalid(why: impl Into<String>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, why.into())
}

pub(super) fn cut_short() -> io::Error {
    io::Error::new(io::ErrorKind::UnexpectedEof, "it is cut short")
}

/// A number in decimal, of digits only.
pub(super) fn decimal(digits: &[u8]) -> io::Result<u64> {
    let broken = || invalid(format!("{:?} in an extended header is no number", quoted(digits)));
    if digits.is_empty() || !digits.iter().all(u8::is_ascii_digit) {
        return Err(broken());
    }
    std::str::from_utf8(digits).ok().and_then(|digits| digits.parse().ok()).ok_or_else(broken)
}

/// Some text from outside, short enough for a message.
pub(super) fn quoted(text: &[u8]) -> String {
    String::from_utf8_lossy(text.get(..text.len().min(40)).unwrap_or_default()).into_owned()
}
