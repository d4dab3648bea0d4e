//! Layers and images made for tests, header by header.

use std::fs;
use std::io::Write;
use std::path::Path;

use oci_puller::Store;
use oci_puller::image::Digest;
use oci_puller::store::StoredImage;
use serde_json::json;

/// The time of all entries unless another is set.
pub(crate) const TIME: i64 = 1_600_000_000;

/// An entry of a layer, or raw bytes in its place.
#[derive(Clone)]
pub(crate) struct Item {
    pub(crate) flag: u8,
    pub(crate) name: Vec<u8>,
    link: Vec<u8>,
    content: Vec<u8>,
    mode: u64,
    uid: u64,
    gid: u64,
    size: Option<u64>,
    time: i64,
    device: (u64, u64),
    magic: [u8; 8],
    pax: Vec<(String, Vec<u8>)>,
    raw: Option<Vec<u8>>,
}

fn item(flag: u8, name: impl AsRef<[u8]>, mode: u64) -> Item {
    Item {
        flag,
        name: name.as_ref().to_vec(),
        link: Vec::new(),
        content: Vec::new(),
        mode,
        uid: 0,
        gid: 0,
        size: None,
        time: TIME,
        device: (0, 0),
        magic: *b"ustar\x0000",
        pax: Vec::new(),
        raw: None,
    }
}

pub(crate) fn file(name: impl AsRef<[u8]>, content: impl AsRef<[u8]>) -> Item {
    Item { content: content.as_ref().to_vec(), ..item(b'0', name, 0o644) }
}

pub(crate) fn dir(name: impl AsRef<[u8]>) -> Item {
    item(b'5', name, 0o755)
}

pub(crate) fn symlink(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Item {
    Item { link: target.as_ref().to_vec(), ..item(b'2', name, 0o777) }
}

pub(crate) fn hard_link(name: impl AsRef<[u8]>, target: impl AsRef<[u8]>) -> Item {
    Item { link: target.as_ref().to_vec(), ..item(b'1', name, 0o644) }
}

pub(crate) fn char_device(name: &str, major: u64, minor: u64) -> Item {
    Item { device: (major, minor), ..item(b'3', name, 0o666) }
}

pub(crate) fn block_device(name: &str, major: u64, minor: u64) -> Item {
    Item { device: (major, minor), ..item(b'4', name, 0o660) }
}

pub(crate) fn fifo(name: &str) -> Item {
    item(b'6', name, 0o600)
}

/// An entry of any type flag.
pub(crate) fn flagged(flag: u8, name: &str, content: &str) -> Item {
    Item { content: content.into(), ..item(flag, name, 0o644) }
}

pub(crate) fn raw(bytes: impl Into<Vec<u8>>) -> Item {
    Item { raw: Some(bytes.into()), ..item(0, "", 0) }
}

impl Item {
    pub(crate) fn mode(self, mode: u64) -> Item {
        Item { mode, ..self }
    }

    pub(crate) fn owner(self, uid: u64, gid: u64) -> Item {
        Item { uid, gid, ..self }
    }

    pub(crate) fn time(self, time: i64) -> Item {
        Item { time, ..self }
    }

    pub(crate) fn size(self, size: u64) -> Item {
        Item { size: Some(size), ..self }
    }

    pub(crate) fn magic(self, magic: [u8; 8]) -> Item {
        Item { magic, ..self }
    }

    /// Sets the type flag.
    pub(crate) fn flag(self, flag: u8) -> Item {
        Item { flag, ..self }
    }

    /// Puts a record into an extended header before the entry.
    pub(crate) fn pax(mut self, key: &str, value: impl AsRef<[u8]>) -> Item {
        self.pax.push((key.to_owned(), value.as_ref().to_vec()));
        self
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        if let Some(raw) = &self.raw {
            return raw.clone();
        }
        let mut bytes = Vec::new();
        if !self.pax.is_empty() {
            let records: Vec<u8> = self.pax.iter().flat_map(|(key, value)| record(key, value)).collect();
            bytes.extend(Item { content: records, ..item(b'x', "pax", 0o644) }.bytes());
        }
        for (flag, text) in [(b'L', &self.name), (b'K', &self.link)] {
            if text.len() > 100 {
                let content = [&text[..], b"\0"].concat();
                bytes.extend(Item { content, ..item(flag, "././@LongLink", 0) }.bytes());
            }
        }
        bytes.extend(self.header());
        bytes.extend_from_slice(&self.content);
        bytes.resize(bytes.len().next_multiple_of(512), 0);
        bytes
    }

    fn header(&self) -> [u8; 512] {
        let mut header = [0; 512];
        let mut put = |at: usize, bytes: &[u8]| header[at..at + bytes.len()].copy_from_slice(bytes);
        put(0, &self.name[..self.name.len().min(100)]);
        put(100, &number(self.mode as i64, 8));
        put(108, &number(self.uid as i64, 8));
        put(116, &number(self.gid as i64, 8));
        put(124, &number(self.size.unwrap_or(self.content.len() as u64) as i64, 12));
        put(136, &number(self.time, 12));
        put(148, b"        ");
        put(156, &[self.flag]);
        put(157, &self.link[..self.link.len().min(100)]);
        put(257, &self.magic);
        put(329, &number(self.device.0 as i64, 8));
        put(337, &number(self.device.1 as i64, 8));
        let sum: u32 = header.iter().map(|byte| u32::from(*byte)).sum();
        header[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        header
    }
}

/// Octal if there is room, else binary.
fn number(value: i64, len: usize) -> Vec<u8> {
    let octal = format!("{value:0width$o}\0", width = len - 1);
    if value >= 0 && octal.len() == len {
        return octal.into_bytes();
    }
    let mut binary = vec![if value < 0 { 0xff } else { 0 }; len - 8];
    binary.extend(value.to_be_bytes());
    binary[0] |= 0x80;
    binary
}

/// A pax record.
pub(crate) fn record(key: &str, value: &[u8]) -> Vec<u8> {
    let rest = key.len() + value.len() + 3;
    let mut length = rest;
    while length != rest + length.to_string().len() {
        length = rest + length.to_string().len();
    }
    [format!("{length} {key}=").as_bytes(), value, b"\n"].concat()
}

/// The tar of a layer, with the two blocks at its end.
pub(crate) fn tar(items: &[Item]) -> Vec<u8> {
    let mut bytes: Vec<u8> = items.iter().flat_map(Item::bytes).collect();
    bytes.resize(bytes.len() + 1024, 0);
    bytes
}

/// A layer as it is in the image: its media type, its blob, and its diff_id.
#[derive(Clone)]
pub(crate) struct Blob {
    pub(crate) media_type: &'static str,
    pub(crate) bytes: Vec<u8>,
    pub(crate) diff_id: Digest,
}

pub(crate) const TAR: &str = "application/vnd.oci.image.layer.v1.tar";
pub(crate) const TAR_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
pub(crate) const TAR_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

impl Blob {
    pub(crate) fn plain(tar: Vec<u8>) -> Blob {
        Blob { media_type: TAR, diff_id: Digest::sha256(&tar), bytes: tar }
    }

    pub(crate) fn gzip(tar: Vec<u8>) -> Blob {
        Blob { media_type: TAR_GZIP, diff_id: Digest::sha256(&tar), bytes: gzip(&tar) }
    }
}

/// A member of stored blocks: valid, and simple to make.
pub(crate) fn gzip(bytes: &[u8]) -> Vec<u8> {
    let mut member = b"\x1f\x8b\x08\0\0\0\0\0\0\xff".to_vec();
    let mut chunks = bytes.chunks(0xffff).peekable();
    if bytes.is_empty() {
        member.extend(b"\x01\0\0\xff\xff");
    }
    while let Some(chunk) = chunks.next() {
        member.push(u8::from(chunks.peek().is_none()));
        let len = chunk.len() as u16;
        member.extend(len.to_le_bytes());
        member.extend((!len).to_le_bytes());
        member.extend(chunk);
    }
    member.extend(crc32(bytes).to_le_bytes());
    member.extend((bytes.len() as u32).to_le_bytes());
    member
}

fn crc32(bytes: &[u8]) -> u32 {
    let step = |crc: u32, byte: &u8| {
        (0..8).fold(
            crc ^ u32::from(*byte),
            |crc, _| {
                if crc & 1 == 1 { crc >> 1 ^ 0xedb8_8320 } else { crc >> 1 }
            },
        )
    };
    !bytes.iter().fold(u32::MAX, step)
}

/// A frame of raw blocks.
pub(crate) fn zstd(bytes: &[u8]) -> Vec<u8> {
    // A window of 1 MiB, no size, no sum.
    let mut frame = b"\x28\xb5\x2f\xfd\x00\x50".to_vec();
    let mut chunks = bytes.chunks(100_000).peekable();
    while let Some(chunk) = chunks.next() {
        let header = (chunk.len() as u32) << 3 | u32::from(chunks.peek().is_none());
        frame.extend(&header.to_le_bytes()[..3]);
        frame.extend(chunk);
    }
    frame
}

/// Writes an image of these layers as a layout into `dir`, and opens it.
pub(crate) fn image(dir: &Path, layers: &[Blob]) -> (Store, StoredImage) {
    image_with(dir, layers, &layers.iter().map(|layer| layer.diff_id.to_string()).collect::<Vec<_>>())
}

pub(crate) fn image_with(dir: &Path, layers: &[Blob], diff_ids: &[String]) -> (Store, StoredImage) {
    let blobs = dir.join("blobs/sha256");
    fs::create_dir_all(&blobs).unwrap();
    let put = |media_type: &str, bytes: &[u8]| {
        let digest = Digest::sha256(bytes);
        fs::File::create(blobs.join(digest.hex())).unwrap().write_all(bytes).unwrap();
        json!({ "mediaType": media_type, "digest": digest.to_string(), "size": bytes.len() })
    };
    let config = json!({
        "architecture": "amd64", "os": "linux", "config": {},
        "rootfs": { "type": "layers", "diff_ids": diff_ids },
    });
    let manifest = json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": put("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes()),
        "layers": layers.iter().map(|layer| put(layer.media_type, &layer.bytes)).collect::<Vec<_>>(),
    });
    let mut listed = put("application/vnd.oci.image.manifest.v1+json", manifest.to_string().as_bytes());
    listed["annotations"] = json!({ "org.opencontainers.image.ref.name": "test" });
    let index = json!({ "schemaVersion": 2, "manifests": [listed] });
    fs::write(dir.join("index.json"), index.to_string()).unwrap();
    fs::write(dir.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
    let store = Store::builder(dir).durability(oci_puller::store::Durability::Relaxed).build().unwrap();
    let image = store.images().unwrap().remove(0);
    (store, image)
}
