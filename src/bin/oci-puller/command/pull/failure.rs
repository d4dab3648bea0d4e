//! The JSON of an error; `pull --help` documents it.

use oci_puller::{Attempt, Error};
use serde::Serialize;

#[derive(Serialize)]
pub(super) struct Failure<'a> {
    /// The name of an `ErrorKind`.
    kind: String,
    message: String,
    host: Option<&'a str>,
    phase: Option<String>,
    retryable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_seconds: Option<f64>,
    attempts: Vec<Tried<'a>>,
}

#[derive(Serialize)]
struct Tried<'a> {
    host: &'a str,
    kind: String,
    message: &'a str,
}

impl<'a> Failure<'a> {
    pub(super) fn of(error: &'a Error) -> Self {
        let tried = |attempt: &'a Attempt| Tried {
            host: &attempt.host,
            kind: format!("{:?}", attempt.error.kind()),
            message: attempt.error.message(),
        };
        Failure {
            kind: format!("{:?}", error.kind()),
            message: error.to_string(),
            host: error.host(),
            phase: error.phase().map(|phase| phase.to_string()),
            retryable: error.is_retryable(),
            retry_after_seconds: error.retry_after().map(|delay| delay.as_secs_f64()),
            attempts: error.attempts().iter().map(tried).collect(),
        }
    }
}
