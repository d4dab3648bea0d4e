//! Turns an HTTP response that is not a success into an [`Error`].

use std::time::{Duration, SystemTime};

use serde::Deserialize;

use super::http::Reply;
use super::retry_after;
use crate::error::{Error, ErrorKind};

/// Maximum size of an error body, bytes.
const MAX_BODY: usize = 64 * 1024;

/// Returns the error that `reply` stands for: its status decides the kind, its body gives the reason.
pub(super) fn error_of(reply: Reply) -> Error {
    let status = reply.status();
    let (kind, is_final) = match status {
        401 => (ErrorKind::Unauthorized, true),
        403 | 451 => (ErrorKind::Denied, true),
        404 | 410 => (ErrorKind::NotFound, true),
        408 => (ErrorKind::Timeout, false),
        429 => (ErrorKind::RateLimited, false),
        500.. => (ErrorKind::Unavailable, false),
        _ => (ErrorKind::Protocol, true),
    };
    let delay = reply
        .header("retry-after")
        .filter(|_| !is_final)
        .and_then(|value| retry_after::parse(value, SystemTime::now(), Duration::MAX));
    let message = match reason(reply) {
        Some(reason) => format!("status {status}: {reason}"),
        None => format!("status {status}"),
    };
    let error = Error::new(kind, message).with_retryable(!is_final);
    match delay {
        Some(delay) => error.with_retry_after(delay),
        None => error,
    }
}

#[derive(Deserialize)]
struct Errors {
    errors: Vec<Reason>,
}

#[derive(Deserialize)]
struct Reason {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// The first reason in an error's body, in the form of the
/// [distribution spec](https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#error-codes).
fn reason(reply: Reply) -> Option<String> {
    const ENOUGH: usize = 200;
    let body = reply.read_all(MAX_BODY).ok()?;
    let first = serde_json::from_slice::<Errors>(&body).ok()?.errors.into_iter().next()?;
    let text = [first.code, first.message].join(" ");
    let text: String =
        text.trim().chars().map(|c| if c.is_control() { ' ' } else { c }).take(ENOUGH).collect();
    (!text.is_empty()).then_some(text)
}

/// Whether a body is an HTML page, such as a firewall sends with any status.
pub(super) fn is_html(body: &[u8]) -> bool {
    let start: Vec<u8> = body.trim_ascii_start().iter().take(15).map(u8::to_ascii_lowercase).collect();
    start.starts_with(b"<!doctype html") || start.starts_with(b"<html")
}
