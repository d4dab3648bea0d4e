//! A reply before it is sent: status, headers and body.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use serde_json::json;

use super::http;

/// The filler behind the bytes of a body that is made longer.
static PADDING: [u8; 64 * 1024] = [b'+'; 64 * 1024];

#[derive(Clone, Debug)]
pub(super) struct Reply {
    pub(super) status: u16,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: ReplyBody,
}

impl Reply {
    pub(super) fn new(status: u16, media_type: &str, data: Arc<[u8]>) -> Self {
        let mut reply = Reply { status, headers: Vec::new(), body: ReplyBody::empty() };
        reply.set_body(data);
        reply.set("Content-Type", media_type);
        reply
    }

    pub(super) fn json(status: u16, value: &serde_json::Value) -> Self {
        Reply::new(status, "application/json", value.to_string().into_bytes().into())
    }

    /// What the distribution spec says of
    /// [errors](https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#error-codes).
    pub(super) fn error(status: u16, code: &str) -> Self {
        let message = code.to_ascii_lowercase().replace('_', " ");
        Reply::json(status, &json!({ "errors": [{ "code": code, "message": message }] }))
    }

    /// The error that registries send with this status.
    pub(super) fn status(status: u16) -> Self {
        Reply::error(status, usual_code(status))
    }

    pub(super) fn with(mut self, name: &str, value: impl Into<String>) -> Self {
        self.set(name, value);
        self
    }

    /// Sets a header in place of all of that name.
    pub(super) fn set(&mut self, name: &str, value: impl Into<String>) {
        self.unset(name);
        self.add(name, value);
    }

    pub(super) fn add(&mut self, name: &str, value: impl Into<String>) {
        self.headers.push((name.to_owned(), value.into()));
    }

    pub(super) fn unset(&mut self, name: &str) {
        self.headers.retain(|(known, _)| !known.eq_ignore_ascii_case(name));
    }

    pub(super) fn set_body(&mut self, data: Arc<[u8]>) {
        self.body = ReplyBody { range: 0..data.len(), data, flipped: Vec::new(), extra: 0 };
        self.set("Content-Length", self.body.len().to_string());
    }

    pub(super) fn is_chunked(&self) -> bool {
        http::says(&self.headers, "transfer-encoding", "chunked")
    }

    /// Whether a client that read all of it knows so, and the connection can be used again.
    pub(super) fn ends_by_itself(&self) -> bool {
        let says_its_length = http::value(&self.headers, "content-length")
            .is_some_and(|length| length.parse() == Ok(self.body.len()));
        (says_its_length || self.is_chunked()) && !http::says(&self.headers, "connection", "close")
    }

    /// The status line and the headers, as they are sent.
    pub(super) fn head(&self) -> Vec<u8> {
        let mut head = format!("HTTP/1.1 {} {}\r\n", self.status, reason(self.status));
        for (name, value) in &self.headers {
            head.extend([name, ": ", value, "\r\n"]);
        }
        head.push_str("\r\n");
        head.into_bytes()
    }

    /// Sends only the part of the body that the request's `Range` header asks for, if it asks for
    /// one; see [RFC 9110](https://www.rfc-editor.org/rfc/rfc9110#name-range-requests).
    pub(super) fn ranged(mut self, header: Option<&str>) -> Self {
        let length = self.body.data.len();
        self.set("Accept-Ranges", "bytes");
        match header.and_then(|header| parse_range(header, length)) {
            None => self,
            Some(range) if range.is_empty() => {
                Reply::status(416).with("Content-Range", format!("bytes */{length}"))
            }
            Some(range) => {
                self.status = 206;
                self.set("Content-Range", format!("bytes {}-{}/{length}", range.start, range.end - 1));
                self.set("Content-Length", range.len().to_string());
                self.body.range = range;
                self
            }
        }
    }
}

/// Some bytes of a blob or document, with the faults that hit them.
#[derive(Clone, Debug)]
pub(super) struct ReplyBody {
    data: Arc<[u8]>,
    range: Range<usize>,
    /// Offsets in `data` of bytes that are sent wrong.
    flipped: Vec<usize>,
    /// How many bytes follow that are none of `data`.
    extra: u64,
}

impl ReplyBody {
    fn empty() -> Self {
        ReplyBody { data: Arc::new([]), range: 0..0, flipped: Vec::new(), extra: 0 }
    }

    pub(super) fn len(&self) -> u64 {
        (self.range.len() as u64).saturating_add(self.extra)
    }

    /// Has the byte at `offset` of the whole sent wrong.
    pub(super) fn flip(&mut self, offset: u64) {
        self.flipped.extend(usize::try_from(offset).ok());
        self.flipped.sort_unstable();
        self.flipped.dedup();
    }

    pub(super) fn lengthen(&mut self, count: u64) {
        self.extra = self.extra.saturating_add(count);
    }

    /// Returns the bytes to send, piece by piece. Only damaged bytes are copied.
    pub(super) fn pieces(&self) -> impl Iterator<Item = Cow<'_, [u8]>> {
        self.data_pieces().into_iter().chain(self.extra_pieces())
    }

    fn data_pieces(&self) -> Vec<Cow<'_, [u8]>> {
        let mut pieces = Vec::new();
        let mut start = self.range.start;
        for &offset in self.flipped.iter().filter(|offset| self.range.contains(offset)) {
            pieces.push(Cow::Borrowed(&self.data[start..offset]));
            pieces.push(Cow::Owned(vec![self.data[offset] ^ 1]));
            start = offset + 1;
        }
        pieces.push(Cow::Borrowed(&self.data[start..self.range.end]));
        pieces
    }

    fn extra_pieces(&self) -> impl Iterator<Item = Cow<'_, [u8]>> {
        (0..self.extra).step_by(PADDING.len()).map(|sent| {
            let left = usize::try_from(self.extra - sent).unwrap_or(usize::MAX);
            Cow::Borrowed(&PADDING[..left.min(PADDING.len())])
        })
    }
}

/// The bytes asked for, empty if they are out of reach; `None` to send the whole.
fn parse_range(header: &str, length: usize) -> Option<Range<usize>> {
    let (first, last) = header.strip_prefix("bytes=")?.split_once('-')?;
    if first.is_empty() {
        let suffix: usize = last.parse().ok()?;
        return Some(length.saturating_sub(suffix)..length);
    }
    let start: usize = first.parse().ok()?;
    let end =
        if last.is_empty() { length } else { last.parse::<usize>().ok()?.saturating_add(1).min(length) };
    if last.parse().is_ok_and(|last: usize| last < start) {
        return None;
    }
    Some(start.min(length)..end)
}

fn usual_code(status: u16) -> &'static str {
    match status {
        401 => "UNAUTHORIZED",
        403 => "DENIED",
        404 => "NOT_FOUND",
        405 => "UNSUPPORTED",
        416 => "RANGE_INVALID",
        429 => "TOOMANYREQUESTS",
        500.. => "UNAVAILABLE",
        _ => "UNKNOWN",
    }
}

fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        206 => "Partial Content",
        301 => "Moved Permanently",
        302 => "Found",
        307 => "Temporary Redirect",
        308 => "Permanent Redirect",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        408 => "Request Timeout",
        410 => "Gone",
        416 => "Range Not Satisfiable",
        429 => "Too Many Requests",
        500 => "Internal Server Error",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        _ => "Other",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges() {
        for (header, range) in [
            ("bytes=0-", Some(0..10)),
            ("bytes=4-", Some(4..10)),
            ("bytes=4-5", Some(4..6)),
            ("bytes=4-99", Some(4..10)),
            ("bytes=-3", Some(7..10)),
            ("bytes=-30", Some(0..10)),
            ("bytes=10-", Some(10..10)),
            ("bytes=99-", Some(10..10)),
            ("bytes=5-4", None),
            ("bytes=0-1,3-4", None),
            ("bytes=x-", None),
            ("lines=1-2", None),
        ] {
            assert_eq!(parse_range(header, 10), range, "{header}");
        }
    }

    #[test]
    fn a_wrong_byte_stands_at_its_offset_in_every_range() {
        let mut reply = Reply::new(200, "", Arc::from(*b"abcdef")).ranged(Some("bytes=2-4"));
        reply.body.flip(1);
        reply.body.flip(3);
        reply.body.lengthen(2);
        assert_eq!(reply.body.pieces().collect::<Vec<_>>().concat(), b"cee++");
        assert_eq!(reply.body.len(), 5);
    }

    proptest::proptest! {
        #[test]
        fn no_range_leaves_the_blob(header in "(bytes=)?[0-9]{0,20}-[0-9]{0,20}", length in 0_usize..100) {
            if let Some(range) = parse_range(&header, length) {
                assert!(range.start <= range.end && range.end <= length, "{header} of {length}: {range:?}");
            }
        }
    }
}
