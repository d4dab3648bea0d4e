//! Records of the credentials that images were pulled with:
//! [KEP-2535](https://github.com/kubernetes/enhancements/tree/master/keps/sig-node/2535-ensure-secret-pulled-images).
//!
//! ```text
//! pulling/IMAGE-NUMBER        a pull of the image has begun and not ended
//! pulled/REF-WHO-NUMBER       a pull that gave this image id succeeded with these credentials
//! lock                        held by the one manager that uses the folder
//! ```
//!
//! IMAGE, REF and WHO are hashes, so that the name of a file that cannot be read still tells its subject:
//! such an image was pulled with unknown credentials. No file is written twice. A file in `pulling`
//! is durable before the pull begins, and is removed after the one in `pulled` is durable: a power cut costs
//! at most the record of a pull, which is then pulled again.

mod grant;
mod index;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::fs::DirBuilder;
use std::io;
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};

use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use self::grant::Grant;
use self::index::{FileName, RecordIndex};
use super::credential_hash::{SecretMark, hash};
use crate::durable::{Disk, DiskFile, Flush, Lock, OpenMode, RealDisk, create_dirs, replace};
use crate::image::reference::Reference;
use crate::service::ImageRef;

const PULLING: &str = "pulling";
const PULLED: &str = "pulled";
const LOCK: &str = "lock";
/// The prefix of a file's name while it is written.
const TEMP: &str = "tmp-";

/// The largest record that is read, bytes. A record has some hundred bytes for each secret.
const MAX_RECORD: u64 = 1 << 20;

#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Pulling {
    image: String,
}

/// The record of a pull that has begun.
#[derive(Debug)]
#[must_use]
pub(super) struct PullRecord {
    file: FileName,
}

/// The records, in memory and on disk. Questions are answered from memory.
#[derive(Debug)]
pub(super) struct Records {
    disk: Box<dyn Disk>,
    index: Mutex<RecordIndex>,
    next_number: AtomicU64,
    /// Keeps a second manager out: each would not see the other's pulls in its memory.
    _lock: Box<dyn DiskFile>,
}

impl Records {
    /// Opens the records in `dir`, which is created if needed.
    pub(super) fn open(dir: &Path) -> io::Result<Self> {
        DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        Self::on(Box::new(RealDisk::open(dir)?))
    }

    fn on(disk: Box<dyn Disk>) -> io::Result<Self> {
        let lock = disk.open(LOCK, OpenMode::Update)?;
        if !lock.try_lock(Lock::Exclusive)? {
            return Err(io::Error::other("another image manager has it"));
        }
        for dir in [PULLING, PULLED] {
            create_dirs(&*disk, dir, Flush::Wait)?;
        }
        for leftover in disk.read_dir("")?.iter().filter(|name| name.starts_with(TEMP)) {
            disk.unlink(leftover)?;
        }
        let mut index = RecordIndex::default();
        for name in disk.read_dir(PULLING)? {
            index.add_leftover(&name);
        }
        for name in disk.read_dir(PULLED)? {
            let grant = read_json(&*disk, &format!("{PULLED}/{name}"));
            index.add_found(&name, grant.inspect_err(|why| log::warn!("{PULLED}/{name}: {why}")).ok());
        }
        let records = Records {
            next_number: AtomicU64::new(index.next_number()),
            disk,
            index: Mutex::new(index),
            _lock: lock,
        };
        records.check_writable()?;
        Ok(records)
    }

    fn check_writable(&self) -> io::Result<()> {
        let probe = format!("{TEMP}{}", self.number());
        self.disk.open(&probe, OpenMode::Update)?;
        self.disk.unlink(&probe)
    }

    /// Returns the pulls that an earlier process began and did not end, by their images.
    pub(super) fn left_over(&self) -> Vec<(String, PullRecord)> {
        let files = self.index.lock().leftovers();
        let read = files.into_iter().filter_map(|file| {
            let pulling: Pulling = read_json(&*self.disk, &file.path(PULLING)).ok()?;
            Some((pulling.image, PullRecord { file }))
        });
        read.collect()
    }

    /// Records that a pull of `image` begins. No pull may begin without it.
    pub(super) fn begin(&self, image: &str) -> io::Result<PullRecord> {
        let file = FileName::new(&hash(image.as_bytes()), self.number());
        self.index.lock().add_pulling(&file);
        let written = self.write(&file.path(PULLING), &Pulling { image: image.to_owned() });
        if let Err(error) = written {
            self.index.lock().remove_pulling(&file);
            return Err(error);
        }
        Ok(PullRecord { file })
    }

    /// Records that the pull brought this image with these secrets; without any, every request may use it.
    pub(super) fn succeeded(
        &self,
        begun: PullRecord,
        image_ref: &ImageRef,
        image: &Reference,
        secrets: Vec<SecretMark>,
    ) -> io::Result<()> {
        self.grant(Grant {
            image_ref: image_ref.as_str().to_owned(),
            repository: image.name().to_owned(),
            everyone: secrets.is_empty(),
            secrets,
        })?;
        let ended = self.index.lock().take_ended(&begun.file);
        self.unlink_all(PULLING, &ended);
        Ok(())
    }

    /// Records that the image was pulled with unknown credentials.
    pub(super) fn adopt(&self, begun: PullRecord, image_ref: &ImageRef, image: &Reference) -> io::Result<()> {
        self.grant(Grant {
            image_ref: image_ref.as_str().to_owned(),
            repository: image.name().to_owned(),
            everyone: false,
            secrets: Vec::new(),
        })?;
        self.failed(begun);
        Ok(())
    }

    /// Removes the record of a pull that failed.
    pub(super) fn failed(&self, begun: PullRecord) {
        self.index.lock().remove_pulling(&begun.file);
        self.unlink_all(PULLING, &[begun.file]);
    }

    /// Returns whether this manager pulled the image, or may have.
    pub(super) fn was_pulled(&self, image_ref: &ImageRef, typed: &str) -> bool {
        let (image_ref, image) = (hash(image_ref.as_str().as_bytes()), hash(typed.as_bytes()));
        self.index.lock().is_known(&image_ref, &image)
    }

    /// Returns whether a request with these secrets could have pulled the image.
    pub(super) fn may_use(&self, image_ref: &ImageRef, image: &Reference, secrets: &[SecretMark]) -> bool {
        let grants = self.index.lock().grants(&hash(image_ref.as_str().as_bytes()));
        grants
            .iter()
            .any(|grant| grant.image_ref == image_ref.as_str() && grant.holds_for(image.name(), secrets))
    }

    /// Returns a mark: [`prune`](Self::prune) removes no record that is made after it.
    pub(super) fn mark(&self) -> u64 {
        self.number()
    }

    /// Removes the records of images that are no longer there, except those made after `mark`. Returns
    /// their number.
    pub(super) fn prune(&self, there: &HashSet<ImageRef>, mark: u64) -> usize {
        let keep = there.iter().map(|image_ref| hash(image_ref.as_str().as_bytes())).collect();
        let gone = self.index.lock().take_unknown(&keep, mark);
        self.unlink_all(PULLED, &gone);
        gone.len()
    }

    fn grant(&self, grant: Grant) -> io::Result<()> {
        let file =
            FileName::new(&format!("{}-{}", hash(grant.image_ref.as_bytes()), grant.who()), self.number());
        if self.index.lock().has(&file, &grant) {
            return Ok(());
        }
        self.write(&file.path(PULLED), &grant)?;
        let replaced = self.index.lock().add_grant(file, grant);
        self.unlink_all(PULLED, &replaced);
        Ok(())
    }

    fn write(&self, path: &str, record: &impl Serialize) -> io::Result<()> {
        let temp = format!("{TEMP}{}", self.number());
        replace(&*self.disk, path, &temp, &serde_json::to_vec(record)?, Flush::Wait).map(drop)
    }

    /// Removes the files. A file that stays costs at most another pull.
    fn unlink_all(&self, dir: &str, files: &[FileName]) {
        for file in files {
            let path = file.path(dir);
            if let Err(error) = self.disk.unlink(&path) {
                log::warn!("the record {path} could not be removed: {error}");
            }
        }
    }

    fn number(&self) -> u64 {
        self.next_number.fetch_add(1, Ordering::Relaxed)
    }
}

fn read_json<T: for<'de> Deserialize<'de>>(disk: &dyn Disk, path: &str) -> io::Result<T> {
    let file = disk.open(path, OpenMode::Read)?;
    let len = file.metadata()?.len;
    if len > MAX_RECORD {
        return Err(io::Error::other("it is too large for a record"));
    }
    let mut bytes = vec![0; len as usize];
    let mut filled = 0;
    while let Some(rest) = bytes.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, filled as u64)? {
            0 => return Err(io::ErrorKind::UnexpectedEof.into()),
            read => filled += read,
        }
    }
    Ok(serde_json::from_slice(&bytes)?)
}
