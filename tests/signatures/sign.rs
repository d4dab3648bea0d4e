//! Keys, and signatures in the registry as cosign attaches them.

use std::cell::RefCell;
use std::collections::HashMap;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use oci_puller::image::Digest;
use oci_puller::registry::RegistryImageServiceBuilder;
use oci_puller::signatures::{SignaturePolicy, Signer};
use oci_puller::testing::images::{Image, ImageBuilder};
use oci_puller::testing::{Action, Fault, FaultHandle, Registry, Target};
use oci_puller::{Error, PulledImage};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::{Value, json};

use crate::common::pulls::quick;

pub(crate) const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
pub(crate) const INDEX: &str = "application/vnd.oci.image.index.v1+json";
pub(crate) const SIMPLE: &str = "application/vnd.dev.cosign.simplesigning.v1+json";
pub(crate) const BUNDLE: &str = "application/vnd.dev.sigstore.bundle.v0.3+json";
pub(crate) const COSIGN_SIGN: &str = "https://sigstore.dev/cosign/sign/v1";

/// A P-256 key pair.
pub(crate) struct Key(EcdsaKeyPair);

impl Key {
    pub(crate) fn new() -> Self {
        let random = SystemRandom::new();
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, &random).unwrap();
        Key(EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_ASN1_SIGNING, pkcs8.as_ref(), &random).unwrap())
    }

    pub(crate) fn sign(&self, message: &[u8]) -> Vec<u8> {
        self.0.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec()
    }

    /// The public key as PEM.
    pub(crate) fn pem(&self) -> String {
        const HEAD: &[u8] = &[
            0x30, 0x59, 0x30, 0x13, 0x06, 0x07, 0x2a, 0x86, 0x48, 0xce, 0x3d, 0x02, 0x01, 0x06, 0x08, 0x2a,
            0x86, 0x48, 0xce, 0x3d, 0x03, 0x01, 0x07, 0x03, 0x42, 0x00,
        ];
        pem("PUBLIC KEY", &[HEAD, self.0.public_key().as_ref()].concat())
    }

    pub(crate) fn signer(&self) -> Signer {
        Signer::key(self.pem()).unwrap()
    }
}

pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).unwrap()).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

/// A registry with one image for two platforms, `team/app:v1`.
pub(crate) struct World {
    pub(crate) registry: Registry,
    pub(crate) image: Image,
    pub(crate) name: String,
    /// Of the manifests that were put there.
    sizes: RefCell<HashMap<Digest, usize>>,
    no_api: FaultHandle,
}

impl World {
    pub(crate) fn new() -> Self {
        let registry = Registry::start().unwrap();
        let image =
            ImageBuilder::new("team/app").layer(5_000).platforms(["linux/amd64", "linux/arm64"]).build();
        let name = registry.push(&image, "v1");
        // As docker-registry: referrers are found under their tag.
        let no_api = registry.fault(Fault::on(Target::Referrers).with(Action::Status(404)));
        World { registry, image, name, sizes: RefCell::default(), no_api }
    }

    /// Lets the registry answer the referrers API.
    pub(crate) fn with_referrers_api(self) -> Self {
        self.no_api.remove();
        self
    }

    pub(crate) fn repository(&self) -> String {
        format!("{}/team/app", self.registry.host())
    }

    /// The digest of the manifest for a platform.
    pub(crate) fn platform(&self, platform: &str) -> Digest {
        self.image.variant(platform).unwrap().manifest.digest.clone()
    }

    /// A policy that requires this signer for the registry's images.
    pub(crate) fn policy(&self, signer: Signer) -> SignaturePolicy {
        SignaturePolicy::builder().require(self.registry.host(), signer).build().unwrap()
    }

    /// Pulls `image` for linux/amd64 into a new store under the policy.
    pub(crate) fn pull(&self, image: &str, policy: &SignaturePolicy) -> Result<PulledImage, Error> {
        self.pull_with(image, policy, |builder| builder)
    }

    /// Does the same with other settings.
    pub(crate) fn pull_with(
        &self,
        image: &str,
        policy: &SignaturePolicy,
        change: impl FnOnce(RegistryImageServiceBuilder) -> RegistryImageServiceBuilder,
    ) -> Result<PulledImage, Error> {
        let dir = tempfile::tempdir().unwrap();
        let builder = quick(dir.path()).platform("linux/amd64".parse().unwrap());
        let service = change(builder).verifier(Arc::new(policy.clone())).build().unwrap();
        let pulled = service.pull(image);
        if pulled.is_err() {
            assert_eq!(service.store().images().unwrap(), []);
        }
        pulled
    }

    /// Puts a manifest with these layers there: media type, bytes, annotations.
    fn put(&self, reference: &str, layers: &[(&str, &[u8], Value)], more: Value) -> Digest {
        let layers: Vec<Value> = layers
            .iter()
            .map(|(media_type, bytes, annotations)| {
                let digest = self.registry.put_blob("team/app", *bytes);
                json!({ "mediaType": media_type, "digest": digest.as_str(), "size": bytes.len(), "annotations": annotations })
            })
            .collect();
        self.put_json(reference, layers, more)
    }

    pub(crate) fn put_json(&self, reference: &str, layers: Vec<Value>, more: Value) -> Digest {
        let config = self.registry.put_blob("team/app", *b"{}");
        let mut manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": config.as_str(), "size": 2 },
            "layers": layers,
        });
        manifest.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        let bytes = manifest.to_string().into_bytes();
        let digest = Digest::sha256(&bytes);
        self.sizes.borrow_mut().insert(digest.clone(), bytes.len());
        let reference = if reference.is_empty() { digest.as_str() } else { reference };
        self.registry.put_manifest("team/app", reference, MANIFEST, bytes);
        digest
    }

    /// Signs `digest` as cosign 1 and 2 do: payloads and signatures under the tag `sha256-HEX.sig`.
    pub(crate) fn put_simple(&self, digest: &Digest, signatures: &[(Vec<u8>, Vec<u8>)]) {
        let layers: Vec<_> = signatures
            .iter()
            .map(|(payload, signature)| {
                (
                    SIMPLE,
                    &payload[..],
                    json!({ "dev.cosignproject.cosign/signature": STANDARD.encode(signature) }),
                )
            })
            .collect();
        self.put(&format!("{}.sig", digest.as_str().replace(':', "-")), &layers, json!({}));
    }

    /// Signs the image's index with each key, naming its repository.
    pub(crate) fn sign_simple(&self, keys: &[&Key]) {
        self.sign_simple_as(self.image.digest(), &self.repository(), keys);
    }

    pub(crate) fn sign_simple_as(&self, digest: &Digest, identity: &str, keys: &[&Key]) {
        let payload = payload(digest, identity);
        let signed: Vec<_> = keys.iter().map(|key| (payload.clone(), key.sign(&payload))).collect();
        self.put_simple(digest, &signed);
    }

    /// Attaches a bundle to `subject` as cosign 3 does; returns the descriptor for a list of referrers.
    pub(crate) fn put_bundle(&self, subject: &Digest, bundle: &Value) -> Value {
        self.put_bundle_bytes(subject, bundle.to_string().as_bytes())
    }

    pub(crate) fn put_bundle_bytes(&self, subject: &Digest, bytes: &[u8]) -> Value {
        let subject = json!({ "mediaType": INDEX, "digest": subject.as_str(), "size": 2 });
        let digest = self.put(
            "",
            &[(BUNDLE, bytes, json!({}))],
            json!({ "artifactType": BUNDLE, "subject": subject }),
        );
        self.entry(&digest, Some(BUNDLE))
    }

    /// The entry of a list of referrers.
    pub(crate) fn entry(&self, digest: &Digest, artifact_type: Option<&str>) -> Value {
        let size = self.sizes.borrow()[digest];
        let mut entry = json!({ "mediaType": MANIFEST, "digest": digest.as_str(), "size": size });
        if let Some(artifact_type) = artifact_type {
            entry["artifactType"] = artifact_type.into();
        }
        entry
    }

    /// Lists referrers under the fallback tag.
    pub(crate) fn list_by_tag(&self, subject: &Digest, entries: &[Value]) {
        let tag = subject.as_str().replace(':', "-");
        self.registry.put_manifest("team/app", &tag, INDEX, index(entries));
    }
}

pub(crate) fn index(entries: &[Value]) -> Vec<u8> {
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": entries }).to_string().into_bytes()
}

/// A payload of cosign's.
pub(crate) fn payload(digest: &Digest, identity: &str) -> Vec<u8> {
    json!({ "critical": {
        "identity": { "docker-reference": identity },
        "image": { "docker-manifest-digest": digest.as_str() },
        "type": "cosign container image signature",
    }, "optional": null })
    .to_string()
    .into_bytes()
}

/// An in-toto statement about these digests.
pub(crate) fn statement(digests: &[&Digest], predicate_type: &str) -> Vec<u8> {
    let subject: Vec<Value> =
        digests.iter().map(|digest| json!({ "digest": { "sha256": digest.hex() } })).collect();
    json!({ "_type": "https://in-toto.io/Statement/v1", "subject": subject, "predicateType": predicate_type, "predicate": {} })
        .to_string()
        .into_bytes()
}

/// A bundle with a statement in an envelope, signed by the key.
pub(crate) fn bundle(key: &Key, statement: &[u8]) -> Value {
    let payload_type = "application/vnd.in-toto+json";
    let head = format!("DSSEv1 {} {payload_type} {} ", payload_type.len(), statement.len());
    let signature = key.sign(&[head.as_bytes(), statement].concat());
    json!({
        "mediaType": BUNDLE,
        "verificationMaterial": { "publicKey": { "hint": "a key" }, "tlogEntries": [] },
        "dsseEnvelope": {
            "payload": STANDARD.encode(statement),
            "payloadType": payload_type,
            "signatures": [{ "sig": STANDARD.encode(signature), "keyid": "" }],
        },
    })
}
