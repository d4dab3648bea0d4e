//! Checks the whole store: hashes every blob, and follows every name to the blobs that it needs.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::io;

use crate::context::PullContext;
use crate::durable::FileType;
use crate::error::{Error, ErrorKind};
use crate::image::digest::{Digest, Hasher};
use crate::image::manifest::{Descriptor, Document, MAX_INDEX_DEPTH, media_type};
use crate::store::error::refused;
use crate::store::handle::Store;
use crate::store::index::IndexEntry;
use crate::store::layout::{self, blob_path};
use crate::store::retry_io;

/// How much of a linked file is read at once, bytes.
const READ: usize = 128 << 10;

/// What [`Store::verify`] found.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct VerifyReport {
    /// Number of blobs that match their digests.
    pub sound: usize,
    /// Their size, bytes.
    pub bytes: u64,
    /// Blobs that do not match their digests. They were moved aside, where this user may do that, and a
    /// pull fetches them again.
    pub damaged: Vec<Digest>,
    /// Blobs that match their digests and are symbolic links, as other tools write them. They are left
    /// in place; this crate reads no blob through a link.
    pub links: Vec<Digest>,
    /// Manifests and indexes that a name leads to and that lack blobs, each with the blobs that are
    /// missing or have another size. A manifest that is itself missing lacks itself.
    pub incomplete: Vec<(Digest, Vec<Digest>)>,
    /// Number of manifests of image indexes that an import left out, by platform or because the archive
    /// did not have them. They are not missing.
    pub left_out: usize,
}

impl VerifyReport {
    /// Returns whether nothing is damaged or missing.
    pub fn is_sound(&self) -> bool {
        self.damaged.is_empty() && self.incomplete.is_empty()
    }
}

impl Store {
    /// Hashes every blob, moves aside those that do not match their digests, and reports what the images
    /// lack, each time until a pull or an import has mended it.
    ///
    /// # Errors
    /// [`Cancelled`](ErrorKind::Cancelled), [`Timeout`](ErrorKind::Timeout); [`Store`](ErrorKind::Store) if the disk
    /// cannot be read.
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
        self.verify_images(cx, &mut report)?;
        Ok(report)
    }

    fn verify_blob(&self, cx: &PullContext, digest: &Digest, report: &mut VerifyReport) -> Result<(), Error> {
        let metadata = match self.0.disk.metadata(&blob_path(digest)) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
            Err(error) => return Err(refused(&error, format!("look at {digest}"))),
        };
        let (is_sound, len) = match metadata.kind {
            FileType::File => match self.is_sound(cx, digest) {
                // It was removed since it was listed.
                Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
                outcome => (outcome?, metadata.len),
            },
            FileType::Other => match self.linked_len(cx, digest)? {
                Some(len) => {
                    report.links.push(digest.clone());
                    (true, len)
                }
                None => (false, 0),
            },
            FileType::Dir => (false, 0),
        };
        if is_sound {
            report.sound += 1;
            report.bytes += len;
            return Ok(());
        }
        if let Err(error) = self.move_aside(digest) {
            log::warn!("{error}");
        }
        report.damaged.push(digest.clone());
        Ok(())
    }

    /// Returns the size of the file that a link in place of a blob leads to, if it has the blob's bytes.
    fn linked_len(&self, cx: &PullContext, digest: &Digest) -> Result<Option<u64>, Error> {
        let path = blob_path(digest);
        let open = || match self.0.disk.open_target(&path) {
            Err(error) if is_no_file(&error) => Ok(None),
            outcome => outcome.map(Some),
        };
        let doing = format!("open {path}");
        let Some(file) = retry_io::for_files(cx, &doing, open)? else { return Ok(None) };
        let (mut hasher, mut offset) = (Hasher::new(digest.algorithm()), 0);
        let mut buffer = vec![0; READ];
        loop {
            cx.check()?;
            let read = file.read_at(&mut buffer, offset).map_err(|error| refused(&error, &doing))?;
            match buffer.get(..read) {
                None | Some([]) => break,
                Some(bytes) => hasher.update(bytes),
            }
            offset += read as u64;
        }
        Ok((hasher.finish() == *digest).then_some(offset))
    }

    /// Follows every entry of the index.
    fn verify_images(&self, cx: &PullContext, report: &mut VerifyReport) -> Result<(), Error> {
        let index = self.0.group_commit.index()?;
        let links = report.links.iter().collect();
        let mut walk = Walk { store: self, cx, links, known: HashMap::new() };
        // Thousands of names may stand for an index of thousands.
        let mut same: HashMap<_, Vec<&IndexEntry>> = HashMap::new();
        for entry in index.entries() {
            let IndexEntry { digest, size, media_type, taken, .. } = entry;
            same.entry((digest, size, media_type, taken, entry.pulled_index())).or_default().push(entry);
        }
        let mut found = Vec::new();
        for entries in same.into_values() {
            let Some(first) = entries.first() else { continue };
            let of_entry = walk.entry(first)?;
            found.push((entries, of_entry));
        }
        // An entry that was removed meanwhile lacks nothing.
        let index = self.0.group_commit.index()?;
        let listed: HashSet<&str> = index.entries().map(IndexEntry::text).collect();
        found.retain(|(entries, _)| entries.iter().any(|entry| listed.contains(entry.text())));
        let mut incomplete = BTreeMap::<Digest, BTreeSet<Digest>>::new();
        let mut left_out = BTreeSet::new();
        for (_, of_entry) in found {
            for (digest, lacking) in of_entry.incomplete {
                incomplete.entry(digest).or_default().extend(lacking);
            }
            left_out.extend(of_entry.left_out);
        }
        report.incomplete =
            incomplete.into_iter().map(|(digest, lacking)| (digest, lacking.into_iter().collect())).collect();
        report.left_out = left_out.len();
        Ok(())
    }
}

/// Returns whether a link leads to nothing, or to what is no regular file.
fn is_no_file(error: &io::Error) -> bool {
    let is_loop = error.raw_os_error() == Some(rustix::io::Errno::LOOP.raw_os_error());
    is_loop
        || matches!(
            error.kind(),
            io::ErrorKind::NotFound | io::ErrorKind::InvalidInput | io::ErrorKind::NotADirectory
        )
}

/// A walk over the documents that names lead to.
struct Walk<'a> {
    store: &'a Store,
    cx: &'a PullContext,
    /// Blobs that are intact behind links.
    links: HashSet<&'a Digest>,
    /// What a document names, and whether it is an index; `None` if it is missing.
    known: HashMap<Digest, Option<NamedBlobs>>,
}

#[derive(Clone)]
struct NamedBlobs {
    is_index: bool,
    blobs: Vec<Descriptor>,
}

/// What was found of one entry.
#[derive(Default)]
struct OfEntry {
    incomplete: Vec<(Digest, Vec<Digest>)>,
    left_out: BTreeSet<Digest>,
}

impl Walk<'_> {
    fn entry(&mut self, entry: &IndexEntry) -> Result<OfEntry, Error> {
        let mut found = OfEntry::default();
        let Some(digest) = &entry.digest else { return Ok(found) };
        let taken: Option<HashSet<&Digest>> = entry.taken.as_ref().map(|taken| taken.iter().collect());
        // Lookups by the digest that was pulled need the index that has it.
        if let Some(pulled) =
            entry.pulled_index().filter(|pulled| pulled != digest && !self.is_there(pulled, None))
        {
            found.incomplete.push((digest.clone(), vec![pulled]));
        }
        if let Some(signatures) = entry.signatures.clone().filter(|it| !self.is_there(it, None)) {
            found.incomplete.push((digest.clone(), vec![signatures]));
        }
        let root = Descriptor::new(entry.media_type.clone(), digest.clone(), entry.size);
        let mut ahead = vec![(root, 0)];
        let mut seen = HashSet::new();
        while let Some((document, depth)) = ahead.pop() {
            if !seen.insert(document.digest.clone()) {
                continue;
            }
            self.cx.check()?;
            // Other tools may list an image without its size.
            let size = (depth > 0 || document.size > 0).then_some(document.size);
            let is_there = self.is_there(&document.digest, size);
            let named = if is_there { self.named_by(&document)? } else { None };
            if !is_there {
                found.incomplete.push((document.digest.clone(), vec![document.digest]));
                continue;
            }
            let Some(NamedBlobs { is_index, blobs }) = named else { continue };
            let mut lacking = Vec::new();
            for blob in blobs {
                let is_document = media_type::is_manifest(&blob.media_type)
                    || media_type::is_index(&blob.media_type)
                    || (is_index && blob.media_type.is_empty());
                // An import records the manifests that it took. Of an index between, and of what is no
                // image, it took what the archive had.
                let is_left_out = match &taken {
                    Some(taken) if is_index && media_type::is_manifest(&blob.media_type) => {
                        !taken.contains(&blob.digest)
                    }
                    Some(_) if is_index => !self.is_there(&blob.digest, None),
                    _ => false,
                };
                if is_left_out {
                    found.left_out.insert(blob.digest);
                } else if is_index && is_document && depth < MAX_INDEX_DEPTH {
                    ahead.push((blob, depth + 1));
                } else if !self.is_there(&blob.digest, Some(blob.size)) {
                    lacking.push(blob.digest);
                }
            }
            if !lacking.is_empty() {
                found.incomplete.push((document.digest, lacking));
            }
        }
        Ok(found)
    }

    /// Returns what a document that is there names; `None` for content that is no manifest and no index.
    fn named_by(&mut self, document: &Descriptor) -> Result<Option<NamedBlobs>, Error> {
        let media_type = &document.media_type;
        if !(media_type.is_empty() || media_type::is_manifest(media_type) || media_type::is_index(media_type))
        {
            return Ok(None);
        }
        if let Some(known) = self.known.get(&document.digest) {
            return Ok(known.clone());
        }
        let parsed = self.store.document(&document.digest).and_then(|bytes| Document::parse(None, &bytes));
        let named = match parsed {
            Ok(Document::Manifest(manifest)) => {
                Some(NamedBlobs { is_index: false, blobs: manifest.blobs().into_iter().cloned().collect() })
            }
            Ok(Document::Index(index)) => Some(NamedBlobs { is_index: true, blobs: index.manifests }),
            Err(error) if error.kind() == ErrorKind::Store => return Err(error),
            // It has the bytes of its digest: it is what its author made.
            Err(_) => None,
        };
        self.known.insert(document.digest.clone(), named.clone());
        Ok(named)
    }

    fn is_there(&self, digest: &Digest, size: Option<u64>) -> bool {
        let found = layout::regular_file(&*self.store.0.disk, &blob_path(digest));
        matches!(found, Ok(Some(found)) if size.is_none_or(|size| size == found.len))
            || self.links.contains(digest)
    }
}
