//! All layers in one folder.
//!
//! A folder that is being filled has the file `.oci-puller-unfinished` in it, which is locked by the process
//! that fills it. It is made, and flushed, before anything else, and removed after all else is
//! flushed. So a folder that has it is never whole, and one that has not was never begun, or is whole.

use std::fs::File;
use std::io::{self, BufWriter};
use std::os::fd::OwnedFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustix::fs::{AtFlags, FlockOperation, Mode, OFlags};
use rustix::io::Errno;

use crate::error::{Error, ErrorKind};
use crate::unpack::beneath;
use crate::unpack::change::XattrList;
use crate::unpack::fault::{UnpackFault, disk_kind};
use crate::unpack::finish_dirs::finish_dirs;
use crate::unpack::flush::Flusher;
use crate::unpack::folder::{Folder, StagedFile};
use crate::unpack::output::{Body, Content, Output, View, Written, XattrsByNode};
use crate::unpack::path::UNFINISHED;
use crate::unpack::record;
use crate::unpack::remove::{self, names_in};
use crate::unpack::rules::Rules;
use crate::unpack::tree::{Meta, NodeId, NodeKind, ROOT, Tree};

/// The folder that takes all layers.
pub(super) struct DirOutput {
    folder: Folder,
    path: PathBuf,
    /// Locked as long as this lives.
    _marker: File,
    flusher: Flusher,
    rules: Arc<Rules>,
}

impl DirOutput {
    /// Makes the folder if it is not there, and marks it as unfinished.
    ///
    /// # Errors
    /// `InvalidConfig` if it is not empty and not marked, is no folder, or is being filled already; `Store`,
    /// `DiskFull`.
    pub(super) fn open(path: &Path, rules: Arc<Rules>, flusher: Flusher) -> Result<Self, Error> {
        let at_path = |fault: UnpackFault| fault.at(&path.display().to_string(), None);
        let root = open_or_create(path, &flusher)?;
        let marker = mark(path, &root)?;
        remove::clear(&root, Some(UNFINISHED)).map_err(at_path)?;
        flusher.flush_dir(&root).map_err(at_path)?;
        let folder = Folder::new(root, rules.clone()).map_err(at_path)?;
        Ok(DirOutput { folder, path: path.to_owned(), _marker: marker, flusher, rules })
    }

    /// Ends the folder: it is whole when this returns.
    pub(super) fn finish(&self, view: &View<'_>) -> Result<(), Error> {
        let at_path = |fault: UnpackFault| fault.at(&self.path.display().to_string(), None);
        self.finish_inside(view).map_err(at_path)
    }

    fn finish_inside(&self, view: &View<'_>) -> Result<(), UnpackFault> {
        self.folder.remove_staging()?;
        let mut unset = finish_dirs(&self.folder, view, |id| id != ROOT)?;
        self.flusher.flush_each(&self.folder, view)?;
        self.flusher.flush_all(self.folder.root())?;
        // From here on others can look into it.
        unset.extend(finish_dirs(&self.folder, view, |id| id == ROOT)?);
        let root = self.folder.root();
        self.flusher.flush_dir(root)?;
        if let Some(path) = self.rules.record() {
            self.write_record(path, view, unset)?;
        }
        rustix::fs::unlinkat(root, UNFINISHED, AtFlags::empty())
            .map_err(|error| UnpackFault::disk("remove the marker of an unfinished folder", error))?;
        // Removing the marker has changed its time.
        self.folder.set_root_time(view.tree)?;
        self.flusher.flush_dir(root)
    }

    /// Writes down what the disk could not take.
    fn write_record(&self, path: &Path, view: &View<'_>, mut unset: XattrsByNode) -> Result<(), UnpackFault> {
        let failed = |error: io::Error| UnpackFault::disk(&format!("write {}", path.display()), error);
        let is_file = |id: &NodeId| view.tree.kind(*id) == NodeKind::File;
        unset.extend(view.xattrs.iter().filter(|(id, _)| is_file(id)).map(|(id, list)| (*id, list.clone())));
        let mut options = File::options();
        options.write(true).create(true).truncate(true).mode(0o600);
        let mut file = BufWriter::new(options.open(path).map_err(failed)?);
        record::write_rest(&mut file, view, self.folder.owner(), &unset)?;
        let file = file.into_inner().map_err(|error| failed(error.into_error()))?;
        self.flusher.flush_dir(&file.into())
    }
}

/// Opens the folder, or makes it and its parents, which no other user can enter.
fn open_or_create(path: &Path, flusher: &Flusher) -> Result<OwnedFd, Error> {
    let flags = beneath::DIR | OFlags::CLOEXEC;
    match rustix::fs::open(path, flags, Mode::empty()) {
        Ok(root) => return Ok(root),
        Err(Errno::NOENT) => {}
        Err(error) => return Err(cannot_open(path, error)),
    }
    flusher.make_dirs(path).map_err(|error| cannot_open(path, error))?;
    rustix::fs::open(path, flags, Mode::empty()).map_err(|error| cannot_open(path, error))
}

fn cannot_open(path: &Path, error: Errno) -> Error {
    let kind = match error {
        Errno::NOTDIR | Errno::LOOP | Errno::EXIST => ErrorKind::InvalidConfig,
        _ => disk_kind(&error.into()),
    };
    let text = format!("cannot open the folder {}: {error}", path.display());
    Error::new(kind, text).with_source(io::Error::from(error))
}

/// Makes and locks the marker; the folder must be empty, or have it already.
fn mark(path: &Path, root: &OwnedFd) -> Result<File, Error> {
    let refused = |why: &str| Error::new(ErrorKind::InvalidConfig, format!("{} {why}", path.display()));
    let failed = |error: Errno| {
        UnpackFault::disk("mark the folder as unfinished", error).at(&path.display().to_string(), None)
    };
    let names = names_in(root).map_err(failed)?;
    if !names.is_empty() && !names.iter().any(|name| name.as_slice() == UNFINISHED.as_bytes()) {
        return Err(refused("is not empty: an image is unpacked into an empty folder, or a new one"));
    }
    let flags = OFlags::RDWR | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
    let marker = match rustix::fs::openat(root, UNFINISHED, flags, Mode::RUSR | Mode::WUSR) {
        Err(Errno::LOOP | Errno::NXIO | Errno::ISDIR) => {
            return Err(refused("has a marker of an unfinished image that is no file"));
        }
        marker => File::from(marker.map_err(failed)?),
    };
    match rustix::fs::flock(&marker, FlockOperation::NonBlockingLockExclusive) {
        Ok(()) => Ok(marker),
        Err(Errno::WOULDBLOCK) => Err(refused("is being unpacked into by another process or thread")),
        Err(error) => Err(failed(error)),
    }
}

impl Output for DirOutput {
    type Staged = StagedFile;

    fn folder_of(&self, _: u16) -> u16 {
        1
    }

    fn stage(
        &self,
        _: u16,
        meta: &Meta,
        xattrs: &XattrList,
        body: Body<'_>,
    ) -> Result<StagedFile, UnpackFault> {
        self.folder.stage(meta, xattrs, body)
    }

    fn add_dir(&self, tree: &Tree, _: u16, id: NodeId) -> Result<(), UnpackFault> {
        self.folder.add_dir(tree, id)
    }

    fn add_file(
        &self,
        tree: &Tree,
        _: u16,
        id: NodeId,
        xattrs: &XattrList,
        content: Content<'_, StagedFile>,
    ) -> Result<Written, UnpackFault> {
        self.folder.add_file(tree, id, xattrs, content)
    }

    fn add_symlink(&self, tree: &Tree, _: u16, id: NodeId) -> Result<(), UnpackFault> {
        self.folder.add_symlink(tree, id)
    }

    fn add_special(&self, tree: &Tree, _: u16, id: NodeId) -> Result<bool, UnpackFault> {
        self.folder.add_special(tree, id)
    }

    fn add_link(&self, tree: &Tree, _: u16, id: NodeId, existing: NodeId) -> Result<(), UnpackFault> {
        self.folder.add_link(tree, id, existing)
    }

    fn remove(&self, tree: &Tree, _: u16, id: NodeId) -> Result<(), UnpackFault> {
        self.folder.remove(tree, id)
    }
}
