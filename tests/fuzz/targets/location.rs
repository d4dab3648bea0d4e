//! No `Location` panics, and what is followed is an HTTPS URL with a host.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|header: &[u8]| oci_puller::fuzzing::location(header));
