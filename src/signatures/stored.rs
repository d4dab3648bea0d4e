//! Judges images by the signatures that are on disk: in the store, or in an archive that is imported.

use std::sync::Arc;

use super::judge::{Image, Judge};
use super::policy::SignaturePolicy;
use crate::error::{Error, ErrorKind};
use crate::image::digest::Digest;
use crate::image::manifest::Descriptor;
use crate::image::reference::Reference;
use crate::registry::VerifyError;
use crate::store::{ImportJudge, ImportOptions, Signatures, Store, StoredImage};

impl SignaturePolicy {
    /// Judges an image by these signatures alone.
    pub(super) fn judge(
        &self,
        reference: &Reference,
        manifests: &[(&Digest, &[u8])],
        signatures: &[Descriptor],
    ) -> Result<(), VerifyError> {
        let signers = self.signers(reference).map_err(VerifyError::Denied)?;
        let mut judge = Judge::new(Image { reference, manifests: manifests.to_vec() }, signers);
        let limits = self.limits();
        for layer in signatures.iter().take(limits.signatures) {
            if judge.is_satisfied() {
                break;
            }
            if layer.size <= limits.bytes {
                judge.add_layer(layer, layer.data.as_deref().unwrap_or_default());
            }
        }
        if judge.is_satisfied() { Ok(()) } else { Err(VerifyError::Denied(judge.reason())) }
    }

    /// Judges an image in the store by `name`, or by each of its names.
    pub(super) fn judge_stored(
        &self,
        store: &Store,
        image: &StoredImage,
        name: Option<&Reference>,
    ) -> Result<(), VerifyError> {
        let names: Vec<Reference> = match name {
            Some(name) => vec![name.clone()],
            None if image.names.is_empty() => parse_all(&image.repo_digests)?,
            None => parse_all(&image.names)?,
        };
        if names.is_empty() {
            return Err(VerifyError::Denied("it has no name that a rule could cover".to_owned()));
        }
        let signatures = store.signatures_of_image(image)?;
        let by_digest = image.repo_digests.iter().filter_map(|name| name.split_once('@'));
        let roots = by_digest.filter_map(|(_, digest)| Digest::parse(digest).ok()).chain(image.index.clone());
        let mut documents = vec![(image.manifest.digest.clone(), store.document(&image.manifest.digest)?)];
        for root in roots {
            match store.document(&root) {
                Ok(bytes) => documents.push((root, bytes)),
                Err(error) if error.kind() == ErrorKind::NotFound => {}
                Err(error) => return Err(error.into()),
            }
        }
        let manifests: Vec<_> = documents.iter().map(|(digest, bytes)| (digest, &bytes[..])).collect();
        names.iter().try_for_each(|name| self.judge(name, &manifests, signatures.layers()))
    }
}

/// # Errors
/// `Denied` for a name that is no reference: no rule covers it.
fn parse_all(names: &[String]) -> Result<Vec<Reference>, VerifyError> {
    let parse = |name: &String| {
        Reference::parse(name).map_err(|_| {
            VerifyError::Denied(format!("no rule covers the name {name:?}, which is no reference"))
        })
    };
    names.iter().map(parse).collect()
}

impl Store {
    /// Verifies an image again by the signatures that were kept when it was pulled or imported, without a network:
    /// after a change of keys, at boot, or after an import. Each of the image's names must be accepted.
    ///
    /// A pull keeps the signatures that its policy needed, an import all that the archive has.
    ///
    /// # Errors
    /// `Denied` says why the signatures do not suffice; `NotFound`, `DigestMismatch`, `Store`.
    pub fn verify_signatures(&self, image: &StoredImage, policy: &SignaturePolicy) -> Result<(), Error> {
        let name = image.names.first().map_or_else(|| image.id.to_string(), Clone::clone);
        policy.judge_stored(self, image, None).map_err(into_error).map_err(|error| error.with_image(&name))
    }
}

impl ImportOptions {
    /// Requires of each image that the policy accepts it, by each of its names, with the signatures in the archive
    /// or layout: those under tags `sha256-HEX.sig`, those whose subject is the image, and those that an export
    /// wrote. Default: no image needs a signature.
    ///
    /// An image without a name is refused; [`name`](Self::name) gives it one.
    #[must_use]
    pub fn signature_policy(self, policy: SignaturePolicy) -> Self {
        self.judge(Arc::new(policy))
    }
}

impl ImportJudge for SignaturePolicy {
    fn judge(
        &self,
        name: &str,
        manifests: &[(&Digest, &[u8])],
        signatures: &Signatures,
    ) -> Result<(), Error> {
        let judged = Reference::parse(name)
            .map_err(|_| {
                VerifyError::Denied(format!("no rule covers the name {name:?}, which is no reference"))
            })
            .and_then(|reference| SignaturePolicy::judge(self, &reference, manifests, signatures.layers()));
        judged.map_err(into_error).map_err(|error| error.with_image(name))
    }
}

fn into_error(error: VerifyError) -> Error {
    match error {
        VerifyError::Denied(reason) => Error::new(ErrorKind::Denied, reason).with_retryable(false),
        VerifyError::Failed(error) => error,
    }
}
