//! Entry points for the fuzz targets in `tests/fuzz`; compiled only for fuzzing.

use std::path::Path;
use std::time::{Duration, SystemTime};

use super::content_range::ContentRange;
use super::{auth, error_response, hosts, http, retry_after, url_policy};

/// Parses a `WWW-Authenticate` header.
pub fn challenge(header: &str) {
    auth::parse_challenge([header].into_iter());
}

/// Reads a `Location`.
pub fn location(header: &[u8]) {
    url_policy::fuzz_location(header);
}

/// Reads a `NO_PROXY`, and looks a host up in it.
pub fn no_proxy(list: &str, host: &str, port: u16) {
    http::fuzz_no_proxy(list, host, port);
}

/// Parses a `hosts.toml`.
pub fn hosts_toml(text: &str) {
    hosts::read_for_fuzzing(text, Path::new("/"));
}

/// Parses a `Content-Range` and a `Retry-After`.
pub fn headers(header: &str) {
    if let Some(range) = ContentRange::parse([header].into_iter()) {
        assert!(range.first <= range.last);
        assert!(range.complete.is_none_or(|complete| range.last < complete));
    }
    let limit = Duration::from_secs(60);
    assert!(retry_after::parse(header, SystemTime::now(), limit).is_none_or(|delay| delay <= limit));
}

/// Reads the body of an error response.
pub fn error_body(body: &[u8]) {
    error_response::fuzz_body(body);
}
