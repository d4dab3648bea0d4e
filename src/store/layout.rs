//! Paths in a store, and the reading and writing of the layout's own files.
//!
//! The store is an [OCI image layout](https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md):
//! `oci-layout`, `index.json`, `blobs/<algorithm>/<hex>`. This crate's own files are in a hidden folder beside them,
//! which other tools skip.

use std::error::Error as _;
use std::io;
use std::path::Path;

use serde::Deserialize;

use crate::durable::{self, Disk, DiskFile, FileType, Flush, Metadata, OpenMode, read_limited};
use crate::error::{Error, ErrorKind};
use crate::image::digest::Digest;
use crate::store::error::refused;
use crate::store::index::StoreIndex;

pub(super) const LAYOUT: &str = "oci-layout";
/// The list of images in an archive of `docker save`.
pub(super) const DOCKER_MANIFEST: &str = "manifest.json";
pub(super) const INDEX: &str = "index.json";
pub(super) const BLOBS: &str = "blobs";
/// The folder of this crate's own files.
pub(super) const OWN: &str = ".oci-puller";
/// Unfinished downloads, one file a digest.
pub(super) const PARTIALS: &str = ".oci-puller/partial";
/// Blobs that did not match their digest.
pub(super) const DAMAGED: &str = ".oci-puller/damaged";
/// An `index.json` that power loss made unreadable.
pub(super) const LOST_INDEX: &str = ".oci-puller/index.json.lost";
/// The blobs that running pulls hold, one file for each open store.
pub(super) const LEASES: &str = ".oci-puller/leases";
/// Locked while the index is rewritten.
pub(super) const INDEX_LOCK: &str = ".oci-puller/index.lock";
/// Locked shared while digests are added to a lease, and exclusively while blobs are removed.
pub(super) const COLLECT_LOCK: &str = ".oci-puller/collect.lock";
/// The next `index.json`, until it is renamed.
pub(super) const INDEX_TEMP: &str = ".oci-puller/index.json";
/// The file that becomes the next `index.json` on a full disk.
pub(super) const RESERVE: &str = ".oci-puller/reserve";
const LAYOUT_TEMP: &str = ".oci-puller/oci-layout";

pub(super) const LAYOUT_TEXT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
pub(super) const EMPTY_INDEX: &str = r#"{"schemaVersion":2,"manifests":[]}"#;
/// The longest `oci-layout` that is read, bytes.
pub(super) const MAX_LAYOUT: u64 = 4096;
/// The longest `index.json` that is read, bytes: some 600,000 images.
pub(super) const MAX_INDEX: u64 = 256 << 20;

/// Returns the digest of the blob whose partial has this path.
pub(super) fn digest_of_partial(path: &str) -> Option<Digest> {
    let name = path.strip_prefix(PARTIALS)?.strip_prefix('/')?;
    Digest::parse(&name.replacen('-', ":", 1)).ok()
}

/// Returns the path of a blob.
pub(super) fn blob_path(digest: &Digest) -> String {
    format!("{BLOBS}/{}/{}", digest.algorithm().as_str(), digest.hex())
}

/// Returns the path of a blob's partial download.
pub(super) fn partial_path(digest: &Digest) -> String {
    format!("{PARTIALS}/{}-{}", digest.algorithm().as_str(), digest.hex())
}

/// Returns the digest that a file in a folder of blobs is named after.
pub(super) fn digest_in(folder: &str, name: &str) -> Option<Digest> {
    let algorithm = folder.rsplit_once('/').map_or(folder, |(_, algorithm)| algorithm);
    Digest::parse(&format!("{algorithm}:{name}")).ok()
}

/// Returns the path that a damaged blob is moved to.
pub(super) fn damaged_path(digest: &Digest) -> String {
    format!("{DAMAGED}/{}-{}", digest.algorithm().as_str(), digest.hex())
}

/// Writes `oci-layout`.
pub(super) fn write_marker(disk: &dyn Disk, flush: Flush) -> io::Result<()> {
    replace_marker(disk, LAYOUT_TEXT.as_bytes(), flush)
}

/// Writes `oci-layout` with this text.
pub(super) fn replace_marker(disk: &dyn Disk, text: &[u8], flush: Flush) -> io::Result<()> {
    durable::replace(disk, LAYOUT, LAYOUT_TEMP, text, flush)
}

/// Checks that the folder is a layout of a known version, with an index that can be read.
pub(super) fn check(disk: &dyn Disk, dir: &Path) -> Result<(), Error> {
    let wrong = |what: String| {
        Error::new(
            ErrorKind::InvalidConfig,
            format!("{} is no image layout that can be used: {what}", dir.display()),
        )
    };
    let failed = |error: io::Error| refused(&error, format!("read {}", dir.join(LAYOUT).display()));
    let file = disk.open(LAYOUT, OpenMode::Read).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => wrong(format!("it has no {LAYOUT}")),
        _ => failed(error),
    })?;
    check_marker(&read_limited(&*file, MAX_LAYOUT).map_err(failed)?).map_err(wrong)?;
    read_index(disk).map(drop).map_err(|error| match error.source() {
        None => wrong(error.message().to_owned()),
        Some(_) => error,
    })
}

/// Checks that `oci-layout` names a known version.
pub(super) fn check_marker(text: &[u8]) -> Result<(), String> {
    #[derive(Deserialize)]
    struct Marker {
        #[serde(rename = "imageLayoutVersion")]
        version: String,
    }
    let marker: Marker = serde_json::from_slice(text).map_err(|error| format!("{LAYOUT}: {error}"))?;
    match &*marker.version {
        "1.0.0" => Ok(()),
        other => Err(format!("{LAYOUT} is of version {other:.32?}, and only 1.0.0 is known")),
    }
}

/// Reads `index.json`, and returns the file's metadata with it. A layout without the file has no images: some tools
/// create it with the first image.
pub(super) fn read_index(disk: &dyn Disk) -> Result<(StoreIndex, Option<Metadata>), Error> {
    let failed = |error: io::Error| refused(&error, format!("read {INDEX}"));
    let file = match disk.open(INDEX, OpenMode::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok((StoreIndex::parse(EMPTY_INDEX.as_bytes())?, None));
        }
        Err(error) => return Err(failed(error)),
    };
    let metadata = file.metadata().map_err(failed)?;
    let bytes = read_limited(&*file, MAX_INDEX).map_err(failed)?;
    Ok((StoreIndex::parse(&bytes)?, Some(metadata)))
}

/// Returns the metadata of the regular file at `path`, or `None` if nothing is there.
pub(super) fn regular_file(disk: &dyn Disk, path: &str) -> io::Result<Option<Metadata>> {
    match disk.metadata(path) {
        Ok(metadata) if metadata.kind == FileType::File => Ok(Some(metadata)),
        Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens a lock file, and makes it if it does not exist.
pub(super) fn open_lock(disk: &dyn Disk, path: &str) -> io::Result<Box<dyn DiskFile>> {
    disk.open(path, OpenMode::Update)
}
