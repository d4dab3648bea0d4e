//! A tunnel through a proxy: `CONNECT`, by
//! [RFC 9110, section 9.3.6](https://www.rfc-editor.org/rfc/rfc9110#section-9.3.6).

use std::io::{Read, Write};

use super::url::Proxy;
use crate::error::{Error, ErrorKind};
use crate::registry::http::error;
use crate::registry::http::exchange::MAX_HEAD;

impl Proxy {
    /// Asks the proxy to connect `stream` to a host.
    ///
    /// # Errors
    /// `ConnectionFailed` if the proxy refuses, with its status; `Timeout`, `Protocol`.
    pub(in crate::registry::http) fn open_tunnel(
        &self,
        stream: &mut (impl Read + Write),
        host: &str,
        port: u16,
    ) -> Result<(), Error> {
        let mut request = format!("CONNECT {host}:{port} HTTP/1.1\r\nHost: {host}:{port}\r\n");
        request.push_str(concat!("User-Agent: oci-puller/", env!("CARGO_PKG_VERSION"), "\r\n"));
        if let Some(authorization) = self.authorization() {
            request.push_str("Proxy-Authorization: ");
            request.push_str(authorization.expose());
            request.push_str("\r\n");
        }
        request.push_str("\r\n");
        let request = zeroize::Zeroizing::new(request);
        stream.write_all(request.as_bytes()).map_err(error::of_io)?;
        loop {
            let head = read_head(stream)?;
            match status(&head).ok_or_else(no_http)? {
                100..=199 => {}
                200..=299 => return Ok(()),
                status => return Err(refusal(status, header(&head, "x-squid-error").as_deref())),
            }
        }
    }
}

/// Returns the error of a proxy that refuses to forward a request.
pub(in crate::registry::http) fn refusal(status: u16, reason: Option<&str>) -> Error {
    let mut message = format!("it answered with status {status}");
    if let Some(words) = in_words(status) {
        message.push(' ');
        message.push_str(words);
    }
    if let Some(reason) = reason {
        let printable = |c: &char| c.is_ascii_graphic() || *c == ' ';
        let reason: String = reason.chars().filter(printable).take(100).collect();
        message.push_str(&format!(" ({reason})"));
    }
    match status {
        407 => message.push_str("; the proxy's URL needs a user and a password that it accepts"),
        403 => message.push_str("; the proxy does not allow this host or port"),
        _ => {}
    }
    // A retry does not change what a proxy forbids.
    let may_pass = matches!(status, 408 | 429 | 500..);
    Error::new(ErrorKind::ConnectionFailed, message).with_retryable(may_pass)
}

fn in_words(status: u16) -> Option<&'static str> {
    ureq::http::StatusCode::from_u16(status).ok()?.canonical_reason()
}

/// Reads up to the blank line, and no further: the bytes behind it are the host's. A head is short, and is read once
/// for a connection.
fn read_head(stream: &mut impl Read) -> Result<Vec<u8>, Error> {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") && !head.ends_with(b"\n\n") {
        if head.len() >= MAX_HEAD {
            let message = format!("the head of its answer is longer than {MAX_HEAD} bytes");
            return Err(Error::new(ErrorKind::Protocol, message));
        }
        if stream.read(&mut byte).map_err(error::of_io)? == 0 {
            let message = "it closed the connection instead of answering";
            return Err(Error::new(ErrorKind::ConnectionFailed, message));
        }
        head.extend_from_slice(&byte);
        if head.len() == 5 && !head.starts_with(b"HTTP/") {
            return Err(no_http());
        }
    }
    Ok(head)
}

/// Reads the status of `HTTP/1.1 200 OK`.
fn status(head: &[u8]) -> Option<u16> {
    let line = head.split(|&byte| byte == b'\n').next()?;
    let line = std::str::from_utf8(line.trim_ascii()).ok()?;
    let (version, rest) = line.split_once(' ')?;
    let digits = rest.trim_start().get(..3)?;
    (version.starts_with("HTTP/1.")).then(|| digits.parse().ok())?.filter(|status| *status >= 100)
}

/// Returns a header's value.
fn header(head: &[u8], name: &str) -> Option<String> {
    let text = String::from_utf8_lossy(head);
    let value = text.lines().find_map(|line| {
        let (known, value) = line.split_once(':')?;
        known.eq_ignore_ascii_case(name).then(|| value.trim().to_owned())
    })?;
    let value: String = value.chars().filter(|c| c.is_ascii_graphic() || *c == ' ').take(100).collect();
    (!value.is_empty()).then_some(value)
}

fn no_http() -> Error {
    Error::new(ErrorKind::Protocol, "its answer is not HTTP").with_retryable(false)
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;

    struct Peer {
        asked: Vec<u8>,
        answer: Cursor<Vec<u8>>,
    }

    impl Read for Peer {
        fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
            self.answer.read(buffer)
        }
    }

    impl Write for Peer {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.asked.write(bytes)
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn open(answer: &str) -> (Result<(), Error>, Peer) {
        let mut peer = Peer { asked: Vec::new(), answer: Cursor::new(answer.as_bytes().to_vec()) };
        let proxy = Proxy::parse("X", "http://ann:pw@p:3128").unwrap();
        let outcome = proxy.open_tunnel(&mut peer, "r.io", 443);
        (outcome, peer)
    }

    #[test]
    fn a_tunnel_is_open_after_any_2xx_and_what_follows_is_left() {
        for answer in [
            "HTTP/1.1 200 OK\r\n\r\nrest",
            "HTTP/1.0 200 Connection established\r\nVia: x\r\n\r\nrest",
            "HTTP/1.1 204\r\n\r\nrest",
            "HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\n\r\nrest",
        ] {
            let (outcome, mut peer) = open(answer);
            outcome.unwrap_or_else(|error| panic!("{answer:?}: {error}"));
            let mut rest = String::new();
            peer.read_to_string(&mut rest).unwrap();
            assert_eq!(rest, "rest");
            let asked = String::from_utf8(peer.asked).unwrap();
            assert!(asked.starts_with("CONNECT r.io:443 HTTP/1.1\r\nHost: r.io:443\r\n"), "{asked}");
            assert!(asked.contains("\r\nProxy-Authorization: Basic YW5uOnB3\r\n"), "{asked}");
        }
    }

    #[test]
    fn a_proxy_that_refuses_is_told_with_its_status_and_asked_again_only_if_that_may_help() {
        for (answer, text, is_retryable) in [
            ("HTTP/1.1 403 Forbidden\r\n\r\n", "status 403 Forbidden", false),
            ("HTTP/1.1 407 x\r\n\r\n", "status 407 Proxy Authentication Required", false),
            ("HTTP/1.1 503 x\r\nX-Squid-Error: ERR_DNS_FAIL 0\r\n\r\n", "(ERR_DNS_FAIL 0)", true),
            ("HTTP/1.1 502\r\n\r\n", "status 502 Bad Gateway", true),
            ("SSH-2.0-OpenSSH_9.2\r\n", "not HTTP", false),
            ("HTTP/1.1 99 x\r\n\r\n", "not HTTP", false),
            ("HTTP/1.1 200 O", "closed the connection", true),
            ("", "closed the connection", true),
        ] {
            let error = open(answer).0.unwrap_err();
            assert!(error.to_string().contains(text), "{answer:?}: {error}");
            assert_eq!(error.is_retryable(), is_retryable, "{answer:?}: {error}");
        }
        let endless = format!("HTTP/1.1 200 OK\r\n{}", "x: y\r\n".repeat(20_000));
        assert_eq!(open(&endless).0.unwrap_err().kind(), ErrorKind::Protocol);
    }
}
