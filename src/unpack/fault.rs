//! The errors of unpacking, before layer and entry are added.

use std::io;

use crate::error::{Error, ErrorKind};

/// Why an entry or a layer cannot be unpacked.
#[derive(Debug)]
pub(super) struct UnpackFault {
    kind: ErrorKind,
    cause: String,
    source: Option<io::Error>,
    /// A finished error that needs no more words.
    whole: Option<Error>,
}

impl UnpackFault {
    pub(super) fn new(kind: ErrorKind, cause: impl Into<String>) -> Self {
        UnpackFault { kind, cause: cause.into(), source: None, whole: None }
    }

    /// The layer breaks a rule of tar or of the image specification.
    pub(super) fn invalid(cause: impl Into<String>) -> Self {
        UnpackFault::new(ErrorKind::InvalidLayer, cause)
    }

    pub(super) fn unsupported(cause: impl Into<String>) -> Self {
        UnpackFault::new(ErrorKind::Unsupported, cause)
    }

    /// The disk refused an operation.
    pub(super) fn disk(doing: &str, error: impl Into<io::Error>) -> Self {
        let error = error.into();
        UnpackFault {
            kind: disk_kind(&error),
            cause: format!("cannot {doing}: {error}"),
            source: Some(error),
            whole: None,
        }
    }

    /// The stream of a layer cannot be read.
    pub(super) fn stream(error: io::Error) -> Self {
        match error.kind() {
            // An error of this crate on its way through a reader.
            io::ErrorKind::Other if error.get_ref().is_some_and(|inner| inner.is::<Error>()) => {
                let inner = error.into_inner().and_then(|inner| inner.downcast::<Error>().ok());
                match inner {
                    Some(inner) => UnpackFault::from(*inner),
                    None => UnpackFault::new(ErrorKind::Store, "the stream failed"),
                }
            }
            io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
                UnpackFault::invalid(error.to_string())
            }
            io::ErrorKind::Unsupported => UnpackFault::unsupported(error.to_string()),
            _ => UnpackFault::disk("read the layer", error),
        }
    }

    /// The caller's writer, or what is written to it, failed.
    pub(super) fn written(error: io::Error) -> Self {
        match error.kind() {
            io::ErrorKind::Other => UnpackFault::stream(error),
            _ => UnpackFault::disk("write the tar", error),
        }
    }

    /// What is wrong, without where.
    pub(super) fn cause(&self) -> &str {
        &self.cause
    }

    /// The error, with the layer and, if one is at fault, the entry.
    pub(super) fn at(self, layer: &str, entry: Option<&[u8]>) -> Error {
        if let Some(error) = self.whole {
            return error;
        }
        let message = match entry {
            Some(path) => format!("{layer}: {}: {}", shown(path), self.cause),
            None => format!("{layer}: {}", self.cause),
        };
        let error = Error::new(self.kind, message);
        match self.source {
            Some(source) => error.with_source(source),
            None => error,
        }
    }
}

/// An error that says all there is to say, such as a cancel.
impl From<Error> for UnpackFault {
    fn from(error: Error) -> Self {
        UnpackFault { kind: error.kind(), cause: String::new(), source: None, whole: Some(error) }
    }
}

/// The kind of an error of the disk.
pub(super) fn disk_kind(error: &io::Error) -> ErrorKind {
    use rustix::io::Errno;
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOSPC | Errno::DQUOT) => ErrorKind::DiskFull,
        Some(Errno::MFILE | Errno::NFILE | Errno::NOMEM) => ErrorKind::ResourceExhausted,
        _ => ErrorKind::Store,
    }
}

/// A path from a layer, escaped and at most 200 bytes long.
pub(super) fn shown(path: &[u8]) -> String {
    const MOST: usize = 200;
    let mut text = String::from("\"");
    for piece in path.utf8_chunks() {
        for c in piece.valid().chars().flat_map(char::escape_debug) {
            text.push(c);
        }
        for byte in piece.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
        if text.len() > MOST {
            break;
        }
    }
    if text.len() > MOST - 4 {
        let end = (0..=MOST - 4).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
        text.truncate(end);
        text.push('…');
    }
    text.push('"');
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_shown_escaped_and_short() {
        assert_eq!(shown(b"a/\x1b[2J\xffb\""), r#""a/\u{1b}[2J\xffb\"""#);
        for path in [vec![b'a'; 5000], vec![0xff; 5000], "ä".repeat(3000).into_bytes()] {
            assert!(shown(&path).len() <= 200, "{}", shown(&path).len());
        }
    }
}
