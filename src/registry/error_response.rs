//! Turns an HTTP response that is not a success into an [`Error`].

use std::time::{Duration, SystemTime};

use serde::Deserialize;
use serde_json::Value;

use super::encoding;
use super::http::{HttpReply, StatusCode};
use super::retry_after;
use crate::error::{Error, ErrorKind};
use crate::image::digest::Digest;

/// Maximum size of an error body, bytes.
const MAX_BODY: usize = 64 * 1024;

/// Returns the error that `reply` stands for: its status decides the kind, its body gives the reason.
pub(super) fn error_of(reply: HttpReply) -> Error {
    error_from(reply, false)
}

/// Returns the error of a host that was reached by a redirect.
pub(super) fn error_of_redirected(reply: HttpReply) -> Error {
    error_from(reply, true)
}

fn error_from(reply: HttpReply, is_redirected: bool) -> Error {
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
    let proxy = reply.may_be_of_proxy();
    let mut message = match reason(reply, is_redirected) {
        Some(reason) => format!("{words}: {reason}"),
        None => words,
    };
    if let Some(proxy) = proxy {
        message.push_str(&format!("; it came through the proxy {proxy}, which may have written it"));
    }
    let error = Error::new(kind, message).with_retryable(!is_final);
    match delay {
        Some(delay) => error.with_retry_after(delay),
        None => error,
    }
}

/// Names the blob that a host does not have.
pub(super) fn named_blob(error: Error, digest: &Digest) -> Error {
    match error.kind() {
        ErrorKind::NotFound => {
            let message = format!("{digest}: {}", error.message());
            error.with_message(message)
        }
        _ => error,
    }
}

/// The body of an error, in the form of the
/// [distribution spec](https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#error-codes).
/// Fields may have any type: some registries send null or numbers.
#[derive(Deserialize)]
struct Errors {
    errors: Vec<Value>,
}

/// Returns the reason in the body, on one line and at most 300 characters long. Of a host that was reached by a
/// redirect only an error document like S3's is quoted: the body may be that of an inner service.
fn reason(reply: HttpReply, is_redirected: bool) -> Option<String> {
    let is_encoded = reply.encoding().is_some();
    let body = read_start(reply);
    let decoded = if is_encoded { encoding::decode(&body, MAX_BODY) } else { None };
    let body = decoded.unwrap_or(body);
    let text = if is_redirected { s3_message(&body) } else { reason_in(&body) };
    text.map(|text| one_line(&text)).filter(|text| !text.is_empty())
}

/// Reads a body up to the size limit, or to where it breaks: its beginning gives the reason.
fn read_start(reply: HttpReply) -> Vec<u8> {
    let mut body = reply.into_body();
    let mut start = vec![0; MAX_BODY];
    let mut length = 0;
    while let Some(rest) = start.get_mut(length..).filter(|rest| !rest.is_empty()) {
        match body.read(rest) {
            Ok(read) if read > 0 => length += read,
            _ => break,
        }
    }
    start.truncate(length);
    start
}

fn reason_in(body: &[u8]) -> Option<String> {
    let body = without_bom(body);
    if let Ok(Errors { errors }) = serde_json::from_slice(body) {
        let reasons: Vec<_> = errors.iter().map(describe).filter(|text| !text.is_empty()).collect();
        return Some(reasons.join("; "));
    }
    if let Ok(Value::Object(fields)) = serde_json::from_slice(body) {
        let known = ["message", "error_description", "error", "errors", "detail", "details"];
        return known.iter().filter_map(|name| fields.get(*name)).map(describe).find(|text| !text.is_empty());
    }
    if is_html(body) {
        return element(body, "title");
    }
    element(body, "Message").or_else(|| plain_text(body))
}

/// Joins code, message and detail of an error.
fn describe(error: &Value) -> String {
    let field = |name: &str| error.get(name).map(plain).filter(|text| !text.is_empty());
    let detail = field("detail").or_else(|| field("details"));
    let code = field("code");
    // Many registries repeat the code in words.
    let in_words = |text: &str| text.replace('_', " ").to_lowercase();
    let is_new = |message: &String| code.as_ref().is_none_or(|code| in_words(code) != in_words(message));
    let message = field("message").filter(is_new);
    let head: Vec<String> = code.clone().into_iter().chain(message).collect();
    match (head.join(" "), detail) {
        (head, Some(detail)) if head.is_empty() => detail,
        (head, Some(detail)) => format!("{head}: {detail}"),
        (head, None) if head.is_empty() && error.get("code").or(error.get("message")).is_none() => {
            plain(error)
        }
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

/// Returns the message of an error document like S3's, which has an `<Error>` with a `<Code>`.
fn s3_message(body: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(without_bom(body));
    let is_error = without_prologue(&text).starts_with("<Error");
    element(body, "Code").filter(|_| is_error)?;
    element(body, "Message")
}

/// Returns the text of the first element with this name, of XML or HTML. Case does not matter.
fn element(body: &[u8], name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(body);
    // Lower case keeps the offsets of ASCII characters.
    let lower = text.to_ascii_lowercase();
    let (open, close) =
        (format!("<{}", name.to_ascii_lowercase()), format!("</{}", name.to_ascii_lowercase()));
    let mut from = 0;
    loop {
        let after_name = from + lower.get(from..)?.find(&open)? + open.len();
        let rest = lower.get(after_name..)?;
        let begin = after_name + rest.find('>')? + 1;
        from = after_name;
        // Not of a longer name.
        if rest.starts_with('>') || rest.starts_with(|next: char| next.is_ascii_whitespace()) {
            let end = begin + lower.get(begin..)?.find(&close)?;
            return text.get(begin..end).map(unescaped);
        }
    }
}

/// Decodes XML's predefined entities and a CDATA section.
fn unescaped(text: &str) -> String {
    let text = text.trim();
    if let Some(data) = text.strip_prefix("<![CDATA[").and_then(|text| text.strip_suffix("]]>")) {
        return data.to_owned();
    }
    let entities =
        [("&lt;", "<"), ("&gt;", ">"), ("&quot;", "\""), ("&apos;", "'"), ("&#39;", "'"), ("&nbsp;", " ")];
    let decoded =
        entities.iter().fold(text.to_owned(), |text, (entity, character)| text.replace(entity, character));
    // Last, since it may begin another entity.
    decoded.replace("&amp;", "&")
}

/// Returns a body that is text and no markup. Single bytes that are not UTF-8 are replaced.
fn plain_text(body: &[u8]) -> Option<String> {
    let text = String::from_utf8_lossy(body);
    let replaced = text.chars().filter(|&character| character == char::REPLACEMENT_CHARACTER).count();
    let is_text = replaced * 10 <= text.chars().count() && !text.contains('\0');
    let is_markup = text.trim_start().starts_with('<');
    let is_json = serde_json::from_slice::<Value>(body).is_ok_and(|json| json.is_null() || json.is_object());
    (is_text && !is_markup && !is_json).then(|| text.into_owned())
}

fn without_bom(body: &[u8]) -> &[u8] {
    body.strip_prefix(b"\xef\xbb\xbf").unwrap_or(body)
}

/// Skips white space, comments and processing instructions at the beginning of markup.
fn without_prologue(mut text: &str) -> &str {
    loop {
        text = text.trim_start();
        let end = [("<!--", "-->"), ("<?", "?>")].iter().find_map(|(open, close)| {
            text.starts_with(open).then(|| text.find(close).map(|at| at + close.len()))
        });
        match end.flatten().and_then(|end| text.get(end..)) {
            Some(rest) => text = rest,
            None => return text,
        }
    }
}

/// Cuts text after 300 characters. White space becomes one blank; control characters, and others that are not
/// printed or that change the direction of text, are escaped.
fn one_line(text: &str) -> String {
    const MAX_CHARS: usize = 300;
    let words = text.split_whitespace().collect::<Vec<_>>().join(" ");
    let mut characters = words.chars();
    let mut line = String::new();
    for character in characters.by_ref().take(MAX_CHARS) {
        let is_printable = matches!(character, '"' | '\'' | '\\') || character.escape_debug().len() == 1;
        match is_printable {
            true => line.push(character),
            false => line.extend(character.escape_unicode()),
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

/// Returns the error of an HTML page with a status of success, as firewalls and login pages send it, in place of
/// `expected`; `None` for any other body. The page's title is quoted, but not that of a redirected host.
pub(super) fn html_instead_of(expected: &str, body: &[u8], is_redirected: bool) -> Option<Error> {
    let body = without_bom(body);
    if !is_html(body) {
        return None;
    }
    let title = element(body, "title").filter(|_| !is_redirected).map(|title| one_line(&title));
    let title = title.filter(|title| !title.is_empty()).map(|title| format!(" with the title {title:?}"));
    let message = format!(
        "HTML came where {expected} was due: a page{}, perhaps of a firewall, a proxy or a login page",
        title.unwrap_or_default()
    );
    Some(Error::new(ErrorKind::Protocol, message).with_retryable(false))
}

/// Returns whether a body is an HTML page.
fn is_html(body: &[u8]) -> bool {
    const BEGINNINGS: [&str; 7] = ["<!doctype html", "<html", "<head", "<body", "<title", "<meta", "<script"];
    // Long enough for a prologue.
    let start = String::from_utf8_lossy(body.get(..4096).unwrap_or(body)).to_ascii_lowercase();
    let start = without_prologue(&start);
    BEGINNINGS.iter().any(|beginning| start.starts_with(beginning))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_a_registry_says_is_quoted_in_whichever_form_it_says_it() {
        let cases = [
            // Docker's errors.
            (r#"{"errors":[{"code":"DENIED","message":"no"}]}"#, Some("DENIED no")),
            (r#"{"errors":[{"code":"X","message":"m","detail":"d"}]}"#, Some("X m: d")),
            (r#"{"errors":[{"code":"X","message":"m","details":["d"]}]}"#, Some(r#"X m: ["d"]"#)),
            (r#"{"errors":[{"code":null,"message":null,"details":{"a":1}}]}"#, Some(r#"{"a":1}"#)),
            (r#"{"errors":[{"code":7,"message":"m","detail":null}]}"#, Some("7 m")),
            (r#"{"errors":[{"code":"X","message":"m","detail":{}}]}"#, Some("X m")),
            (r#"{"errors":[{"code":"X","message":404,"detail":5}]}"#, Some("X 404: 5")),
            (r#"{"errors":[{"code":"A","message":"x"},null,{"code":"B"}]}"#, Some("A x; B")),
            (r#"{"errors":["just text"]}"#, Some("just text")),
            (r#"{"errors":[{"code":null,"message":null}]}"#, None),
            (r#"{"errors":[]}"#, None),
            (r#"{"errors":null}"#, None),
            (r#"{"errors":{"code":"X","message":"m"}}"#, Some("X m")),
            ("\u{feff}{\"errors\":[{\"message\":\"m\"}]}", Some("m")),
            // Other JSON.
            (r#"{"message":"m"}"#, Some("m")),
            (r#"{"message":null,"error":"e"}"#, Some("e")),
            (r#"{"error":"invalid_grant"}"#, Some("invalid_grant")),
            (r#"{"error":"invalid_grant","error_description":"expired"}"#, Some("expired")),
            (r#"{"error":{"code":403,"message":"m","status":"S"}}"#, Some("403 m")),
            (r#"{"other":"x"}"#, None),
            ("null", None),
            // Text.
            ("too many requests\n", Some("too many requests")),
            (" two\r\n  lines\t", Some("two lines")),
            ("", None),
            (" \n", None),
            // XML.
            (
                "<?xml version='1.0'?><Error><Code>C</Code><Message>Request has expired</Message></Error>",
                Some("Request has expired"),
            ),
            (
                "<Error><MessageId>7</MessageId><Message lang='en'>a &lt;b&gt; &amp;amp;</Message></Error>",
                Some("a <b> &amp;"),
            ),
            ("<e><message><![CDATA[a <b>]]></message></e>", Some("a <b>")),
            ("<Error><Code>C</Code></Error>", None),
            ("<Error><Message>cut", None),
            // HTML.
            (
                "<!DOCTYPE html><html><head><title>502 Bad\nGateway</title></head>x</html>",
                Some("502 Bad Gateway"),
            ),
            ("<HTML><HEAD><TITLE lang=en>Blocked</TITLE></HEAD></HTML>", Some("Blocked")),
            ("<!-- a proxy --><?x?>\n<html><title>Blocked</title></html>", Some("Blocked")),
            ("<head><title>Blocked &quot;x&quot;</title>", Some("Blocked \"x\"")),
            ("<html>no title, <Message>m</Message></html>", None),
            // What a terminal would act on.
            ("a\u{1b}[31mred", Some("a\\u{1b}[31mred")),
            ("a\u{7}\u{9b}b\u{202e}c", Some("a\\u{7}\\u{9b}b\\u{202e}c")),
            (r#"{"errors":[{"message":"a\u001b[2Jb"}]}"#, Some("a\\u{1b}[2Jb")),
            ("<html><title>a\u{1b}]0;x</title></html>", Some("a\\u{1b}]0;x")),
        ];
        for (body, expected) in cases {
            let said = reason_in(body.as_bytes()).map(|text| one_line(&text)).filter(|text| !text.is_empty());
            assert_eq!(said.as_deref(), expected, "{body}");
        }
        for body in ["x".repeat(1000), format!(r#"{{"errors":[{{"message":"{}"}}]}}"#, "ä".repeat(1000))] {
            assert_eq!(one_line(&reason_in(body.as_bytes()).unwrap()).chars().count(), 301);
        }
        assert_eq!(reason_in(b"refus\xe9: acc\xe8s interdit \xe0 tous").as_deref(), None);
        assert_eq!(reason_in(b"acc\xe8s interdit").as_deref(), Some("acc\u{fffd}s interdit"));
        assert_eq!(reason_in(b"\x1f\x8b\x08\x00\x00"), None);
    }

    #[test]
    fn of_a_redirected_host_only_an_error_document_like_s3s_is_quoted() {
        for (body, expected) in [
            (
                "<?xml version='1.0'?>\n<Error><Code>C</Code><Message>expired</Message></Error>",
                Some("expired"),
            ),
            ("<Error xmlns='x'><Code>C</Code><Message>expired</Message></Error>", Some("expired")),
            ("<Error><Message>secret</Message></Error>", None),
            ("<html><Error><Code>C</Code><Message>secret</Message></Error></html>", None),
            ("<Config><Code>C</Code><Message>secret</Message></Config>", None),
            (r#"{"errors":[{"message":"secret"}]}"#, None),
            ("secret", None),
        ] {
            assert_eq!(s3_message(body.as_bytes()).as_deref(), expected, "{body}");
        }
        let page = b"<html><title>secret</title></html>";
        assert!(!html_instead_of("JSON", page, true).unwrap().to_string().contains("secret"));
        assert!(html_instead_of("JSON", page, false).unwrap().to_string().contains("\"secret\""));
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
