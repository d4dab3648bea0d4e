//! `pull --policy` and `--require-key`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use oci_puller::testing::Registry;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::json;

use crate::bench::{Bench, image, registry_with};

/// A P-256 key pair, and its public key as PEM.
fn key() -> (EcdsaKeyPair, String) {
    /// What stands before the point in a `SubjectPublicKeyInfo`.
    const HEAD: &str = "MFkwEwYHKoZIzj0CAQYIKoZIzj0DAQcDQgAE";
    let (algorithm, random) = (&ECDSA_P256_SHA256_ASN1_SIGNING, SystemRandom::new());
    let pkcs8 = EcdsaKeyPair::generate_pkcs8(algorithm, &random).unwrap();
    let pair = EcdsaKeyPair::from_pkcs8(algorithm, pkcs8.as_ref(), &random).unwrap();
    let der = [&STANDARD.decode(HEAD).unwrap()[..], &pair.public_key().as_ref()[1..]].concat();
    let pem = format!("-----BEGIN PUBLIC KEY-----\n{}\n-----END PUBLIC KEY-----\n", STANDARD.encode(der));
    (pair, pem)
}

/// Signs `app:1.0` as cosign 2 does.
fn sign(registry: &Registry, key: &EcdsaKeyPair) {
    let digest = image("app").digest().to_string();
    let payload = json!({
        "critical": {
            "identity": { "docker-reference": format!("{}/app", registry.host()) },
            "image": { "docker-manifest-digest": digest },
            "type": "cosign container image signature",
        },
        "optional": null,
    });
    let payload = payload.to_string().into_bytes();
    let signature = STANDARD.encode(key.sign(&SystemRandom::new(), &payload).unwrap());
    let layer = json!({
        "mediaType": "application/vnd.dev.cosign.simplesigning.v1+json",
        "digest": registry.put_blob("app", payload.clone()).as_str(),
        "size": payload.len(),
        "annotations": { "dev.cosignproject.cosign/signature": signature },
    });
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let config = json!({
        "mediaType": "application/vnd.oci.image.config.v1+json",
        "digest": registry.put_blob("app", *b"{}").as_str(),
        "size": 2,
    });
    let manifest =
        json!({ "schemaVersion": 2, "mediaType": media_type, "config": config, "layers": [layer] });
    let tag = format!("{}.sig", digest.replace(':', "-"));
    registry.put_manifest("app", &tag, media_type, manifest.to_string().into_bytes());
}

#[test]
fn only_what_the_required_key_has_signed_is_pulled() {
    let (bench, (registry, name)) = (Bench::new(), registry_with("app"));
    let ((key, pem), (_, other)) = (key(), key());
    sign(&registry, &key);
    let (pem, other) = (bench.file("key.pem", pem), bench.file("other.pem", other));
    let host = registry.host();
    for (rule, code, told) in [
        (format!("{host}/app={pem}"), 0, ""),
        (format!("{host}={pem}"), 0, ""),
        (format!("{host}/app={other}"), 1, "denied: "),
        (format!("quay.io/team={pem}"), 1, "no rule of the signature policy covers it"),
    ] {
        let ran = bench.run(["pull", "--require-key", &rule, &name]).exits(code);
        assert!(ran.stderr.contains(told), "{rule}: {ran:#?}");
    }
    let broken = bench.file("broken.pem", "no key");
    let ran = bench.run(["pull", "--require-key", &format!("{host}={broken}"), &name]).exits(1);
    assert!(ran.errors()[0].contains("broken.pem"), "{ran:#?}");
}

#[test]
fn a_policy_file_decides() {
    let (bench, (_registry, name)) = (Bench::new(), registry_with("app"));
    for (default, code) in [("insecureAcceptAnything", 0), ("reject", 1)] {
        let policy = bench.file("policy.json", json!({ "default": [{ "type": default }] }).to_string());
        let ran = bench.run(["pull", "--policy", &policy, &name]).exits(code);
        assert_eq!(ran.stderr.contains("denied: the signature policy refuses it"), code == 1, "{ran:#?}");
    }
    let broken = bench.file("policy.json", "{}");
    assert!(bench.run(["pull", "--policy", &broken, &name]).exits(1).errors()[0].contains("policy.json"));
}

#[test]
fn signatures_are_not_skipped_for_what_is_in_the_store() {
    let bench = Bench::new();
    let policy = bench.file("policy.json", r#"{"default": [{"type": "reject"}]}"#);
    for choice in ["missing", "never", "if-possible"] {
        let ran = bench.run(["pull", "--policy", &policy, "--pull", choice, "app"]).exits(2);
        assert!(ran.stderr.contains("use --pull always"), "{ran:#?}");
    }
    for wrong in ["key.pem", "=key.pem", "scope=/does/not/exist"] {
        bench.run(["pull", "--require-key", wrong, "app"]).exits(2);
    }
}
