//! Unary calls of [gRPC over HTTP/2](https://github.com/grpc/grpc/blob/v1.74.0/doc/PROTOCOL-HTTP2.md): messages,
//! statuses, headers.

use std::time::Duration;

use prost::Message;
use zeroize::{Zeroize, Zeroizing};

use super::http2::{HeaderField, Http2Exchange, Http2Request, Http2Response};

/// Bytes before each message: a flag, and the length in four bytes.
const PREFIX: usize = 5;

/// An answer without a message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum GrpcFailure {
    /// A status of gRPC other than OK.
    Status { code: u32, message: String },
    /// The answer is no valid gRPC.
    Protocol(String),
}

/// Returns the exchange for a call. Its copies of `message` are wiped; the caller wipes the message.
pub(super) fn exchange(
    method: &str,
    message: &impl Message,
    timeout: Option<Duration>,
    max_message: usize,
) -> Http2Exchange {
    let length = message.encoded_len();
    let mut body = Zeroizing::new(Vec::with_capacity(PREFIX + length));
    body.push(0);
    body.extend_from_slice(&u32::try_from(length).unwrap_or(u32::MAX).to_be_bytes());
    // Fails only for want of room, which a `Vec` always has.
    let _ = message.encode(&mut *body);
    let timeout = timeout.map(timeout_header);
    let mut fields = vec![
        (":method", "POST"),
        (":scheme", "http"),
        (":path", method),
        (":authority", "localhost"),
        ("te", "trailers"),
    ];
    if let Some(timeout) = &timeout {
        fields.push(("grpc-timeout", timeout));
    }
    fields.push(("content-type", "application/grpc"));
    fields.push(("user-agent", concat!("oci-puller/", env!("CARGO_PKG_VERSION"))));
    Http2Exchange::new(Http2Request { fields: &fields, body, max_data: PREFIX + max_message })
}

/// Returns the value of `grpc-timeout`: at most 8 digits and a unit.
fn timeout_header(timeout: Duration) -> String {
    const MAX: u128 = 99_999_999;
    match timeout.as_millis() {
        // Servers refuse a timeout of zero.
        millis if millis <= MAX => format!("{}m", millis.max(1)),
        millis => format!("{}S", (millis / 1000).min(MAX)),
    }
}

/// Decodes the message of a complete response, and wipes the response.
pub(super) fn message<M: Message + Default>(mut response: Http2Response) -> Result<M, GrpcFailure> {
    let decoded = decode(&response);
    response.data.zeroize();
    decoded
}

fn decode<M: Message + Default>(response: &Http2Response) -> Result<M, GrpcFailure> {
    let protocol = |what: &str| Err(GrpcFailure::Protocol(what.to_owned()));
    let header = |name| value(&response.headers, name);
    match header(":status") {
        Some("200") => {}
        Some(status) => return protocol(&format!("HTTP status {}", status.escape_debug())),
        None => return protocol("no HTTP status came"),
    }
    if !header("content-type").is_some_and(|kind| kind.starts_with("application/grpc")) {
        return protocol("the answer is not gRPC");
    }
    // An answer without a message may have its status among the headers.
    let fields = if response.trailers.is_empty() { &response.headers } else { &response.trailers };
    let Some(code) = value(fields, "grpc-status").and_then(|code| code.parse().ok()) else {
        return protocol("no gRPC status came");
    };
    if code != 0 {
        let message = percent_decoded(value(fields, "grpc-message").unwrap_or_default());
        return Err(GrpcFailure::Status { code, message });
    }
    let Some(([flag, length @ ..], message)) = response.data.split_first_chunk::<PREFIX>() else {
        return protocol("no message came");
    };
    if *flag != 0 {
        return protocol("the message is compressed, which was not asked for");
    }
    if u32::from_be_bytes(*length) as usize != message.len() {
        return protocol("the message is longer or shorter than its length says");
    }
    M::decode(message).map_err(|error| GrpcFailure::Protocol(format!("the message is no protobuf: {error}")))
}

fn value<'a>(fields: &'a [HeaderField], name: &str) -> Option<&'a str> {
    let (_, value) = fields.iter().find(|(field, _)| field == name.as_bytes())?;
    std::str::from_utf8(value).ok()
}

/// Decodes `%XX`, and keeps everything else.
fn percent_decoded(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let digits = after.first_chunk::<2>().filter(|_| *first == b'%');
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::super::api::VersionResponse;
    use super::*;

    fn response(headers: &[(&str, &str)], data: &[u8], trailers: &[(&str, &str)]) -> Http2Response {
        let fields = |list: &[(&str, &str)]| {
            list.iter().map(|(name, value)| (name.as_bytes().to_vec(), value.as_bytes().to_vec())).collect()
        };
        Http2Response { headers: fields(headers), data: data.to_vec(), trailers: fields(trailers) }
    }

    #[test]
    fn an_answer_is_a_message_a_status_or_no_grpc() {
        const HEAD: &[(&str, &str)] = &[(":status", "200"), ("content-type", "application/grpc+proto")];
        const OK: &[(&str, &str)] = &[("grpc-status", "0")];
        fn read(response: Http2Response) -> Result<String, GrpcFailure> {
            message(response).map(|message: VersionResponse| message.version)
        }
        let sent = b"\0\0\0\0\x03\x0a\x01v";
        assert_eq!(read(response(HEAD, sent, OK)).unwrap(), "v");
        let status = |code: &str, text: &str| {
            let trailers = [("grpc-status", code), ("grpc-message", text)];
            match read(response(HEAD, b"", &trailers)).unwrap_err() {
                GrpcFailure::Status { code, message } => (code, message),
                GrpcFailure::Protocol(text) => panic!("{text}"),
            }
        };
        assert_eq!(status("5", "no%20image%"), (5, "no image%".to_owned()));
        assert_eq!(status("13", "%e2%82%ac%zz"), (13, "€%zz".to_owned()));
        // Trailers only.
        let only = [HEAD, &[("grpc-status", "12")]].concat();
        assert!(matches!(read(response(&only, b"", &[])), Err(GrpcFailure::Status { code: 12, .. })));

        let protocol = |headers: &[_], data: &[u8], trailers: &[_], part: &str| match read(response(
            headers, data, trailers,
        )) {
            Err(GrpcFailure::Protocol(text)) => assert!(text.contains(part), "{text}"),
            other => panic!("{other:?}"),
        };
        protocol(&[(":status", "404"), HEAD[1]], sent, OK, "HTTP status 404");
        protocol(&[HEAD[1]], sent, OK, "no HTTP status");
        protocol(&[HEAD[0], ("content-type", "text/html")], sent, OK, "not gRPC");
        protocol(HEAD, sent, &[], "no gRPC status");
        protocol(HEAD, sent, &[("grpc-status", "x")], "no gRPC status");
        protocol(HEAD, b"", OK, "no message");
        protocol(HEAD, b"\x01\0\0\0\x03\x0a\x01v", OK, "compressed");
        protocol(HEAD, b"\0\0\0\0\x04\x0a\x01v", OK, "length");
        protocol(HEAD, b"\0\0\0\0\x02\x0a\x01v", OK, "length");
        protocol(HEAD, b"\0\0\0\0\x03\x0a\x02v", OK, "no protobuf");
    }

    #[test]
    fn timeouts_fit_in_eight_digits() {
        for (timeout, header) in [
            (Duration::ZERO, "1m"),
            (Duration::from_millis(1500), "1500m"),
            (Duration::from_secs(99_999), "99999000m"),
            (Duration::from_secs(100_000), "100000S"),
            (Duration::MAX, "99999999S"),
        ] {
            assert_eq!(timeout_header(timeout), header);
        }
    }
}
