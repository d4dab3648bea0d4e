//! No header block of a container runtime panics or decodes to more than its limit.
#![no_main]

use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| oci_puller::fuzzing::cri_header_blocks(bytes));
