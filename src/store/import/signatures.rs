//! Finds the signatures in an archive or layout, keeps them with their images, and lets a judge decide whether they
//! suffice.

use std::collections::HashMap;

use crate::error::{Error, ErrorKind};
use crate::image::digest::Digest;
use crate::image::manifest::{Descriptor, Document, Manifest, media_type};
use crate::store::import::catalog::{Taken, TakenManifest};
use crate::store::import::docker::NamedImage;
use crate::store::import::error::{invalid, lacking};
use crate::store::import::session::{FoundSignatures, Import};
use crate::store::import::source::ImportSource;
use crate::store::index::IndexEntry;
use crate::store::signatures::{Signatures, is_signature};

/// Maximum size of the signatures of an import, bytes.
const MAX_BYTES: u64 = 16 << 20;
/// Maximum size of one signature, bytes.
const MAX_SIGNATURE: u64 = 1 << 20;

impl Import<'_> {
    /// Collects the signatures that an entry of the index leads to. Returns whether the entry is no image, but the
    /// manifest of signatures or attestations, or the list of an image's referrers.
    pub(super) fn collect_signatures(
        &mut self,
        source: &impl ImportSource,
        entry: &IndexEntry,
    ) -> Result<bool, Error> {
        if let Some(kept) = &entry.signatures {
            self.read_signatures(source, entry.digest.as_ref(), kept)?;
        }
        let Some(digest) = &entry.digest else { return Ok(false) };
        let tag = entry.name.as_deref().map(|name| name.rsplit_once(':').map_or(name, |(_, tag)| tag));
        if media_type::is_manifest(&entry.media_type) {
            return match tag {
                None => self.read_signatures(source, None, digest),
                Some(tag) => match tag.strip_suffix(".sig").and_then(digest_in_tag) {
                    Some(subject) => self.read_signatures(source, Some(&subject), digest),
                    None => Ok(false),
                },
            };
        }
        // A registry without the referrers API lists them under such a tag.
        let Some(subject) = tag.and_then(digest_in_tag) else { return Ok(false) };
        let Some(Document::Index(index)) = self.document_by(source, digest)? else { return Ok(false) };
        self.limits.count(self.cx, index.manifests.len())?;
        let mut is_found = false;
        for listed in &index.manifests {
            is_found |= self.read_signatures(source, Some(&subject), &listed.digest)?;
        }
        Ok(is_found)
    }

    /// Reads a manifest, once for each subject. Returns whether it holds signatures or attestations.
    fn read_signatures(
        &mut self,
        source: &impl ImportSource,
        about: Option<&Digest>,
        manifest: &Digest,
    ) -> Result<bool, Error> {
        let key = (about.cloned(), manifest.clone());
        if let Some(known) = self.signatures.read.get(&key) {
            return Ok(*known);
        }
        let is_found = match self.document_by(source, manifest)? {
            Some(Document::Manifest(manifest)) => self.add_signatures(source, about, &manifest)?,
            _ => false,
        };
        self.signatures.read.insert(key, is_found);
        Ok(is_found)
    }

    /// Adds the layers of a manifest of signatures. Returns whether it is one, or one of attestations.
    fn add_signatures(
        &mut self,
        source: &impl ImportSource,
        about: Option<&Digest>,
        manifest: &Manifest,
    ) -> Result<bool, Error> {
        let all_are = |is: fn(&str) -> bool| manifest.layers.iter().all(|layer| is(&layer.media_type));
        if manifest.layers.is_empty() || !all_are(is_signature) {
            return Ok(!manifest.layers.is_empty() && all_are(is_attestation));
        }
        let about = about.or(manifest.subject.as_ref().map(|subject| &subject.digest));
        for layer in manifest.layers.iter().filter(|layer| layer.size <= MAX_SIGNATURE) {
            self.limits.count(self.cx, 1)?;
            let mut layer = layer.clone();
            if layer.data.is_none() {
                layer.data = source.document(self, &layer)?;
            }
            if layer.data.is_none() {
                continue;
            }
            self.signatures.bytes += layer.size;
            if self.signatures.bytes > MAX_BYTES {
                return Err(invalid(format!("its signatures are more than {MAX_BYTES} bytes")));
            }
            for (key, value) in &layer.annotations {
                self.limits.keep(key)?;
                self.limits.keep(value)?;
            }
            match about {
                Some(about) => self.signatures.by_subject.entry(about.clone()).or_default().push(layer),
                None => self.signatures.without_subject.push(layer),
            }
        }
        Ok(true)
    }

    /// Reads a document; `None` if it is absent or no manifest. For images the catalog reports that.
    fn document_by(
        &mut self,
        source: &impl ImportSource,
        digest: &Digest,
    ) -> Result<Option<Document>, Error> {
        let Some(size) = source.size_of(self, digest) else { return Ok(None) };
        let bytes = source.document(self, &Descriptor::new("", digest.clone(), size))?;
        Ok(bytes.and_then(|bytes| Document::parse(None, &bytes).ok()))
    }

    /// Adds the signatures of an image, or of an index and the manifests that were taken of it.
    fn add_signatures_for(&self, taken: &Taken, signatures: &mut Signatures) {
        let FoundSignatures { by_subject, without_subject, .. } = &self.signatures;
        let parts = taken.manifests.iter().map(|part| &part.descriptor.digest);
        let mut subjects: Vec<_> = parts.chain([&taken.root.digest]).collect();
        subjects.sort();
        subjects.dedup();
        let names_subject = |layer: &&Descriptor| {
            let data = layer.data.as_deref().unwrap_or_default();
            subjects.iter().any(|subject| contains(data, subject.as_str().as_bytes()))
        };
        let with_subject = subjects.iter().filter_map(|subject| by_subject.get(subject)).flatten();
        for layer in with_subject.chain(without_subject.iter().filter(names_subject)) {
            signatures.add(layer, layer.data.as_deref().unwrap_or_default());
        }
    }

    /// Puts the images' signatures into the store. Returns the digests of the manifests that hold them, by the
    /// images' names, and for an image without a name by its root's digest.
    pub(super) fn bring_signatures(
        &mut self,
        images: &[NamedImage],
    ) -> Result<HashMap<String, Digest>, Error> {
        let mut by_name: HashMap<String, Vec<&Taken>> = HashMap::new();
        for NamedImage { names, taken } in images {
            let without = names.is_empty().then(|| taken.root.digest.to_string());
            for name in names.iter().cloned().chain(without) {
                by_name.entry(name).or_default().push(taken);
            }
        }
        let mut kept: HashMap<Vec<&Digest>, Option<Digest>> = HashMap::new();
        let mut kept_by_name = HashMap::new();
        for (name, images) in by_name {
            self.cx.check()?;
            let roots: Vec<_> = images.iter().map(|taken| &taken.root.digest).collect();
            let digest = match kept.get(&roots) {
                Some(known) => known.clone(),
                None => {
                    let digest = self.keep_signatures(&images)?;
                    kept.insert(roots, digest.clone());
                    digest
                }
            };
            if let Some(digest) = digest {
                kept_by_name.insert(name, digest);
            }
        }
        Ok(kept_by_name)
    }

    /// Puts the signatures of the images that one name stands for into the store.
    fn keep_signatures(&mut self, images: &[&Taken]) -> Result<Option<Digest>, Error> {
        let mut signatures = Signatures::default();
        images.iter().for_each(|taken| self.add_signatures_for(taken, &mut signatures));
        let Some((descriptor, bytes)) = signatures.to_manifest() else { return Ok(None) };
        self.copy(&descriptor, &mut &bytes[..])?;
        Ok(Some(descriptor.digest))
    }

    /// Asks the judge about each image, by each of its names.
    ///
    /// # Errors
    /// `Denied`.
    pub(super) fn judge(&self, source: &impl ImportSource, images: &[NamedImage]) -> Result<(), Error> {
        let Some(judge) = &self.options.judge else { return Ok(()) };
        for NamedImage { names, taken } in images {
            if names.is_empty() {
                let text = format!(
                    "{} has no name, and so no rule covers it; import it with a name",
                    taken.root.digest
                );
                return Err(Error::new(ErrorKind::Denied, text).with_retryable(false));
            }
            let mut signatures = Signatures::default();
            self.add_signatures_for(taken, &mut signatures);
            let root = self.bytes_of(source, &taken.root)?;
            for TakenManifest { descriptor, .. } in taken.manifests.iter().filter(|part| !part.is_attestation)
            {
                let manifest = self.bytes_of(source, descriptor)?;
                let manifests = [(&taken.root.digest, &root[..]), (&descriptor.digest, &manifest[..])];
                for name in names {
                    self.cx.check()?;
                    judge.judge(name, &manifests, &signatures)?;
                }
            }
        }
        Ok(())
    }

    fn bytes_of(&self, source: &impl ImportSource, document: &Descriptor) -> Result<Vec<u8>, Error> {
        source.document(self, document)?.ok_or_else(|| lacking(&document.digest))
    }
}

/// Returns the digest in a tag `ALGORITHM-HEX`.
fn digest_in_tag(tag: &str) -> Option<Digest> {
    let (algorithm, hex) = tag.split_once('-')?;
    Digest::parse(&format!("{algorithm}:{hex}")).ok()
}

/// Returns whether a layer of this media type is an attestation as cosign 1 and 2 store it.
fn is_attestation(media_type: &str) -> bool {
    media_type.starts_with("application/vnd.dsse.envelope.")
}

fn contains(data: &[u8], part: &[u8]) -> bool {
    data.windows(part.len()).any(|window| window == part)
}
