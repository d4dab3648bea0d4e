//! The parser's position in a document, and the flaw found there.

use std::fmt;

use serde_json::error::Category;

use crate::error::{Error, ErrorKind};

/// How much of a message of the JSON parser, which quotes its input, is passed on.
const MAX_MESSAGE_CHARS: usize = 200;

/// The parser's position. After a failure it stays where that was.
#[derive(Default)]
pub(in crate::image) struct Place {
    pub(super) path: Vec<PathStep>,
    kind: Option<ErrorKind>,
}

pub(super) enum PathStep {
    Field(&'static str),
    Item(usize),
}

/// What is wrong with a field of an object that was read to its end.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {why}")]
pub(in crate::image) struct Flaw {
    pub(in crate::image) field: &'static str,
    pub(in crate::image) why: String,
    /// `InvalidManifest` or `Unsupported`.
    pub(in crate::image) kind: ErrorKind,
}

impl Flaw {
    pub(in crate::image) fn new(field: &'static str, why: impl Into<String>) -> Self {
        Flaw { field, why: why.into(), kind: ErrorKind::InvalidManifest }
    }

    pub(in crate::image) fn missing(field: &'static str) -> Self {
        Flaw::new(field, "is missing")
    }

    /// Returns the flaw of a field whose text `error` refuses.
    pub(in crate::image) fn of(field: &'static str, error: &Error) -> Self {
        let kind = match error.kind() {
            ErrorKind::Unsupported => ErrorKind::Unsupported,
            _ => ErrorKind::InvalidManifest,
        };
        Flaw { field, why: error.message().to_owned(), kind }
    }
}

impl Place {
    /// Turns `flaw`, found in the object at this place, into an error of the parser's.
    pub(in crate::image) fn refuse<E: serde::de::Error>(&mut self, flaw: Flaw) -> E {
        self.kind = Some(flaw.kind);
        self.path.push(PathStep::Field(flaw.field));
        E::custom(flaw.why)
    }

    pub(super) fn explain(&self, error: &serde_json::Error) -> Error {
        let what = match error.classify() {
            Category::Data => "",
            Category::Syntax | Category::Eof | Category::Io => "not JSON: ",
        };
        let message = error.to_string();
        let shown: String = message.chars().take(MAX_MESSAGE_CHARS).collect();
        let more = if shown.len() < message.len() { "…" } else { "" };
        Error::new(self.kind.unwrap_or(ErrorKind::InvalidManifest), format!("{self}{what}{shown}{more}"))
    }
}

/// `layers[3].size: `, or nothing at the top.
impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (depth, step) in self.path.iter().enumerate() {
            match step {
                PathStep::Field(name) if depth == 0 => write!(f, "{name}")?,
                PathStep::Field(name) => write!(f, ".{name}")?,
                PathStep::Item(index) => write!(f, "[{index}]")?,
            }
        }
        if self.path.is_empty() { Ok(()) } else { f.write_str(": ") }
    }
}
