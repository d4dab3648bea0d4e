//! Where things are in a store, and whether a folder is one.
//!
//! The store is an [OCI image layout](https://github.com/opencontainers/image-spec/blob/v1.1.1/image-layout.md):
//! `oci-layout`, `index.json`, `blobs/<algorithm>/<hex>`. What only this crate needs is in one hidden
//! folder beside them, which other tools pass over.

use std::error::Error as _;
use std::io;
use std::path::Path;

use serde::Deserialize;

use crate::durable::{self, Access, Disk, FileKind, Flush, Metadata};
use crate::error::{Error, ErrorKind};
use crate::image::digest::Digest;
use crate::store::index::Index;
use crate::store::{limited, refused, repair};

pub(super) const LAYOUT: &str = "oci-layout";
pub(super) const INDEX: &str = "index.json";
pub(super) const BLOBS: &str = "blobs";
/// This crate's own folder.
pub(super) const OWN: &str = ".oci-puller";
/// Blobs on their way, one file a digest.
pub(super) const PARTIALS: &str = ".oci-puller/partial";
/// What stood under a digest's name and was not what the digest says.
pub(super) const DAMAGED: &str = ".oci-puller/damaged";
/// An `index.json` that was not written to its end.
pub(super) const LOST_INDEX: &str = ".oci-puller/index.json.lost";
/// Which blobs running pulls count on, one file a process.
pub(super) const LEASES: &str = ".oci-puller/leases";
/// Held by who rewrites the index.
pub(super) const INDEX_LOCK: &str = ".oci-puller/index.lock";
/// Shared by who begins to count on a blob, held alone by who removes blobs.
pub(super) const COLLECT_LOCK: &str = ".oci-puller/collect.lock";
const INDEX_TEMP: &str = ".oci-puller/index.json";
const LAYOUT_TEMP: &str = ".oci-puller/oci-layout";

pub(super) const LAYOUT_TEXT: &str = r#"{"imageLayoutVersion":"1.0.0"}"#;
pub(super) const EMPTY_INDEX: &str = r#"{"schemaVersion":2,"manifests":[]}"#;
/// The longest `oci-layout` that is read, bytes.
pub(super) const MAX_LAYOUT: u64 = 4096;
/// The longest `index.json` that is read, bytes: some 600,000 images.
pub(super) const MAX_INDEX: u64 = 256 << 20;

/// Where a blob stands.
pub(super) fn blob_path(digest: &Digest) -> String {
    format!("{BLOBS}/{}/{}", digest.algorithm().as_str(), digest.hex())
}

/// Where a blob's bytes gather until they are whole.
pub(super) fn partial_path(digest: &Digest) -> String {
    format!("{PARTIALS}/{}-{}", digest.algorithm().as_str(), digest.hex())
}

/// The digest that a file in a folder of blobs is named after.
pub(super) fn digest_in(folder: &str, name: &str) -> Option<Digest> {
    let algorithm = folder.rsplit_once('/').map_or(folder, |(_, algorithm)| algorithm);
    Digest::parse(&format!("{algorithm}:{name}")).ok()
}

/// Where a damaged blob is put aside.
pub(super) fn damaged_path(digest: &Digest) -> String {
    format!("{DAMAGED}/{}-{}", digest.algorithm().as_str(), digest.hex())
}

/// Writes a new `index.json` beside the one that stands. Answers what the file then is.
pub(super) fn write_new_index(disk: &dyn Disk, bytes: &[u8], flush: Flush) -> io::Result<Metadata> {
    durable::write_new(disk, INDEX_TEMP, bytes, flush)
}

/// Puts the new `index.json` in the old one's place; the folder is to be flushed.
pub(super) fn put_new_index(disk: &dyn Disk) -> io::Result<()> {
    durable::put_in_place(disk, INDEX_TEMP, INDEX)
}

/// Opens the layout in the disk's folder, or makes one if there is nothing in it.
pub(super) fn open_or_create(disk: &dyn Disk, dir: &Path, flush: Flush) -> Result<(), Error> {
    let failed = |error: io::Error| refused(&error, format!("open the store {}", dir.display()));
    match state_of(disk).map_err(failed)? {
        State::Layout => match check(disk, dir) {
            Err(_) if flush == Flush::Skip => {
                if let Err(error) = repair::after_power_cut(disk) {
                    log::warn!("{}: {error}", dir.display());
                }
                check(disk, dir)?;
            }
            checked => checked?,
        },
        State::Empty => create(disk, &first_index(disk)?, flush).map_err(failed)?,
        State::Foreign(name) => {
            let text = format!(
                "{} is no image layout: it has no {LAYOUT}, and is not empty ({name:?} is there)",
                dir.display()
            );
            return Err(Error::new(ErrorKind::InvalidConfig, text));
        }
    }
    match make_ready(disk, flush) {
        // A store that may only be read is still one to read from.
        Err(error) if is_read_only(&error) => Ok(()),
        outcome => outcome.map_err(failed),
    }
}

enum State {
    Layout,
    /// Nothing is there, or only what a creation that was cut short has left.
    Empty,
    /// Something is there that is not ours.
    Foreign(String),
}

fn state_of(disk: &dyn Disk) -> io::Result<State> {
    let names = disk.read_dir("")?;
    let has = |name: &str| names.iter().any(|found| found == name);
    if has(LAYOUT) {
        return Ok(State::Layout);
    }
    let is_begun = has(OWN);
    let is_ours = |name: &str| match name {
        // Every fresh ext file system has it.
        "lost+found" | OWN => true,
        INDEX | BLOBS => is_begun,
        _ => false,
    };
    Ok(match names.iter().find(|name| !is_ours(name)) {
        Some(name) => State::Foreign(name.clone()),
        None => State::Empty,
    })
}

/// Makes the layout's parts, `oci-layout` last: the folder is an image layout from then on, and until
/// then one that this crate has begun.
fn create(disk: &dyn Disk, index: &[u8], flush: Flush) -> io::Result<()> {
    durable::create_dirs(disk, OWN, flush)?;
    write_index(disk, index, flush)?;
    write_marker(disk, flush)
}

/// The index to begin with: it lists images if only the name of `oci-layout` was lost.
fn first_index(disk: &dyn Disk) -> Result<Vec<u8>, Error> {
    match read_index(disk) {
        Ok((index, _)) => Ok(index.print()),
        Err(error) if error.source().is_none() => Ok(EMPTY_INDEX.into()),
        Err(error) => Err(error),
    }
}

pub(super) fn write_index(disk: &dyn Disk, text: &[u8], flush: Flush) -> io::Result<()> {
    durable::replace(disk, INDEX, INDEX_TEMP, text, flush)
}

pub(super) fn write_marker(disk: &dyn Disk, flush: Flush) -> io::Result<()> {
    durable::replace(disk, LAYOUT, LAYOUT_TEMP, LAYOUT_TEXT.as_bytes(), flush)
}

/// Makes the folders of this crate, and what is there durable: another tool, or a process that was
/// killed, may not have flushed it.
fn make_ready(disk: &dyn Disk, flush: Flush) -> io::Result<()> {
    for folder in [PARTIALS, LEASES, DAMAGED, "blobs/sha256"] {
        durable::create_dirs(disk, folder, Flush::Skip)?;
    }
    if flush == Flush::Wait {
        flush_layout(disk)?;
        disk.sync_dir(BLOBS)?;
        disk.sync_dir("")?;
    }
    Ok(())
}

/// Flushes `oci-layout`. If that fails it is written anew: what failed once is not flushed again.
fn flush_layout(disk: &dyn Disk) -> io::Result<()> {
    let file = disk.open(LAYOUT, Access::Read)?;
    let text = limited(&*file, MAX_LAYOUT)?;
    match file.sync() {
        Ok(()) => Ok(()),
        Err(_) => durable::replace(disk, LAYOUT, LAYOUT_TEMP, &text, Flush::Wait),
    }
}

fn is_read_only(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied)
}

/// Whether what is there is a layout of a version that is known, with an index that can be read.
pub(super) fn check(disk: &dyn Disk, dir: &Path) -> Result<(), Error> {
    let wrong = |what: String| {
        Error::new(
            ErrorKind::InvalidConfig,
            format!("{} is no store that can be used: {what}", dir.display()),
        )
    };
    let failed = |error: io::Error| refused(&error, format!("read {}", dir.join(LAYOUT).display()));
    let file = disk.open(LAYOUT, Access::Read).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => wrong(format!("it has no {LAYOUT}")),
        _ => failed(error),
    })?;
    check_marker(&limited(&*file, MAX_LAYOUT).map_err(failed)?).map_err(wrong)?;
    read_index(disk).map(drop).map_err(|error| match error.source() {
        None => wrong(error.message().to_owned()),
        Some(_) => error,
    })
}

/// Whether `oci-layout` names a version that is known; if not, why.
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

/// Reads `index.json`, and what the file was. A layout without one has no images yet: some tools
/// write it with the first.
pub(super) fn read_index(disk: &dyn Disk) -> Result<(Index, Option<Metadata>), Error> {
    let failed = |error: io::Error| refused(&error, format!("read {INDEX}"));
    let file = match disk.open(INDEX, Access::Read) {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Ok((Index::parse(EMPTY_INDEX.as_bytes())?, None));
        }
        Err(error) => return Err(failed(error)),
    };
    let metadata = file.metadata().map_err(failed)?;
    let bytes = limited(&*file, MAX_INDEX).map_err(failed)?;
    Ok((Index::parse(&bytes)?, Some(metadata)))
}

/// The regular file at `path`; `None` if nothing is there.
pub(super) fn regular_file(disk: &dyn Disk, path: &str) -> io::Result<Option<Metadata>> {
    match disk.metadata(path) {
        Ok(metadata) if metadata.kind == FileKind::File => Ok(Some(metadata)),
        Ok(_) => Err(io::Error::new(io::ErrorKind::InvalidInput, "not a regular file")),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Opens a file to lock, and makes it if it is not there.
pub(super) fn open_lock(disk: &dyn Disk, path: &str) -> io::Result<Box<dyn durable::DiskFile>> {
    disk.open(path, Access::Update)
}
