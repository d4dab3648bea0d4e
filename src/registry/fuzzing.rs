//! Doors for the fuzz targets in `tests/fuzz`; not there in any other build.

use std::path::Path;
use std::time::{Duration, SystemTime};

use super::headers::{ContentRange, retry_after};
use super::{challenge, hosts};

/// Reads a `WWW-Authenticate` header.
pub fn challenge(header: &str) {
    challenge::parse([header].into_iter());
}

/// Reads a `hosts.toml`.
pub fn hosts_toml(text: &str) {
    hosts::read_for_fuzzing(text, Path::new("/"));
}

/// Reads a `Content-Range` and a `Retry-After`.
pub fn headers(header: &str) {
    if let Some(range) = ContentRange::parse([header].into_iter()) {
        assert!(range.first <= range.last);
        assert!(range.complete.is_none_or(|complete| range.last < complete));
    }
    let limit = Duration::from_secs(60);
    assert!(retry_after(header, SystemTime::now(), limit).is_none_or(|delay| delay <= limit));
}
