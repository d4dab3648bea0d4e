//! The failures of a runtime as errors of this crate.

use super::grpc::GrpcFailure;
use crate::error::{Error, ErrorKind};

// The codes of https://grpc.io/docs/guides/status-codes/.
const CANCELLED: u32 = 1;
const INVALID_ARGUMENT: u32 = 3;
const DEADLINE_EXCEEDED: u32 = 4;
const NOT_FOUND: u32 = 5;
const PERMISSION_DENIED: u32 = 7;
const RESOURCE_EXHAUSTED: u32 = 8;
const UNIMPLEMENTED: u32 = 12;
const UNAVAILABLE: u32 = 14;
const UNAUTHENTICATED: u32 = 16;

/// Characters of a runtime's message that an error quotes.
const MAX_MESSAGE: usize = 1000;

/// Returns the error for a failure.
pub(super) fn error(failure: GrpcFailure) -> Error {
    match failure {
        GrpcFailure::Protocol(text) => Error::new(ErrorKind::Protocol, text).with_retryable(false),
        GrpcFailure::Status { code: UNIMPLEMENTED, .. } => Error::new(
            ErrorKind::Unsupported,
            "the runtime speaks no CRI v1 on this socket; enable its CRI plugin, or update it",
        ),
        GrpcFailure::Status { code, message } => {
            let error = Error::new(kind(code, &message), readable(&message));
            if is_final(&message) { error.with_retryable(false) } else { error }
        }
    }
}

/// Reports whether the runtime's signature policy refused the image, which a retry does not change.
fn is_final(message: &str) -> bool {
    message.contains("SignatureValidationFailed:")
}

/// Returns the kind for a code and a message. Runtimes give most causes as text, with the code Unknown.
fn kind(code: u32, message: &str) -> ErrorKind {
    let text = message.to_ascii_lowercase();
    let says = |part: &str| text.contains(part);
    if is_final(message) {
        return ErrorKind::Denied;
    }
    if message.contains("RegistryUnavailable:") {
        return ErrorKind::Unavailable;
    }
    if says("no space left on device") {
        return ErrorKind::DiskFull;
    }
    if says("no match for platform") {
        return ErrorKind::NoMatchingPlatform;
    }
    if says("invalid reference format") {
        return ErrorKind::InvalidReference;
    }
    match code {
        NOT_FOUND => ErrorKind::NotFound,
        UNAUTHENTICATED => ErrorKind::Unauthorized,
        PERMISSION_DENIED => ErrorKind::Denied,
        RESOURCE_EXHAUSTED => ErrorKind::RateLimited,
        UNAVAILABLE => ErrorKind::Unavailable,
        DEADLINE_EXCEEDED => ErrorKind::Timeout,
        INVALID_ARGUMENT => ErrorKind::InvalidReference,
        // The caller's own cancel is reported before an answer is read.
        CANCELLED => ErrorKind::Unavailable,
        _ if says_status(&text, "401") || says("authorization failed") => ErrorKind::Unauthorized,
        _ if says_status(&text, "403") => ErrorKind::Denied,
        _ if says_status(&text, "429") => ErrorKind::RateLimited,
        _ => ErrorKind::Unavailable,
    }
}

/// Reports whether the text names an HTTP status: the number as a word, not as a port or a part of a digest.
fn says_status(text: &str, status: &str) -> bool {
    text.match_indices(status).any(|(at, _)| {
        let before = text[..at].chars().next_back();
        let after = text[at + status.len()..].chars().next();
        before.is_none_or(|c| c.is_whitespace() || "[(=\"".contains(c))
            && after.is_none_or(|c| c.is_whitespace() || "])\",.;:".contains(c))
    })
}

/// Returns the message on one line with control characters escaped, cut after [`MAX_MESSAGE`] characters.
fn readable(message: &str) -> String {
    let escaped = |c: char| {
        let is_harmless = c.is_ascii_graphic() || c == ' ' || c.is_alphanumeric();
        if is_harmless { c.to_string() } else { c.escape_default().to_string() }
    };
    let text: String = message.trim().chars().take(MAX_MESSAGE).map(escaped).collect();
    if text.is_empty() { "the runtime gives no reason".to_owned() } else { text }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_and_texts_of_runtimes_have_kinds() {
        const UNKNOWN: u32 = 2;
        const INTERNAL: u32 = 13;
        let containerd =
            "rpc error: failed to pull and unpack image \"r:401/a:1\": failed to resolve reference: ";
        for (code, text, kind, retryable) in [
            (NOT_FOUND, "x: not found", ErrorKind::NotFound, false),
            (UNAUTHENTICATED, "", ErrorKind::Unauthorized, false),
            (UNKNOWN, "unexpected status: 401 Unauthorized", ErrorKind::Unauthorized, false),
            (
                UNKNOWN,
                "failed with status code [manifests 1]: 401 Unauthorized",
                ErrorKind::Unauthorized,
                false,
            ),
            (UNKNOWN, "insufficient_scope: authorization failed", ErrorKind::Unauthorized, false),
            (PERMISSION_DENIED, "", ErrorKind::Denied, false),
            (UNKNOWN, "unexpected status code 403", ErrorKind::Denied, false),
            (RESOURCE_EXHAUSTED, "", ErrorKind::RateLimited, true),
            (
                UNKNOWN,
                "429 Too Many Requests - Server message: toomanyrequests",
                ErrorKind::RateLimited,
                true,
            ),
            (UNAVAILABLE, "", ErrorKind::Unavailable, true),
            (UNKNOWN, "RegistryUnavailable: try later", ErrorKind::Unavailable, true),
            (UNKNOWN, "SignatureValidationFailed: no signature", ErrorKind::Denied, false),
            (DEADLINE_EXCEEDED, "context deadline exceeded", ErrorKind::Timeout, true),
            (INVALID_ARGUMENT, "", ErrorKind::InvalidReference, false),
            (UNKNOWN, "parsing \"A\": invalid reference format", ErrorKind::InvalidReference, false),
            (NOT_FOUND, "no match for platform in manifest: not found", ErrorKind::NoMatchingPlatform, false),
            (UNKNOWN, "write /x: no space left on device", ErrorKind::DiskFull, true),
            (UNIMPLEMENTED, "unknown service", ErrorKind::Unsupported, false),
            (UNKNOWN, containerd, ErrorKind::Unavailable, true),
            (INTERNAL, "sha256:4014034290000 is odd", ErrorKind::Unavailable, true),
        ] {
            let error = error(GrpcFailure::Status { code, message: text.to_owned() });
            assert_eq!((error.kind(), error.is_retryable()), (kind, retryable), "{code} {text}");
        }
    }

    #[test]
    fn messages_are_quoted_without_control_characters() {
        let quoted = |message: &str| error(GrpcFailure::Status { code: 2, message: message.to_owned() });
        assert_eq!(quoted("a\u{1b}[31m\nb\u{202e}c é").message(), "a\\u{1b}[31m\\nb\\u{202e}c é");
        assert_eq!(quoted("").message(), "the runtime gives no reason");
        assert!(quoted(&"x".repeat(5000)).message().len() <= MAX_MESSAGE);
    }
}
