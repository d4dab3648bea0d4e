//! No `Content-Range` and no `Retry-After` panics; a range that is taken is one.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|header: &str| oci_puller::fuzzing::headers(header));
