//! How long one verification takes: an image in the store is judged by its kept signature.
//!
//! The bound is 1 ms of CPU. A run reads the signature and the manifest from the store, too.
#![allow(missing_docs, clippy::unwrap_used)]

use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use criterion::{Criterion, criterion_group, criterion_main};
use oci_puller::RegistryImageService;
use oci_puller::signatures::{SignaturePolicy, Signer};
use oci_puller::testing::Registry;
use oci_puller::testing::images::ImageBuilder;
use ring::rand::SystemRandom;
use ring::signature::{
    ECDSA_P256_SHA256_ASN1_SIGNING, ECDSA_P384_SHA384_ASN1_SIGNING, EcdsaKeyPair, Ed25519KeyPair, KeyPair,
};
use serde_json::json;

/// The SubjectPublicKeyInfo of each type, up to the key, in hexadecimal.
const P256: &str = "3059301306072a8648ce3d020106082a8648ce3d030107034200";
const P384: &str = "3076301006072a8648ce3d020106052b81040022036200";
const ED25519: &str = "302a300506032b6570032100";

type Sign = Box<dyn Fn(&[u8]) -> Vec<u8>>;

struct Key {
    pem: String,
    sign: Sign,
}

fn key(head: &str, public: &[u8], sign: impl Fn(&[u8]) -> Vec<u8> + 'static) -> Key {
    let byte = |at| u8::from_str_radix(&head[at..at + 2], 16).unwrap();
    let der: Vec<u8> = (0..head.len()).step_by(2).map(byte).chain(public.iter().copied()).collect();
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der));
    Key { pem, sign: Box::new(sign) }
}

fn keys() -> [(&'static str, Key); 3] {
    let random = SystemRandom::new();
    let ecdsa = |head: &str, algorithm| {
        let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
        let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap();
        let public = pair.public_key().as_ref().to_vec();
        key(head, &public, move |message| pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec())
    };
    let ed25519 =
        Ed25519KeyPair::from_pkcs8(Ed25519KeyPair::generate_pkcs8(&random).unwrap().as_ref()).unwrap();
    let public = ed25519.public_key().as_ref().to_vec();
    [
        ("p256", ecdsa(P256, &ECDSA_P256_SHA256_ASN1_SIGNING)),
        ("p384", ecdsa(P384, &ECDSA_P384_SHA384_ASN1_SIGNING)),
        ("ed25519", key(ED25519, &public, move |message| ed25519.sign(message).as_ref().to_vec())),
    ]
}

fn verifications(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("verify_signatures");
    for (name, key) in keys() {
        let registry = Registry::start().unwrap();
        let image = ImageBuilder::new("app").layer(1_000).build();
        let reference = registry.push(&image, "1");
        let payload = json!({
            "critical": {
                "identity": { "docker-reference": format!("{}/app", registry.host()) },
                "image": { "docker-manifest-digest": image.digest().as_str() },
                "type": "cosign container image signature",
            },
            "optional": null,
        });
        let payload = payload.to_string().into_bytes();
        let signature = STANDARD.encode((key.sign)(&payload));
        let layer = json!({
            "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json",
            "digest": registry.put_blob("app", payload.clone()).as_str(),
            "size": payload.len(),
            "annotations": { "dev.cosignproject.cosign/signature": signature },
        });
        let config = registry.put_blob("app", *b"{}");
        let config =
            json!({ "mediaType": "application/vnd.oci.empty.v1+json", "digest": config.as_str(), "size": 2 });
        let media_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest =
            json!({ "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": [layer] });
        let tag = format!("{}.sig", image.digest().as_str().replace(':', "-"));
        registry.put_manifest("app", &tag, media_type, manifest.to_string().into_bytes());

        let policy = SignaturePolicy::builder().require(registry.host(), Signer::key(&key.pem).unwrap());
        let policy = policy.build().unwrap();
        let dir = tempfile::tempdir().unwrap();
        let service = RegistryImageService::builder(dir.path()).no_proxy().verifier(Arc::new(policy.clone()));
        let service = service.build().unwrap();
        service.pull(&*reference).unwrap();
        let stored = service.store().find(&reference).unwrap().unwrap();
        group.bench_function(name, |bencher| {
            bencher.iter(|| service.store().verify_signatures(&stored, &policy).unwrap());
        });
    }
}

criterion_group!(benches, verifications);
criterion_main!(benches);
