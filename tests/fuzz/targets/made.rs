//! An image, and a store of this process, for targets that import.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use oci_puller::Store;
use oci_puller::image::Digest;
use oci_puller::store::Durability;

const LAYER: &str = "layer";
const MANIFEST_TYPE: &str = "application/vnd.oci.image.manifest.v1+json";

/// Returns a folder of this process.
pub fn folder(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("oci-puller-fuzz-{}", std::process::id())).join(name)
}

/// Returns the store that imports go into; it is empty between two of them.
pub fn store() -> &'static Store {
    static STORE: OnceLock<Store> = OnceLock::new();
    STORE.get_or_init(|| Store::builder(folder("store")).durability(Durability::Relaxed).build().unwrap())
}

/// Returns how many blobs the store has.
pub fn blobs(store: &Store) -> usize {
    fs::read_dir(store.dir().join("blobs/sha256")).unwrap().count()
}

fn descriptor(media_type: &str, text: &str) -> String {
    let (digest, size) = (Digest::sha256(text.as_bytes()), text.len());
    format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":{size}}}"#)
}

/// Returns the files of an image, its manifest and an index of it among them, by their paths.
fn image() -> Vec<(String, String)> {
    let diff_id = Digest::sha256(LAYER.as_bytes());
    let config = format!(
        r#"{{"architecture":"amd64","os":"linux","rootfs":{{"type":"layers","diff_ids":["{diff_id}"]}}}}"#
    );
    let manifest = format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST_TYPE}","config":{},"layers":[{}]}}"#,
        descriptor("application/vnd.oci.image.config.v1+json", &config),
        descriptor("application/vnd.oci.image.layer.v1.tar", LAYER),
    );
    let index = format!(r#"{{"schemaVersion":2,"manifests":[{}]}}"#, descriptor(MANIFEST_TYPE, &manifest));
    let path = |text: &str| format!("blobs/sha256/{}", Digest::sha256(text.as_bytes()).hex());
    [LAYER.to_owned(), config, manifest, index].map(|text| (path(&text), text)).into()
}

/// Writes a layout of the image with this `index.json`.
pub fn write_layout(dir: &Path, index: &[u8]) {
    fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
    for (path, text) in image() {
        fs::write(dir.join(path), text).unwrap();
    }
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    fs::write(dir.join("index.json"), index).unwrap();
}

/// Returns an archive of the image and of the files that the input has.
pub fn archive(input: &[u8]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (path, text) in image() {
        entry(&mut archive, path.as_bytes(), text.as_bytes());
    }
    entry(&mut archive, b"oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#);
    for file in input.split(|byte| *byte == 0xff) {
        let mut parts = file.splitn(2, |byte| *byte == 0);
        let (path, content) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
        entry(&mut archive, path, content);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

fn entry(archive: &mut Vec<u8>, path: &[u8], content: &[u8]) {
    let mut header = [0; 512];
    let length = path.len().min(100);
    header[..length].copy_from_slice(&path[..length]);
    header[124..135].copy_from_slice(format!("{:011o}", content.len()).as_bytes());
    header[148..156].fill(b' ');
    header[156] = b'0';
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    archive.extend(header);
    archive.extend(content);
    archive.resize(archive.len().next_multiple_of(512), 0);
}
