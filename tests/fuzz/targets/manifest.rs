//! No manifest, index or config panics; a manifest that is taken has no more blobs than it may.
#![no_main]

use libfuzzer_sys::fuzz_target;
use oci_puller::image::{Document, ImageConfig, Platform};

fuzz_target!(|bytes: &[u8]| {
    match Document::parse(None, bytes) {
        Ok(Document::Manifest(manifest)) => assert!(manifest.blobs().len() <= 4096 + 1),
        Ok(Document::Index(index)) => drop(Platform::host().candidates(&index)),
        Err(_) => {}
    }
    let _ = ImageConfig::parse(bytes);
});
