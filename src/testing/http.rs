//! Reads HTTP/1.1 requests off a connection.

use std::io::{self, Read};

/// A longer request head, or body, is refused.
const MAX_HEAD: usize = 64 * 1024;
const MAX_BODY: usize = 1024 * 1024;
const MAX_HEADERS: usize = 128;

/// A request as it came, its body read.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) method: String,
    pub(super) target: String,
    pub(super) headers: Vec<(String, String)>,
    pub(super) body: Vec<u8>,
    /// Whether the client goes on to use the connection.
    pub(super) keep_alive: bool,
}

/// What was read and not yet used.
#[derive(Debug, Default)]
pub(super) struct RequestReader {
    buffer: Vec<u8>,
}

impl RequestReader {
    /// The next request; `None` when the client closed the connection.
    ///
    /// `InvalidData` is a request that is none.
    pub(super) fn next(&mut self, connection: &mut dyn Read) -> io::Result<Option<Request>> {
        let mut request = loop {
            if let Some((request, length)) = parse_head(&self.buffer)? {
                self.buffer.drain(..length);
                break request;
            }
            if self.buffer.len() > MAX_HEAD {
                return Err(invalid("the request's head is too long"));
            }
            if !self.read_more(connection)? {
                return Ok(None);
            }
        };
        let length = body_length(&request)?;
        while self.buffer.len() < length {
            if !self.read_more(connection)? {
                return Ok(None);
            }
        }
        request.body = self.buffer.drain(..length).collect();
        Ok(Some(request))
    }

    /// False at the connection's end.
    fn read_more(&mut self, connection: &mut dyn Read) -> io::Result<bool> {
        let mut chunk = [0; 8 * 1024];
        let count = connection.read(&mut chunk)?;
        self.buffer.extend_from_slice(&chunk[..count]);
        Ok(count > 0)
    }
}

/// The request without its body, and the length of its head; `None` while that is not whole.
fn parse_head(buffer: &[u8]) -> io::Result<Option<(Request, usize)>> {
    let mut headers = [httparse::EMPTY_HEADER; MAX_HEADERS];
    let mut head = httparse::Request::new(&mut headers);
    let httparse::Status::Complete(length) = head.parse(buffer).map_err(invalid)? else {
        return Ok(None);
    };
    let headers: Vec<_> = head
        .headers
        .iter()
        .map(|header| (header.name.to_owned(), String::from_utf8_lossy(header.value).into_owned()))
        .collect();
    let request = Request {
        method: head.method.unwrap_or_default().to_ascii_uppercase(),
        target: head.path.unwrap_or_default().to_owned(),
        keep_alive: head.version == Some(1) && !says(&headers, "connection", "close"),
        headers,
        body: Vec::new(),
    };
    Ok(Some((request, length)))
}

fn body_length(request: &Request) -> io::Result<usize> {
    if value(&request.headers, "transfer-encoding").is_some() {
        return Err(invalid("a request body needs a Content-Length here"));
    }
    let Some(length) = value(&request.headers, "content-length") else { return Ok(0) };
    let length: usize = length.parse().map_err(invalid)?;
    if length > MAX_BODY { Err(invalid("the request's body is too long")) } else { Ok(length) }
}

/// The first header of that name, in any case.
pub(super) fn value<'a>(headers: &'a [(String, String)], name: &str) -> Option<&'a str> {
    headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
}

/// Whether a header of that name has that word.
pub(super) fn says(headers: &[(String, String)], name: &str, word: &str) -> bool {
    value(headers, name).is_some_and(|value| value.eq_ignore_ascii_case(word))
}

/// The pairs of a query or of a form, decoded.
pub(super) fn form_pairs(text: &str) -> impl Iterator<Item = (String, String)> {
    text.split('&').filter(|pair| !pair.is_empty()).map(|pair| {
        let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
        (percent_decode(&name.replace('+', " ")), percent_decode(&value.replace('+', " ")))
    })
}

/// Decodes percent-encoding; an invalid escape stays as it is.
pub(super) fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        match after.first_chunk().and_then(|digits: &[u8; 2]| decode_octet(digits)) {
            Some(octet) if first == b'%' => {
                bytes.push(octet);
                rest = &after[2..];
            }
            _ => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn decode_octet(digits: &[u8; 2]) -> Option<u8> {
    let [high, low] = digits.map(|digit| char::from(digit).to_digit(16));
    u8::try_from(high? * 16 + low?).ok()
}

fn invalid(reason: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, reason)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn percent_encoding_is_undone_where_it_is_valid() {
        for (text, decoded) in
            [("a", "a"), ("%3a", ":"), ("a%2Fb%", "a/b%"), ("%zz%4", "%zz%4"), ("%%41", "%A"), ("", "")]
        {
            assert_eq!(percent_decode(text), decoded, "{text}");
        }
    }

    #[test]
    fn requests_that_follow_each_other_closely_are_told_apart() {
        let mut bytes: &[u8] = b"POST /a HTTP/1.1\r\nContent-Length: 3\r\n\r\nabcGET /b HTTP/1.0\r\n\r\nGET";
        let mut reader = RequestReader::default();
        let first = reader.next(&mut bytes).unwrap().unwrap();
        assert_eq!((first.target.as_str(), &*first.body, first.keep_alive), ("/a", &b"abc"[..], true));
        let second = reader.next(&mut bytes).unwrap().unwrap();
        assert_eq!((second.target.as_str(), second.keep_alive), ("/b", false));
        assert!(reader.next(&mut bytes).unwrap().is_none());
    }

    #[test]
    fn what_is_no_request_is_invalid() {
        for bytes in [
            "no\u{1}thing\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: x\r\n\r\n",
            "GET / HTTP/1.1\r\nContent-Length: 99999999\r\n\r\n",
            "GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n",
        ] {
            let error = RequestReader::default().next(&mut bytes.as_bytes()).unwrap_err();
            assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{bytes}");
        }
    }
}
