//! Turns an HTTP response that is not a success into an [`Error`].

use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde_json::Value;

use super::http::{Reply, StatusCode};
use super::retry_after;
use crate::error::{Error, ErrorKind};

/// Maximum size of an error body, bytes.
const MAX_BODY: usize = 64 * 1024;

/// Returns the error that `reply` stands for: its status decides the kind, its body gives the reason.
pub(super) fn error_of(reply: Reply) -> Error {
    error_from(reply, false)
}

/// Returns the error of a host that was reached by a redirect.
pub(super) fn error_of_redirected(reply: Reply) -> Error {
    error_from(reply, true)
}

fn error_from(reply: Reply, is_redirected: bool) -> Error {
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
    let words = in_words(status);
    let message = match reason(reply, is_redirected) {
        Some(reason) => format!("{words}: {reason}"),
        None => words,
    };
    let error = Error::new(kind, message).with_retryable(!is_final);
    match delay {
        Some(delay) => error.with_retry_after(delay),
        None => error,
    }
}

/// The body of an error, in the form of the
/// [distribution spec](https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#error-codes).
/// Fields may have any type: some registries send null or numbers.
#[derive(Deserialize)]
struct Errors {
    errors: Vec<Value>,
}

/// Returns what the body says, on one line and at most 300 characters long. Of a host that was reached by a
/// redirect only an error document like S3's is quoted: the body may be that of an inner service.
fn reason(reply: Reply, is_redirected: bool) -> Option<String> {
    let body = reply.read_all(MAX_BODY).ok()?;
    let text = if is_redirected { tagged(&body, "Message") } else { reason_in(&body) };
    text.map(|text| one_line(&text)).filter(|text| !text.is_empty())
}

fn reason_in(body: &[u8]) -> Option<String> {
    if let Ok(Errors { errors }) = serde_json::from_slice(body) {
        return errors.first().map(describe);
    }
    if let Ok(Value::Object(fields)) = serde_json::from_slice(body) {
        let known = ["message", "error_description", "error", "detail", "details"];
        return known.iter().find_map(|name| fields.get(*name).map(plain)).filter(|text| !text.is_empty());
    }
    let tag = if is_html(body) { "title" } else { "Message" };
    tagged(body, tag).or_else(|| {
        let is_text = !is_html(body) && !body.trim_ascii_start().starts_with(b"<");
        std::str::from_utf8(body).ok().filter(|_| is_text).map(ToOwned::to_owned)
    })
}

/// Joins code, message and detail of an error.
fn describe(error: &Value) -> String {
    let field = |name: &str| error.get(name).map(plain).filter(|text| !text.is_empty());
    let detail = field("detail").or_else(|| field("details"));
    let head: Vec<String> = [field("code"), field("message")].into_iter().flatten().collect();
    match (head.join(" "), detail) {
        (head, Some(detail)) if head.is_empty() => detail,
        (head, Some(detail)) => format!("{head}: {detail}"),
        (head, None) if head.is_empty() => plain(error),
        (head, None) => head,
    }
}

/// Returns a value as text; empty for null and for an empty object or list.
fn plain(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Object(fields) if fields.is_empty() => String::new(),
        Value::Array(items) if items.is_empty() => String::new(),
        other => other.to_string(),
    }
}

/// Returns the text of the first element with this name, of XML or HTML.
fn tagged(body: &[u8], name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(body);
    // Lower case keeps ASCII offsets, which all of these are.
    let lower = text.to_ascii_lowercase();
    let name = name.to_ascii_lowercase();
    let begin = lower.find(&format!("<{name}>"))? + name.len() + 2;
    let end = begin + lower.get(begin..)?.find(&format!("</{name}>"))?;
    text.get(begin..end).map(ToOwned::to_owned)
}

/// Cuts text after 300 characters; white space becomes one blank, and other control characters are escaped.
fn one_line(text: &str) -> String {
    const MAX_CHARS: usize = 300;
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut characters = words.chars();
    let mut line = String::new();
    for character in characters.by_ref().take(MAX_CHARS) {
        match character.is_control() {
            true => line.extend(character.escape_default()),
            false => line.push(character),
        }
    }
    if characters.next().is_some() { line + "…" } else { line }
}

/// Returns a status with its standard words, like `404 Not Found`.
fn in_words(status: u16) -> String {
    match StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason()) {
        Some(words) => format!("status {status} {words}"),
        None => format!("status {status}"),
    }
}

/// For a fuzz target.
#[cfg(fuzzing)]
pub(super) fn fuzz_body(body: &[u8]) {
    if let Some(text) = reason_in(body) {
        assert!(one_line(&text).chars().all(|character| !character.is_control()));
    }
}

/// Whether a body is an HTML page, such as a firewall sends with any status.
pub(super) fn is_html(body: &[u8]) -> bool {
    let start: Vec<u8> = body.trim_ascii_start().iter().take(15).map(u8::to_ascii_lowercase).collect();
    start.starts_with(b"<!doctype html") || start.starts_with(b"<html")
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_registry_says_is_quoted_in_whichever_form_it_says_it() {
        let cases = [
            (r#"{"errors":[{"code":"DENIED","message":"no"}]}"#, Some("DENIED no")),
            (r#"{"errors":[{"code":"X","message":"m","detail":"d"}]}"#, Some("X m: d")),
            (r#"{"errors":[{"code":null,"message":null,"details":{"a":1}}]}"#, Some(r#"{"a":1}"#)),
            (r#"{"errors":[{"code":7,"message":"m","detail":null}]}"#, Some("7 m")),
            (r#"{"errors":["just text"]}"#, Some("just text")),
            (r#"{"errors":[]}"#, None),
            (r#"{"message":"m"}"#, Some("m")),
            (r#"{"error":"invalid_grant"}"#, Some("invalid_grant")),
            ("too many requests\n", Some("too many requests")),
            (
                "<?xml version='1.0'?><Error><Code>C</Code><Message>Request has expired</Message></Error>",
                Some("Request has expired"),
            ),
            (
                "<!DOCTYPE html><html><head><title>502 Bad\nGateway</title></head>x</html>",
                Some("502 Bad Gateway"),
            ),
            ("<html>no title</html>", None),
            ("a\u{1b}[31mred", Some("a\\u{1b}[31mred")),
            ("", None),
        ];
        for (body, expected) in cases {
            let said = reason_in(body.as_bytes()).map(|text| one_line(&text)).filter(|text| !text.is_empty());
            assert_eq!(said.as_deref(), expected, "{body}");
        }
        assert_eq!(one_line(&"x".repeat(1000)).chars().count(), 301);
    }

    #[test]
    fn a_status_is_told_in_words() {
        assert_eq!(in_words(404), "status 404 Not Found");
        assert_eq!(in_words(599), "status 599");
    }

    proptest! {
        #[test]
        fn no_body_panics(body in any::<Vec<u8>>(), like in "(<|>|/|title|Message|html|İ|[{}\":,]|errors){0,20}") {
            for body in [&*body, like.as_bytes()] {
                let _ = reason_in(body).map(|text| one_line(&text));
            }
        }
    }
}
