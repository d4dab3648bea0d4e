//! Signatures that the store keeps with an image.
//!
//! They stand in one artifact manifest, as the `data` of its layers. The image's entry in `index.json` names
//! that manifest: it is removed and exported with the image, and is no image itself.

use std::collections::BTreeMap;

use crate::error::{Error, ErrorKind};
use crate::image::digest::Digest;
use crate::image::manifest::{Descriptor, Document, Manifest, media_type};
use crate::store::handle::Store;
#[cfg(feature = "signatures")]
use crate::store::index::IndexEntry;
use crate::store::lookup::StoredImage;

const ARTIFACT_TYPE: &str = "application/vnd.oci-puller.signatures.v1";
const EMPTY: &str = "application/vnd.oci.empty.v1+json";
/// Maximum size of the signatures of one image with their annotations, bytes. In base64 they fit into a manifest.
const MAX_BYTES: usize = 2 << 20;
/// Maximum number of the signatures of one image.
const MAX_SIGNATURES: usize = 1024;

/// Returns whether a layer of this media type is a signature: cosign's simple signing, or a sigstore bundle.
pub(super) fn is_signature(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.dev.cosign.simplesigning.")
        || media_type.starts_with("application/vnd.dev.sigstore.bundle")
}

/// The signatures of one image, each a descriptor with its `data`.
#[derive(Clone, Debug, Default)]
pub(crate) struct Signatures {
    layers: Vec<Descriptor>,
    bytes: usize,
}

impl Signatures {
    #[cfg(feature = "signatures")]
    pub(crate) fn layers(&self) -> &[Descriptor] {
        &self.layers
    }

    /// Adds a signature. One whose bytes do not match the descriptor, and one that is too much, is left out.
    pub(crate) fn add(&mut self, signature: &Descriptor, data: &[u8]) {
        let Descriptor { media_type, digest, size, annotations, .. } = signature;
        let texts = annotations.iter().map(|(key, value)| key.len() + value.len()).sum::<usize>();
        let bytes = data.len() + media_type.len() + texts;
        let is_too_much = self.layers.len() >= MAX_SIGNATURES || self.bytes + bytes > MAX_BYTES;
        if is_too_much || data.len() as u64 != *size || !digest.matches(data) {
            log::warn!("the signature {digest} is not kept: it is damaged, or there are too many");
            return;
        }
        let mut layer = Descriptor::new(media_type, digest.clone(), *size);
        layer.annotations = annotations.clone();
        layer.data = Some(data.to_vec());
        if !self.layers.contains(&layer) {
            self.bytes += bytes;
            self.layers.push(layer);
        }
    }

    /// Adds those of another image.
    pub(crate) fn add_all(&mut self, others: &Signatures) {
        for layer in &others.layers {
            self.add(layer, layer.data.as_deref().unwrap_or_default());
        }
    }

    /// Adds those that a manifest of [`to_manifest`](Self::to_manifest) holds.
    pub(super) fn add_kept(&mut self, manifest: &[u8]) {
        let Ok(Document::Manifest(manifest)) = Document::parse(None, manifest) else { return };
        for layer in manifest.layers {
            if let Some(data) = &layer.data {
                self.add(&layer, data);
            }
        }
    }

    /// Returns the manifest that holds them, with its descriptor; `None` if there are none. The same signatures
    /// make the same manifest.
    pub(crate) fn to_manifest(&self) -> Option<(Descriptor, Vec<u8>)> {
        if self.layers.is_empty() {
            return None;
        }
        let by_content: BTreeMap<_, _> =
            self.layers.iter().map(|layer| ((&layer.digest, &layer.annotations), layer.clone())).collect();
        let mut config = Descriptor::new(EMPTY, Digest::sha256(b"{}"), 2);
        config.data = Some(b"{}".to_vec());
        let manifest =
            Manifest::new(config, by_content.into_values().collect()).with_artifact_type(ARTIFACT_TYPE);
        let bytes = manifest.to_json();
        Some((Descriptor::new(media_type::OCI_MANIFEST, Digest::sha256(&bytes), bytes.len() as u64), bytes))
    }
}

/// Judges an image by the signatures that are at hand.
pub(crate) trait ImportJudge: std::fmt::Debug + Send + Sync {
    /// Judges an image by the name that it is to get. `manifests` are its manifest and the index that lists it;
    /// a signature of one of them counts.
    ///
    /// # Errors
    /// `Denied`.
    fn judge(&self, name: &str, manifests: &[(&Digest, &[u8])], signatures: &Signatures)
    -> Result<(), Error>;
}

impl Store {
    /// Returns the signatures that are kept with the entries of these manifests and indexes. Damaged ones are
    /// left out.
    ///
    /// # Errors
    /// `Store` if the index cannot be read.
    pub(crate) fn signatures_of(&self, targets: &[&Digest]) -> Result<Signatures, Error> {
        let index = self.0.group_commit.index()?;
        let entries = index
            .entries()
            .filter(|entry| entry.digest.as_ref().is_some_and(|digest| targets.contains(&digest)));
        let mut manifests: Vec<_> = entries.filter_map(|entry| entry.signatures.clone()).collect();
        manifests.sort();
        manifests.dedup();
        let mut signatures = Signatures::default();
        for manifest in &manifests {
            match self.document(manifest) {
                Ok(bytes) => signatures.add_kept(&bytes),
                Err(error) if matches!(error.kind(), ErrorKind::NotFound | ErrorKind::DigestMismatch) => {
                    log::warn!("the signatures {manifest} in the store cannot be used: {error}");
                }
                Err(error) => return Err(error),
            }
        }
        Ok(signatures)
    }

    /// Returns the names that stand for a manifest or an index.
    ///
    /// # Errors
    /// `Store` if the index cannot be read.
    #[cfg(feature = "signatures")]
    pub(crate) fn names_of_root(&self, root: &Digest) -> Result<Vec<String>, Error> {
        let index = self.0.group_commit.index()?;
        let entries = index.entries().filter(|entry| entry.digest.as_ref() == Some(root));
        Ok(entries.filter_map(IndexEntry::whole_name).collect())
    }

    /// Returns the signatures that are kept with an image.
    pub(crate) fn signatures_of_image(&self, image: &StoredImage) -> Result<Signatures, Error> {
        let targets: Vec<_> = std::iter::once(&image.manifest.digest).chain(&image.index).collect();
        self.signatures_of(&targets)
    }
}
