//! Finds the blobs that the entries of the index lead to.

use std::collections::{HashMap, HashSet};
use std::io;

use crate::context::PullContext;
use crate::durable::{OpenMode, read_limited};
use crate::error::Error;
use crate::image::digest::Digest;
use crate::image::manifest::{MAX_DOCUMENT_BYTES, media_type};
use crate::store::handle::Store;
use crate::store::index::{IndexEntry, StoreIndex};
use crate::store::layout::blob_path;
use crate::store::retry_io;

/// The digests that each document names. A document is read once: its digest fixes its content.
#[derive(Debug, Default)]
pub(super) struct ReferenceGraph(HashMap<Digest, Vec<BlobReference>>);

#[derive(Clone, Debug)]
struct BlobReference {
    digest: Digest,
    kind: BlobKind,
}

/// What a document says that a digest is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum BlobKind {
    Index,
    Manifest,
    /// A blob that names no others.
    Blob,
}

/// The blobs that entries lead to.
#[derive(Debug, Default)]
pub(super) struct Used {
    pub(super) blobs: HashSet<Digest>,
    /// Those whose own references are in `blobs`, too.
    followed: HashSet<Digest>,
}

impl ReferenceGraph {
    /// Returns all blobs that the index's entries lead to.
    pub(super) fn used_by(
        &mut self,
        store: &Store,
        cx: &PullContext,
        index: &StoreIndex,
    ) -> Result<HashSet<Digest>, Error> {
        let mut used = Used::default();
        for entry in index.entries() {
            self.follow(store, cx, entry, &mut used)?;
        }
        Ok(used.blobs)
    }

    /// Adds the blobs that the entry leads to, except manifests of an index that were not taken.
    pub(super) fn follow(
        &mut self,
        store: &Store,
        cx: &PullContext,
        entry: &IndexEntry,
        used: &mut Used,
    ) -> Result<(), Error> {
        used.blobs.extend(entry.pulled_index());
        used.blobs.extend(entry.signatures.clone());
        let Some(digest) = &entry.digest else { return Ok(()) };
        let taken: Option<HashSet<&Digest>> = entry.taken.as_ref().map(|taken| taken.iter().collect());
        // If the entry leaves some out, what other entries follow is not what this one takes.
        let mut own = HashSet::new();
        // Followed as a document, whatever its media type: a blob that is kept needlessly does no harm.
        let mut ahead = vec![BlobReference { digest: digest.clone(), kind: BlobKind::Index }];
        while let Some(BlobReference { digest, kind }) = ahead.pop() {
            if kind == BlobKind::Manifest && taken.as_ref().is_some_and(|taken| !taken.contains(&digest)) {
                continue;
            }
            used.blobs.insert(digest.clone());
            let followed = if taken.is_some() { &mut own } else { &mut used.followed };
            if kind != BlobKind::Blob && followed.insert(digest.clone()) {
                ahead.extend_from_slice(self.of(store, cx, &digest)?);
            }
        }
        Ok(())
    }

    fn of(&mut self, store: &Store, cx: &PullContext, digest: &Digest) -> Result<&[BlobReference], Error> {
        if !self.0.contains_key(digest) {
            cx.check()?;
            self.0.insert(digest.clone(), named_in(&read_document(store, cx, digest)?));
        }
        Ok(self.0.get(digest).map_or(&[], Vec::as_slice))
    }
}

/// Returns the document's bytes without comparing their digest; none if it does not exist or is too long.
fn read_document(store: &Store, cx: &PullContext, digest: &Digest) -> Result<Vec<u8>, Error> {
    retry_io::for_files(cx, &format!("read {digest}"), || {
        let file = match store.0.disk.open(&blob_path(digest), OpenMode::Read) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            outcome => outcome?,
        };
        match read_limited(&*file, MAX_DOCUMENT_BYTES as u64) {
            Err(error) if error.kind() == io::ErrorKind::InvalidData => Ok(Vec::new()),
            outcome => outcome,
        }
    })
}

/// Returns the digests of all descriptors in the document, at any depth, also if a pull would refuse the document:
/// a blob that is kept needlessly does no harm.
fn named_in(document: &[u8]) -> Vec<BlobReference> {
    let mut found = Vec::new();
    if let Ok(value) = serde_json::from_slice(document) {
        find_references(&value, &mut found);
    }
    found
}

fn find_references(value: &serde_json::Value, found: &mut Vec<BlobReference>) {
    use serde_json::Value;
    match value {
        Value::Array(items) => items.iter().for_each(|item| find_references(item, found)),
        Value::Object(fields) => {
            let text = |name: &str| fields.get(name).and_then(Value::as_str).unwrap_or_default();
            if let Ok(digest) = Digest::parse(text("digest")) {
                let kind = match text("mediaType") {
                    named if media_type::is_index(named) => BlobKind::Index,
                    named if media_type::is_manifest(named) => BlobKind::Manifest,
                    _ => BlobKind::Blob,
                };
                found.push(BlobReference { digest, kind });
            }
            fields.values().for_each(|field| find_references(field, found));
        }
        _ => {}
    }
}
