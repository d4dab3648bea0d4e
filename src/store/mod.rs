//! Images on disk: an OCI image layout that any tool may read at any moment, and that power loss,
//! SIGKILL, a full disk or a second process cannot break.
//!
//! A blob's way: [`begin`](Store::begin) locks its digest, [`Ingest`] takes its bytes into a partial
//! file, and its commit compares size and hash. The file is then flushed, renamed to its digest, and
//! its folder flushed; `index.json` follows, by [`tag`](Store::tag), when all blobs are there. The
//! flushes of all who wait at the same moment are one ([`flusher`]). Where nothing is flushed, small blobs
//! take a shorter way ([`ingest::SMALL`]).

mod collect;
mod export;
mod flusher;
mod import;
mod index;
mod ingest;
mod layout;
mod lease;
mod partials;
mod pieces;
mod read;
mod repair;
mod space;
mod tar;
#[cfg(test)]
mod tests;
mod verify;
mod wait;

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use crate::context::PullContext;
use crate::durable::{Disk, DiskFile, Flush, RealDisk};
use crate::error::{Error, ErrorKind};
use crate::image::digest::Digest;
use crate::image::manifest::Descriptor;
use flusher::Flusher;
use index::Entry;
use ingest::Ingests;
use lease::Leases;
use read::Sizes;

pub use collect::{PrunePolicy, Removed};
pub(crate) use ingest::{Begun, Ingest, SMALL};
pub(crate) use lease::Lease;
pub(crate) use pieces::{Piece, Pieces};
pub use read::{Blob, StoredImage};
pub use space::StoreFsInfo;
pub use verify::VerifyReport;

/// Images on disk, in an OCI image layout. Cheap to clone; clones, other openings and other
/// processes may use the same folder at the same time.
#[derive(Clone, Debug)]
pub struct Store(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    dir: PathBuf,
    disk: Arc<dyn Disk>,
    settings: Settings,
    ingests: Arc<Ingests>,
    leases: Leases,
    flusher: Arc<Flusher>,
    sizes: Sizes,
}

/// What an answered pull outlives.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub enum Durability {
    /// Power loss: whatever was answered is on the disk. The default.
    #[default]
    Full,
    /// The end of the process, by SIGKILL too, but not of the machine: nothing is flushed. After a
    /// power cut images that were answered may be missing, and blobs may stand short or empty, or with
    /// wrong bytes, under their digests: run [`verify`](Store::verify) then. An `oci-layout` or `index.json`
    /// that was lost is written anew when the store is next opened like this; what was left of the index
    /// is kept as `.oci-puller/index.json.lost`. Costs no flushes.
    Relaxed,
}

#[derive(Clone, Copy, Debug)]
struct Settings {
    durability: Durability,
    keep_partials: Duration,
    partials_share: f64,
    reserve: Option<u64>,
    /// Whether flushes run on threads of their own; the simulated disk wants its steps in order.
    has_threads: bool,
}

impl Settings {
    fn flush(&self) -> Flush {
        match self.durability {
            Durability::Full => Flush::Wait,
            Durability::Relaxed => Flush::Skip,
        }
    }
}

/// How a [`Store`] is opened.
#[derive(Clone, Debug)]
pub struct StoreBuilder {
    dir: PathBuf,
    settings: Settings,
}

impl StoreBuilder {
    /// What an answered pull outlives. Default: power loss.
    #[must_use]
    pub fn durability(mut self, durability: Durability) -> Self {
        self.settings.durability = durability;
        self
    }

    /// How long the bytes of a broken download are kept to go on from. Default: 24 h.
    #[must_use]
    pub fn keep_partials(mut self, time: Duration) -> Self {
        self.settings.keep_partials = time;
        self
    }

    /// The share of the disk that such bytes may take, from 0 to 1; the oldest go first. Default: 0.1.
    #[must_use]
    pub fn partials_share(mut self, share: f64) -> Self {
        self.settings.partials_share = share;
        self
    }

    /// Bytes of the disk that a pull leaves free. Default: 64 MiB, or 1 % of the disk if that is less.
    #[must_use]
    pub fn reserve(mut self, bytes: u64) -> Self {
        self.settings.reserve = Some(bytes);
        self
    }

    /// Opens the store, or makes one in a folder that is empty or not there yet.
    ///
    /// # Errors
    /// `InvalidConfig` if the folder is a file, not empty and no image layout, of an unknown version,
    /// or if its index is broken, but see [`Durability::Relaxed`]; nothing was touched then. `Store` and
    /// `DiskFull` if the disk fails.
    pub fn open(self) -> Result<Store, Error> {
        if !(0.0..=1.0).contains(&self.settings.partials_share) {
            let text = format!("a share of the disk is from 0 to 1, not {}", self.settings.partials_share);
            return Err(Error::new(ErrorKind::InvalidConfig, text));
        }
        let disk = open_folder(&self.dir, self.settings.flush())?;
        Store::on(Arc::new(disk), self.dir, self.settings)
    }
}

/// The disk at `dir`, which is made if it is not there.
fn open_folder(dir: &Path, flush: Flush) -> Result<RealDisk, Error> {
    let failed = |error: io::Error| match error.kind() {
        io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
            Error::new(ErrorKind::InvalidConfig, format!("the store {} is no folder", dir.display()))
                .with_source(error)
        }
        _ => refused(&error, format!("open the store {}", dir.display())),
    };
    match RealDisk::open(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            make_folder(dir, flush).and_then(|()| RealDisk::open(dir)).map_err(failed)
        }
        outcome => outcome.map_err(failed),
    }
}

/// Makes `dir` and its parents, each durable in the one above it.
fn make_folder(dir: &Path, flush: Flush) -> io::Result<()> {
    let parent = match dir.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    match std::fs::create_dir(dir) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && parent != dir => {
            make_folder(parent, flush)?;
            std::fs::create_dir(dir)?;
        }
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists && dir.is_dir() => {}
        outcome => outcome?,
    }
    match flush {
        Flush::Wait => RealDisk::open(parent)?.sync_dir(""),
        Flush::Skip => Ok(()),
    }
}

/// What else is known of an image that gets a name.
#[derive(Clone, Debug, Default)]
pub(crate) struct Naming {
    /// The image's id: its config's digest.
    pub(crate) id: Option<Digest>,
    /// `repository@digest` of the manifest, or of the index that it was chosen from.
    pub(crate) repo_digest: Option<String>,
    /// Manifest, config and layers, bytes: what is likely to be asked for next.
    pub(crate) size: Option<u64>,
}

impl Store {
    /// Opens the store in `dir` with the defaults, or makes one there.
    ///
    /// # Errors
    /// As of [`StoreBuilder::open`].
    pub fn open(dir: impl AsRef<Path>) -> Result<Store, Error> {
        Store::builder(dir.as_ref()).open()
    }

    /// A store in `dir`, with settings.
    pub fn builder(dir: impl Into<PathBuf>) -> StoreBuilder {
        StoreBuilder {
            dir: dir.into(),
            settings: Settings {
                durability: Durability::Full,
                keep_partials: Duration::from_secs(24 * 60 * 60),
                partials_share: 0.1,
                reserve: None,
                has_threads: true,
            },
        }
    }

    fn on(disk: Arc<dyn Disk>, dir: PathBuf, settings: Settings) -> Result<Store, Error> {
        layout::open_or_create(&*disk, &dir, settings.flush())?;
        let leases = Leases::new(disk.clone());
        let store = Store(Arc::new(Inner {
            ingests: Arc::default(),
            sizes: Sizes::default(),
            flusher: Flusher::new(disk.clone(), settings.flush(), leases.in_flight(), settings.has_threads),
            leases,
            dir,
            disk,
            settings,
        }));
        if let Err(error) = store.sweep_partials() {
            log::warn!("what broken downloads left in {} was not swept: {error}", store.dir().display());
        }
        Ok(store)
    }

    /// The store's folder.
    pub fn dir(&self) -> &Path {
        &self.0.dir
    }

    /// A lease for one pull: what it counts on is not removed while it lives.
    pub(crate) fn lease(&self) -> Lease {
        self.0.leases.lease()
    }

    /// Counts on all these blobs at once, as [`begin`](Self::begin) does on each.
    ///
    /// # Errors
    /// `Cancelled`, `Timeout`, `Store`, `DiskFull`, `ResourceExhausted`.
    pub(crate) fn count_on(&self, cx: &PullContext, lease: &Lease, digests: &[&Digest]) -> Result<(), Error> {
        self.0.leases.count_on(cx, lease, digests)
    }

    /// Stores a manifest or an index whose bytes are at hand, or notes that it is used again.
    ///
    /// # Errors
    /// As of [`begin`](Self::begin) and [`Ingest::commit`].
    pub(crate) fn put(
        &self,
        cx: &PullContext,
        lease: &Lease,
        blob: &Descriptor,
        bytes: &[u8],
    ) -> Result<(), Error> {
        match self.begin(cx, lease, blob)? {
            Begun::Present => {
                self.touch(&blob.digest);
                Ok(())
            }
            Begun::Fetch(mut ingest) => {
                ingest.restart()?;
                ingest.write(bytes)?;
                ingest.commit()
            }
        }
    }

    /// Gives the image at `manifest` its `names`, and returns when its blobs and the index are as
    /// durable as the store is set to make them.
    ///
    /// The index points at the manifest that was chosen for this platform, also where the name stands
    /// for an image index of which only one platform was fetched: tools that read the layout follow
    /// the descriptor and would miss the others' blobs. The index's own digest is kept beside it, in
    /// `naming`.
    ///
    /// # Errors
    /// `Cancelled`, `Timeout`: the change may yet be made. `Store`, `DiskFull`.
    pub(crate) fn tag(
        &self,
        cx: &PullContext,
        lease: &Lease,
        names: &[String],
        manifest: &Descriptor,
        naming: &Naming,
    ) -> Result<(), Error> {
        let (id, repo_digest) = (naming.id.as_ref(), naming.repo_digest.as_deref());
        let entries: Vec<_> =
            names.iter().map(|name| Entry::new(Some(name.as_str()), manifest, id, repo_digest)).collect();
        self.0.flusher.change(cx, lease.awaited(), move |index| {
            entries.into_iter().fold(false, |changed, entry| index.put(entry) | changed)
        })?;
        self.0.sizes.note(&manifest.digest, naming.size);
        Ok(())
    }

    /// Notes that the image was used now; what orders images in [`prune`](Self::prune).
    fn touch(&self, manifest: &Digest) {
        if let Err(error) = self.0.disk.touch(&layout::blob_path(manifest)) {
            log::debug!("the use of {manifest} was not noted: {error}");
        }
    }
}

/// The error of an operation that the disk refused.
fn refused(error: &io::Error, doing: impl std::fmt::Display) -> Error {
    let kind = match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => ErrorKind::DiskFull,
        _ if wait::is_out_of_files(error) => ErrorKind::ResourceExhausted,
        _ => ErrorKind::Store,
    };
    // The error is no longer whole: `io::Error` cannot be cloned.
    let source = match error.raw_os_error() {
        Some(code) => io::Error::from_raw_os_error(code),
        None => io::Error::new(error.kind(), error.to_string()),
    };
    Error::new(kind, format!("cannot {doing}: {error}")).with_source(source)
}

/// The file's bytes, if they are not more than `limit`.
fn limited(file: &dyn DiskFile, limit: u64) -> io::Result<Vec<u8>> {
    let len = file.metadata()?.len;
    if len > limit {
        let text = format!("{len} bytes, and more than {limit} are not read");
        return Err(io::Error::new(io::ErrorKind::InvalidData, text));
    }
    let mut bytes = vec![0; usize::try_from(len).unwrap_or(usize::MAX)];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, filled as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => filled += read,
        }
    }
    Ok(bytes)
}
