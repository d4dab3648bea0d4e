//! Hashing everything that is there.

use std::collections::HashSet;

use crate::context::PullContext;
use crate::durable::FileType;
use crate::error::{Error, ErrorKind};
use crate::image::digest::Digest;
use crate::store::error::refused;
use crate::store::handle::Store;
use crate::store::layout::{self, blob_path};

/// What [`Store::verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Blobs that are what their digests say.
    pub sound: usize,
    /// Their bytes.
    pub bytes: u64,
    /// Blobs that were not; they were moved aside, and a pull fetches them again.
    pub damaged: Vec<Digest>,
    /// Images that lack blobs, by their manifest's digest, with the blobs that they lack.
    pub incomplete: Vec<(Digest, Vec<Digest>)>,
}

impl VerifyReport {
    /// Whether all is as it should be.
    pub fn is_sound(&self) -> bool {
        self.damaged.is_empty() && self.incomplete.is_empty()
    }
}

impl Store {
    /// Hashes every blob, and moves aside what does not match its name, is short, or is no regular
    /// file. The next pull fetches it again.
    ///
    /// # Errors
    /// `Cancelled`, `Timeout`; `Store` if the disk cannot be read.
    pub fn verify(&self, cx: &PullContext) -> Result<VerifyReport, Error> {
        let mut report = VerifyReport::default();
        for folder in self.blob_folders()? {
            for name in self.names_in(&folder)? {
                cx.check()?;
                if let Some(digest) = layout::digest_in(&folder, &name) {
                    self.verify_blob(cx, &digest, &mut report)?;
                }
            }
        }
        report.incomplete = self.incomplete()?;
        Ok(report)
    }

    fn verify_blob(&self, cx: &PullContext, digest: &Digest, report: &mut VerifyReport) -> Result<(), Error> {
        let metadata = match self.0.disk.metadata(&blob_path(digest)) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(refused(&error, format!("look at {digest}"))),
        };
        let is_sound = match metadata.kind {
            FileType::File => match self.is_sound(cx, digest) {
                // Removed since it was listed.
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                outcome => outcome?,
            },
            FileType::Dir | FileType::Other => false,
        };
        if is_sound {
            report.sound += 1;
            report.bytes += metadata.len;
        } else {
            self.move_aside(digest)?;
            report.damaged.push(digest.clone());
        }
        Ok(())
    }

    /// The images that the index lists and that are not whole.
    fn incomplete(&self) -> Result<Vec<(Digest, Vec<Digest>)>, Error> {
        let index = self.0.group_commit.index()?;
        let mut seen = HashSet::new();
        let mut incomplete = Vec::new();
        for digest in index.entries().filter_map(|entry| entry.digest.as_ref()) {
            if seen.insert(digest) {
                let lacking = self.lacking(digest);
                if !lacking.is_empty() {
                    incomplete.push((digest.clone(), lacking));
                }
            }
        }
        // What was removed meanwhile lacks nothing.
        let index = self.0.group_commit.index()?;
        let listed: HashSet<_> = index.entries().filter_map(|entry| entry.digest.as_ref()).collect();
        incomplete.retain(|(digest, _)| listed.contains(digest));
        Ok(incomplete)
    }

    /// What an image lacks: its manifest, or blobs that this names with another size than they have.
    fn lacking(&self, digest: &Digest) -> Vec<Digest> {
        match self.manifest(digest) {
            Ok(manifest) => {
                let is_there = |digest: &Digest, size| matches!(layout::regular_file(&*self.0.disk, &blob_path(digest)), Ok(Some(found)) if found.len == size);
                let blobs = manifest.blobs().into_iter();
                blobs
                    .filter(|blob| !is_there(&blob.digest, blob.size))
                    .map(|blob| blob.digest.clone())
                    .collect()
            }
            Err(error) if error.kind() == ErrorKind::NotFound => vec![digest.clone()],
            // An index, or something that is no image: what it names may be elsewhere.
            Err(_) => Vec::new(),
        }
    }
}
