//! No credentials file panics, of the newer shape or of the older one.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|json: &[u8]| oci_puller::fuzzing::docker_config(json));
