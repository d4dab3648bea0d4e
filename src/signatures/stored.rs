//! Judges images by the signatures on disk: in the store, or in an archive that is imported.

use std::sync::Arc;

use super::judge::{Judge, JudgedImage};
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
        let mut judge = Judge::new(JudgedImage { reference, manifests: manifests.to_vec() }, signers);
        let limits = self.limits();
        for layer in signatures.iter().take(limits.signatures) {
            if judge.is_satisfied() {
                break;
            }
            if layer.size <= limits.bytes {
                judge.add_layer(layer, layer.data.as_deref().unwrap_or_default());
            }
        }
        match signatures.len() {
            _ if judge.is_satisfied() => Ok(()),
            found if found > limits.signatures => {
                let text = format!("{}; of {found} signatures, no more are looked at", judge.reason());
                Err(VerifyError::Denied(text))
            }
            _ => Err(VerifyError::Denied(judge.reason())),
        }
    }

    /// Judges an image in the store by `name`, or by each of its names.
    pub(super) fn judge_stored(
        &self,
        store: &Store,
        image: &StoredImage,
        name: Option<&Reference>,
    ) -> Result<(), VerifyError> {
        let names: Vec<Reference> = match (name, &image.index) {
            (Some(name), _) => vec![name.clone()],
            (None, _) if !image.names.is_empty() => parse_all(&image.names)?,
            (None, _) if !image.repo_digests.is_empty() => parse_all(&image.repo_digests)?,
            // The names of an index are those of its image for the store's platform.
            (None, Some(index)) => parse_all(&store.names_of_root(index)?)?,
            (None, None) => Vec::new(),
        };
        if names.is_empty() {
            return Err(VerifyError::Denied("it has no name, and so no rule covers it".to_owned()));
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

/// Parses names.
///
/// # Errors
/// `Denied` for a name that is no reference, which no rule covers.
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
    /// after a change of keys, at boot, or after an import. The policy must accept each of the image's names.
    ///
    /// A pull keeps the signatures that its policy needed. An import keeps all that the archive has.
    ///
    /// # Errors
    /// [`Denied`](ErrorKind::Denied) says why the signatures do not suffice; [`NotFound`](ErrorKind::NotFound),
    /// [`DigestMismatch`](ErrorKind::DigestMismatch), [`Store`](ErrorKind::Store).
    pub fn verify_signatures(&self, image: &StoredImage, policy: &SignaturePolicy) -> Result<(), Error> {
        let name = image.names.first().map_or_else(|| image.id.to_string(), Clone::clone);
        policy.judge_stored(self, image, None).map_err(into_error).map_err(|error| error.with_image(&name))
    }
}

impl ImportOptions {
    /// Requires that the policy accepts each image, by each of its names, with the signatures in the archive or
    /// layout: those under tags `sha256-HEX.sig`, those whose subject is the image, those that an export of this
    /// crate or `cosign save` wrote. Default: no image needs a signature.
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
