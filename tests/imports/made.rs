//! Layouts and archives, made byte for byte.

use std::fs;
use std::path::Path;

use oci_puller::image::{Digest, Platform};
use oci_puller::store::{ImportOptions, Imported};
use oci_puller::{ErrorKind, PullContext, Store};
use serde_json::{Value, json};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A layout that is being made: its files.
#[derive(Clone, Debug, Default)]
pub(crate) struct Made {
    pub(crate) files: Vec<(String, Vec<u8>)>,
    /// What `index.json` lists.
    pub(crate) listed: Vec<Value>,
}

/// An image in a layout.
#[derive(Clone, Debug)]
pub(crate) struct Image {
    pub(crate) id: Digest,
    pub(crate) manifest: Digest,
    pub(crate) layer: Digest,
    pub(crate) descriptor: Value,
}

impl Made {
    pub(crate) fn blob(&mut self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::sha256(bytes);
        self.file(&format!("blobs/sha256/{}", digest.hex()), bytes);
        json!({ "mediaType": media_type, "digest": digest.as_str(), "size": bytes.len() })
    }

    pub(crate) fn file(&mut self, path: &str, bytes: &[u8]) {
        if !self.files.iter().any(|(known, _)| known == path) {
            self.files.push((path.to_owned(), bytes.to_vec()));
        }
    }

    /// Takes a blob away again.
    pub(crate) fn lose(&mut self, digest: &Digest) {
        self.files.retain(|(path, _)| !path.ends_with(digest.hex()));
    }

    /// An image for `platform`, with one layer, which no other has.
    pub(crate) fn image(&mut self, platform: &str) -> Image {
        let layer = format!("the layer for {platform}");
        let platform = Platform::parse(platform.split(' ').next().unwrap()).unwrap();
        let layer = self.blob("application/vnd.oci.image.layer.v1.tar", layer.as_bytes());
        let mut of = json!({ "os": platform.os, "architecture": platform.architecture });
        if let Some(variant) = &platform.variant {
            of["variant"] = json!(variant);
        }
        let mut config = of.clone();
        config["rootfs"] = json!({ "type": "layers", "diff_ids": [layer["digest"]] });
        let config = self.blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer],
        });
        let mut descriptor = self.blob(MANIFEST, manifest.to_string().as_bytes());
        let digest = |value: &Value| Digest::parse(value["digest"].as_str().unwrap()).unwrap();
        let image = (digest(&config), digest(&descriptor), digest(&layer));
        descriptor["platform"] = of;
        Image { id: image.0, manifest: image.1, layer: image.2, descriptor }
    }

    /// A statement about an image, as buildkit makes it.
    pub(crate) fn attestation(&mut self, about: &Image) -> Value {
        let layer = self.blob("application/vnd.in-toto+json", about.manifest.as_str().as_bytes());
        let config = json!({
            "architecture": "unknown", "os": "unknown", "config": {},
            "rootfs": { "type": "layers", "diff_ids": [layer["digest"]] },
        });
        let config = self.blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
        let manifest = json!({
            "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer],
        });
        let mut descriptor = self.blob(MANIFEST, manifest.to_string().as_bytes());
        descriptor["platform"] = json!({ "os": "unknown", "architecture": "unknown" });
        descriptor["annotations"] = json!({
            "vnd.docker.reference.digest": about.manifest.as_str(),
            "vnd.docker.reference.type": "attestation-manifest",
        });
        descriptor
    }

    pub(crate) fn index(&mut self, manifests: &[Value]) -> Value {
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
        self.blob(INDEX, index.to_string().as_bytes())
    }

    /// Lists something in `index.json`, by a name or without one.
    pub(crate) fn list(&mut self, descriptor: &Value, name: Option<&str>) {
        let mut entry = descriptor.clone();
        if let Some(name) = name {
            entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        }
        self.listed.push(entry);
    }

    fn all_files(&self) -> Vec<(String, Vec<u8>)> {
        let mut files = self.files.clone();
        if !files.iter().any(|(path, _)| path == "index.json") && !self.listed.is_empty() {
            let index = json!({ "schemaVersion": 2, "manifests": self.listed });
            files.push(("index.json".to_owned(), index.to_string().into_bytes()));
        }
        if files.iter().any(|(path, _)| path == "index.json") {
            files.push(("oci-layout".to_owned(), br#"{"imageLayoutVersion":"1.0.0"}"#.to_vec()));
        }
        files
    }

    pub(crate) fn archive(&self) -> Vec<u8> {
        tar(&self.all_files())
    }

    /// Writes the layout into a folder.
    pub(crate) fn write(&self, dir: &Path) {
        fs::create_dir_all(dir.join("blobs/sha256")).unwrap();
        for (path, bytes) in self.all_files() {
            let path = dir.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, bytes).unwrap();
        }
    }

    /// Imports it from an archive and from a folder, which must come to the same; returns the store that the
    /// archive came into.
    pub(crate) fn import(&self, options: &ImportOptions) -> (Machine, Result<Imported, ErrorKind>) {
        let (first, second) = (Machine::new("linux/amd64"), Machine::new("linux/amd64"));
        let kind = |error: oci_puller::Error| error.kind();
        let archive = self.archive();
        let outcome = first.store.import_with(&PullContext::new(), &archive[..], options).map_err(kind);
        if self.files.iter().all(|(path, _)| path != "manifest.json") && !self.listed.is_empty() {
            let folder = second.dir.path().join("layout");
            self.write(&folder);
            let other = second.store.import_layout_with(&PullContext::new(), &folder, options).map_err(kind);
            assert_eq!(outcome, other);
            assert_eq!(first.images(), second.images());
        }
        if outcome.is_err() {
            assert_eq!(first.blobs(), 0, "nothing is left");
        }
        (first, outcome)
    }
}

/// A store of a machine of some platform.
#[derive(Debug)]
pub(crate) struct Machine {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) store: Store,
}

impl Machine {
    pub(crate) fn new(platform: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Self::open(dir.path(), platform);
        Machine { dir, store }
    }

    fn open(dir: &Path, platform: &str) -> Store {
        let builder = Store::builder(dir.join("store")).platform(Platform::parse(platform).unwrap());
        builder.durability(oci_puller::store::Durability::Relaxed).build().unwrap()
    }

    /// The same store, as a machine of another platform sees it.
    pub(crate) fn on(&self, platform: &str) -> Store {
        Self::open(self.dir.path(), platform)
    }

    /// The manifests that are listed as images, with their names.
    pub(crate) fn images(&self) -> Vec<(Digest, Vec<String>)> {
        let images = self.store.images().unwrap().into_iter();
        images.map(|image| (image.manifest.digest, image.names)).collect()
    }

    pub(crate) fn blobs(&self) -> usize {
        fs::read_dir(self.store.dir().join("blobs/sha256")).unwrap().count()
    }

    /// The manifest that the key stands for.
    pub(crate) fn found(&self, key: &str) -> Option<Digest> {
        self.store.find(key).unwrap().map(|image| image.manifest.digest)
    }

    pub(crate) fn remove(&self, key: &str) -> oci_puller::store::Removed {
        self.store.remove(&PullContext::new(), key).unwrap()
    }
}

/// A tar archive of these files.
pub(crate) fn tar(files: &[(String, Vec<u8>)]) -> Vec<u8> {
    let mut archive = Vec::new();
    for (path, content) in files {
        archive.extend_from_slice(&header(b'0', path, content.len() as u64));
        archive.extend_from_slice(content);
        archive.resize(archive.len().next_multiple_of(512), 0);
    }
    archive.resize(archive.len() + 1024, 0);
    archive
}

/// A header of a tar archive.
pub(crate) fn header(kind: u8, path: &str, size: u64) -> [u8; 512] {
    let mut header = [0; 512];
    header[..path.len()].copy_from_slice(path.as_bytes());
    header[100..107].copy_from_slice(b"0000644");
    if size < 1 << 33 {
        header[124..135].copy_from_slice(format!("{size:011o}").as_bytes());
    } else {
        header[124] = 0x80;
        header[128..136].copy_from_slice(&size.to_be_bytes());
    }
    header[148..156].fill(b' ');
    header[156] = kind;
    header[257..265].copy_from_slice(b"ustar\x0000");
    let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
    header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    header
}

/// Returns a gzip member of stored blocks.
pub(crate) fn gzip(content: &[u8]) -> Vec<u8> {
    let mut file = b"\x1f\x8b\x08\0\0\0\0\0\0\xff".to_vec();
    let mut blocks = content.chunks(usize::from(u16::MAX)).peekable();
    while let Some(block) = blocks.next() {
        let length = u16::try_from(block.len()).unwrap();
        file.push(u8::from(blocks.peek().is_none()));
        file.extend(length.to_le_bytes());
        file.extend((!length).to_le_bytes());
        file.extend(block);
    }
    file.extend(crc32fast::hash(content).to_le_bytes());
    file.extend(u32::try_from(content.len()).unwrap().to_le_bytes());
    file
}
