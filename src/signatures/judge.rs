//! Judges which signatures count for an image, and tells why the others do not.

use std::collections::BTreeMap;

use super::bundle::{Bundle, StatementClaim};
use super::identity::{Identity, SignedName};
use super::signer::{SignatureFormat, Signer};
use super::simple_signing::{self, SimpleSignature};
use crate::image::digest::Digest;
use crate::image::manifest::Descriptor;
use crate::image::reference::Reference;

/// A signature that was found, not verified yet.
#[derive(Clone, Debug)]
pub(super) enum Signature {
    Simple(SimpleSignature),
    Bundle(Bundle),
    /// Content in the place of a signature that cannot be one, and why.
    Unusable(String),
}

impl Signature {
    /// Reads the signature in a layer with these bytes.
    fn of_layer(layer: &Descriptor, bytes: &[u8]) -> Self {
        if layer.media_type == simple_signing::MEDIA_TYPE {
            return match simple_signing::signature_of(layer) {
                Some(signature) => Signature::Simple(SimpleSignature { payload: bytes.to_vec(), signature }),
                None => Signature::Unusable("without the annotation that holds it".into()),
            };
        }
        match Bundle::parse(bytes) {
            Some(bundle) => Signature::Bundle(bundle),
            None => Signature::Unusable("in a bundle that is not understood".into()),
        }
    }
}

/// The image that must be signed: its manifest, and the index that it was chosen from.
pub(super) struct JudgedImage<'a> {
    pub(super) reference: &'a Reference,
    /// Their digests and bytes; a signature of one of them counts.
    pub(super) manifests: Vec<(&'a Digest, &'a [u8])>,
}

impl JudgedImage<'_> {
    fn has(&self, digest: &str) -> bool {
        self.manifests.iter().any(|(own, _)| own.as_str() == digest)
    }
}

/// Collects signatures until each signer has signed.
pub(super) struct Judge<'a> {
    image: JudgedImage<'a>,
    /// The signers whose signature was not found yet.
    missing: Vec<&'a Signer>,
    found: usize,
    /// Why signatures do not count, and how often.
    flaws: BTreeMap<String, usize>,
}

impl<'a> Judge<'a> {
    pub(super) fn new(image: JudgedImage<'a>, signers: Vec<&'a Signer>) -> Self {
        Judge { image, missing: signers, found: 0, flaws: BTreeMap::new() }
    }

    /// Returns whether each signer has signed.
    pub(super) fn is_satisfied(&self) -> bool {
        self.missing.is_empty()
    }

    /// Judges the signature in a layer. Returns whether it counts.
    pub(super) fn add_layer(&mut self, layer: &Descriptor, bytes: &[u8]) -> bool {
        self.add(&Signature::of_layer(layer, bytes))
    }

    /// Judges one more signature. Returns whether it counts.
    pub(super) fn add(&mut self, signature: &Signature) -> bool {
        self.found += 1;
        let missing = self.missing.len();
        let mut flaw = None;
        let image = &self.image;
        self.missing
            .retain(|signer| check(signature, signer, image).map_err(|why| flaw = Some(why)).is_err());
        if let Some(flaw) = flaw {
            *self.flaws.entry(flaw).or_default() += 1;
        }
        self.missing.len() < missing
    }

    /// Returns the reason for a denial: how many signatures were found, and why each does not count.
    pub(super) fn reason(&self) -> String {
        match self.found {
            0 => "no signature was found, and the policy requires one".to_owned(),
            1 => {
                format!("1 signature, {}", self.flaws.keys().next().map_or("of another signer", |flaw| flaw))
            }
            found => {
                let flaws: Vec<_> =
                    self.flaws.iter().map(|(flaw, count)| format!("{count} {flaw}")).collect();
                format!("{found} signatures: {}", flaws.join("; "))
            }
        }
    }
}

/// Checks one signature against one signer.
///
/// # Errors
/// Why the signature does not count.
fn check(signature: &Signature, signer: &Signer, image: &JudgedImage<'_>) -> Result<(), String> {
    match signature {
        Signature::Unusable(why) => Err(why.clone()),
        Signature::Simple(simple) => check_simple(simple, signer, image),
        Signature::Bundle(bundle) => check_bundle(bundle, signer, image),
    }
}

fn check_simple(simple: &SimpleSignature, signer: &Signer, image: &JudgedImage<'_>) -> Result<(), String> {
    if !signer.takes(SignatureFormat::SimpleSigning) {
        return Err("in a format that the policy does not accept".into());
    }
    if !signer.has_key_of(&simple.payload, &simple.signature) {
        return Err("by another key".into());
    }
    let claim = simple.claim().ok_or("whose payload is not cosign's")?;
    if !image.has(&claim.digest) {
        return Err(signs(&claim.digest));
    }
    let identity = signer.explicit_identity().unwrap_or(&Identity::MatchRepository);
    let name = SignedName::parse(&claim.name);
    if name.is_some_and(|name| identity.accepts(image.reference, &name)) {
        return Ok(());
    }
    let remedy = match identity {
        Identity::MatchRepoDigestOrExact | Identity::MatchExact => {
            "; cosign records no tag: use the identity matchRepository"
        }
        _ => "",
    };
    Err(format!("which names {}{remedy}", quoted(&claim.name)))
}

fn check_bundle(bundle: &Bundle, signer: &Signer, image: &JudgedImage<'_>) -> Result<(), String> {
    if !signer.takes(SignatureFormat::Bundle) {
        return Err("in a format that the policy does not accept".into());
    }
    if signer.explicit_identity().is_some() {
        return Err("in a bundle, which names no repository: the policy requires an identity".into());
    }
    match bundle {
        Bundle::Message(signature) => {
            let is_of = |(_, bytes): &(_, &[u8])| signer.has_key_of(bytes, signature);
            if image.manifests.iter().any(is_of) { Ok(()) } else { Err("by another key".into()) }
        }
        Bundle::Statement(envelope) => {
            let signed = envelope.signed_bytes();
            if !signer.has_key_of(&signed, &envelope.signature) {
                return Err("by another key".into());
            }
            match envelope.claim().ok_or("whose statement is not understood")? {
                StatementClaim::Attestation => Err("which is an attestation, not a signature".into()),
                StatementClaim::Signed(digests) if digests.iter().any(|digest| image.has(digest)) => Ok(()),
                StatementClaim::Signed(digests) => {
                    Err(digests.first().map_or_else(|| "which signs nothing".into(), |first| signs(first)))
                }
            }
        }
    }
}

fn signs(digest: &str) -> String {
    match Digest::parse(digest) {
        Ok(digest) => format!("which signs {digest}"),
        Err(_) => "which signs something that is no digest".into(),
    }
}

/// Returns a name from a signature as it may stand in a message.
fn quoted(text: &str) -> String {
    let cut: String = text.chars().take(200).collect();
    cut.escape_debug().to_string()
}
