//! Which rules hold for an image.

use std::collections::BTreeMap;
use std::fmt;
use std::path::Path;
use std::sync::Arc;

use super::judge::{Judge, JudgedImage};
use super::lookup::{self, SignatureLimits};
use super::requirement::Requirement;
use super::signer::Signer;
use super::{policy_json, scope};
use crate::error::{Error, ErrorKind};
use crate::image::reference::Reference;
use crate::registry::{Candidate, ImageVerifier, VerifyError};
use crate::store::{Store, StoredImage};

/// Which images must be signed, and with which keys: an [`ImageVerifier`].
///
/// Cheap to clone.
#[derive(Clone)]
pub struct SignaturePolicy(Arc<PolicyRules>);

pub(super) struct PolicyRules {
    /// By scope. The empty scope covers the images of every registry.
    pub(super) by_scope: BTreeMap<String, Vec<Requirement>>,
    pub(super) limits: SignatureLimits,
}

impl SignaturePolicy {
    /// Returns a builder for a policy that refuses every image that no rule covers.
    pub fn builder() -> SignaturePolicyBuilder {
        SignaturePolicyBuilder { rules: Vec::new(), limits: DEFAULT_LIMITS }
    }

    /// Reads a
    /// [`policy.json`](https://github.com/containers/image/blob/v5.36.0/docs/containers-policy.json.5.md), of which
    /// the default and the transport `docker` count. A requirement that this crate cannot enforce is an error.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) for a file that cannot be read, an unknown or repeated field, a
    /// scope that covers no image, a public key that is not supported, or a requirement of another type than
    /// `insecureAcceptAnything`, `reject` and `sigstoreSigned` with keys. The message names scope and field.
    pub fn from_policy_json(path: impl AsRef<Path>) -> Result<Self, Error> {
        let path = path.as_ref();
        let by_scope = policy_json::read(path).map_err(|error| {
            Error::new(ErrorKind::InvalidConfig, format!("{}: {}", path.display(), error.message()))
        })?;
        Ok(SignaturePolicy(Arc::new(PolicyRules { by_scope, limits: DEFAULT_LIMITS })))
    }

    pub(super) fn limits(&self) -> SignatureLimits {
        self.0.limits
    }

    /// Returns the requirements of the most specific rule that covers the image, and that rule's scope.
    fn requirements(&self, image: &Reference) -> Option<(String, &[Requirement])> {
        let mut scopes = scope::covering(image);
        scopes.push(String::new());
        let rules = &self.0.by_scope;
        scopes.into_iter().find_map(|scope| {
            let requirements = rules.get(&scope)?.as_slice();
            Some((scope, requirements))
        })
    }

    /// Returns the signers of which each must have signed; none if the image is accepted unsigned.
    ///
    /// # Errors
    /// The reason why no signature could help.
    pub(super) fn signers(&self, image: &Reference) -> Result<Vec<&Signer>, String> {
        let Some((scope, requirements)) = self.requirements(image) else {
            return Err("no rule of the signature policy covers it".to_owned());
        };
        let mut signers = Vec::new();
        for requirement in requirements {
            match requirement {
                Requirement::AcceptUnsigned => {}
                Requirement::Reject if scope.is_empty() => {
                    return Err("the signature policy refuses it by default".to_owned());
                }
                Requirement::Reject => return Err(format!("the signature policy refuses {scope}")),
                Requirement::SignedBy(signer) => signers.push(signer),
            }
        }
        Ok(signers)
    }
}

impl ImageVerifier for SignaturePolicy {
    fn verify(&self, candidate: &Candidate<'_>) -> Result<(), VerifyError> {
        let reference = candidate.reference();
        let signers = self.signers(reference).map_err(VerifyError::Denied)?;
        if signers.is_empty() {
            return Ok(());
        }
        let manifests = vec![
            (&candidate.descriptor().digest, candidate.root()),
            (&candidate.platform_manifest().digest, candidate.manifest()),
        ];
        // A digest that was pulled before needs no look-up: its signatures hold under the same keys.
        let stored = candidate.stored_signatures()?;
        if self.judge(reference, &manifests, stored.layers()).is_ok() {
            return Ok(());
        }
        let image = JudgedImage { reference, manifests };
        lookup::search(candidate, self.limits(), &mut Judge::new(image, signers))
    }

    fn verify_stored(
        &self,
        store: &Store,
        image: &StoredImage,
        name: Option<&Reference>,
    ) -> Result<(), VerifyError> {
        self.judge_stored(store, image, name)
    }
}

impl fmt::Debug for SignaturePolicy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SignaturePolicy").field("rules", &self.0.by_scope).finish_non_exhaustive()
    }
}

const DEFAULT_LIMITS: SignatureLimits = SignatureLimits { signatures: 32, bytes: 64 << 10 };
/// The bounds that [`SignaturePolicyBuilder::limits`] takes.
const MOST: SignatureLimits = SignatureLimits { signatures: 1024, bytes: 1 << 20 };

/// Builds a [`SignaturePolicy`].
#[derive(Clone, Debug)]
#[must_use]
pub struct SignaturePolicyBuilder {
    rules: Vec<(String, Requirement)>,
    limits: SignatureLimits,
}

impl SignaturePolicyBuilder {
    /// Requires a signature of `signer` for the images in `scope`: `HOST[:PORT][/PATH]` or `*.HOST`, where Docker
    /// Hub's images are `docker.io/library/alpine`.
    ///
    /// The most specific scope counts alone. With several signers for one scope, each must have signed.
    pub fn require(self, scope: impl AsRef<str>, signer: Signer) -> Self {
        self.with(scope.as_ref(), Requirement::SignedBy(signer))
    }

    /// Accepts the images in `scope` without a signature.
    pub fn accept_unsigned(self, scope: impl AsRef<str>) -> Self {
        self.with(scope.as_ref(), Requirement::AcceptUnsigned)
    }

    /// Refuses the images in `scope`.
    pub fn reject(self, scope: impl AsRef<str>) -> Self {
        self.with(scope.as_ref(), Requirement::Reject)
    }

    /// Limits the signatures that are fetched for an image: their number, from 1 to 1,024, and the size of each, up to
    /// 1 MiB. Default: 32 of 64 KiB.
    pub fn limits(mut self, signatures: usize, bytes: u64) -> Self {
        self.limits = SignatureLimits { signatures, bytes };
        self
    }

    fn with(mut self, scope: &str, requirement: Requirement) -> Self {
        self.rules.push((scope.to_owned(), requirement));
        self
    }

    /// Builds the policy.
    ///
    /// # Errors
    /// [`InvalidConfig`](ErrorKind::InvalidConfig) for a scope or an identity that cannot match, rules of one scope
    /// that contradict each other, and limits out of range.
    pub fn build(self) -> Result<SignaturePolicy, Error> {
        let invalid = |text: String| Err(Error::new(ErrorKind::InvalidConfig, text));
        let SignatureLimits { signatures, bytes } = self.limits;
        if !(1..=MOST.signatures).contains(&signatures) || !(1..=MOST.bytes).contains(&bytes) {
            return invalid(
                "the limits of signatures must be from 1 to 1,024, of at most 1 MiB each".to_owned(),
            );
        }
        let mut by_scope: BTreeMap<String, Vec<Requirement>> = BTreeMap::new();
        for (scope, requirement) in self.rules {
            if !scope::is_valid(&scope) {
                return invalid(format!(
                    "the scope {scope:?} of a signature rule is invalid: write HOST[:PORT][/PATH] or *.HOST, such as \
                     docker.io/library/alpine"
                ));
            }
            if let Requirement::SignedBy(signer) = &requirement {
                signer.check()?;
            }
            by_scope.entry(scope).or_default().push(requirement);
        }
        for (scope, requirements) in &by_scope {
            let is_signed = |requirement: &Requirement| matches!(requirement, Requirement::SignedBy(_));
            if requirements.len() > 1 && !requirements.iter().all(is_signed) {
                return invalid(format!("the signature rules for {scope} contradict each other"));
            }
        }
        Ok(SignaturePolicy(Arc::new(PolicyRules { by_scope, limits: self.limits })))
    }
}
