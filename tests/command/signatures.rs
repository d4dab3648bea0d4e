//! `--policy` and `--require-key` of `pull`, `import` and `verify`.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use oci_puller::testing::Registry;
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_ASN1_SIGNING, EcdsaKeyPair, KeyPair};
use serde_json::json;

use crate::bench::{Bench, image, registry_with};

/// A P-256 key pair, and its public key as PEM.
fn key() -> (EcdsaKeyPair, String) {
    /// The beginning of a `SubjectPublicKeyInfo`, up to the point.
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
fn an_image_that_is_there_is_judged_by_its_kept_signatures() {
    let (bench, (registry, name)) = (Bench::new(), registry_with("app"));
    let ((key, pem), (_, other)) = (key(), key());
    sign(&registry, &key);
    let host = registry.host();
    let ours = format!("{host}={}", bench.file("key.pem", pem));
    let theirs = format!("{host}={}", bench.file("other.pem", other));
    bench.run(["pull", "--require-key", &ours, &name]).exits(0);
    registry.forget_requests();
    for choice in ["missing", "never"] {
        bench.run(["pull", "--require-key", &ours, "--pull", choice, &name]).exits(0);
    }
    let ran = bench.run(["pull", "--require-key", &theirs, "--pull", "never", &name]).exits(1);
    assert!(ran.stderr.contains(&format!("{name}: denied: 1 signature, by another key")), "{ran:#?}");
    assert!(registry.requests().is_empty());
    let ran = bench.run(["pull", "--require-key", &theirs, "--pull", "missing", &name]).exits(1);
    assert!(ran.stderr.contains("denied: "), "{ran:#?}");
    assert!(!registry.requests().is_empty(), "a refused image counts as missing");
}

#[test]
fn verify_judges_each_image_by_its_kept_signatures() {
    let (bench, (registry, name)) = (Bench::new(), registry_with("app"));
    let ((key, pem), (_, other)) = (key(), key());
    sign(&registry, &key);
    let host = registry.host();
    let ours = format!("{host}={}", bench.file("key.pem", pem));
    let theirs = format!("{host}={}", bench.file("other.pem", other));
    bench.run(["pull", "--require-key", &ours, &name]).exits(0);
    bench.run(["verify", "--signatures", "--require-key", &ours]).exits(0);
    let ran = bench.run(["verify", "--signatures", "--require-key", &theirs]).exits(1);
    assert_eq!(ran.stdout, format!("refused     {name}: denied: 1 signature, by another key\n"));
    let ran = bench.run(["verify", "--signatures", "--json", "--require-key", &theirs]).exits(1);
    assert_eq!(ran.json()[0]["refused"], json!([{ "image": name, "reason": "1 signature, by another key" }]));
    let accept = bench.file("policy.json", r#"{"default": [{"type": "insecureAcceptAnything"}]}"#);
    bench.run(["verify", "--signatures", "--policy", &accept]).exits(0);
    bench.run(["verify"]).exits(0);
    for wrong in [&["--signatures"][..], &["--policy", &accept], &["--require-key", &ours]] {
        bench.run(["verify"].iter().chain(wrong)).exits(2);
    }
}

#[test]
fn import_judges_each_image_by_the_signatures_in_the_archive() {
    let (bench, (registry, name)) = (Bench::new(), registry_with("app"));
    let ((key, pem), (_, other)) = (key(), key());
    sign(&registry, &key);
    let host = registry.host();
    let ours = format!("{host}={}", bench.file("key.pem", pem));
    let theirs = format!("{host}={}", bench.file("other.pem", other));
    let (signed, unsigned) = (bench.path("signed.tar"), bench.path("unsigned.tar"));
    let export = |to: &std::path::Path| {
        bench.run(["export", &name, "--output", to.to_str().unwrap()]).exits(0);
    };
    bench.run(["pull", &name]).exits(0);
    export(&unsigned);
    bench.run(["pull", "--require-key", &ours, &name]).exits(0);
    export(&signed);
    for (archive, rule, code, told) in [
        (&signed, &ours, 0, ""),
        (&signed, &theirs, 1, "denied: 1 signature, by another key"),
        (&unsigned, &ours, 1, "denied: no signature was found"),
    ] {
        let bench = Bench::new();
        let archive = archive.to_str().unwrap();
        let ran = bench.run(["import", "--require-key", rule, archive]).exits(code);
        assert!(ran.stderr.contains(told), "{ran:#?}");
        let listed = if code == 0 { 1 } else { 0 };
        assert_eq!(bench.run(["images", "--json"]).exits(0).json().len(), listed, "{ran:#?}");
        if code == 0 {
            bench.run(["verify", "--signatures", "--require-key", rule]).exits(0);
        }
    }
    let reject = bench.file("policy.json", r#"{"default": [{"type": "reject"}]}"#);
    let ran = bench.run(["import", "--policy", &reject, signed.to_str().unwrap()]).exits(1);
    assert!(ran.stderr.contains("refuses it by default"), "{ran:#?}");
}

#[test]
fn a_rule_without_a_scope_or_a_key_file_is_a_wrong_argument() {
    let bench = Bench::new();
    for wrong in ["key.pem", "=key.pem", "scope=/does/not/exist"] {
        bench.run(["pull", "--require-key", wrong, "app"]).exits(2);
    }
}
