//! Bundles that sigstore's own JavaScript made.

use oci_puller::image::Digest;
use oci_puller::signatures::Signer;
use oci_puller::{Error, ErrorKind, PulledImage};
use serde_json::Value;

use crate::sign::{Key, MANIFEST, World};

macro_rules! fixture {
    ($name:literal) => {
        include_str!(concat!("sigstore_js/", $name))
    };
}

/// Pulls the fixtures' image with a policy that requires the key; `bundle` is its only signature.
fn pull(bundle: &str, key: &str) -> Result<PulledImage, Error> {
    let world = World::new();
    world.registry.put_blob("team/app", fixture!("config.json").as_bytes());
    world.registry.put_manifest("team/app", "fixture", MANIFEST, fixture!("manifest.json").as_bytes());
    let digest = Digest::sha256(fixture!("manifest.json").as_bytes());
    let entry = world.put_bundle_bytes(&digest, bundle.as_bytes());
    world.list_by_tag(&digest, &[entry]);
    world.pull(&format!("{}:fixture", world.repository()), &world.policy(Signer::key(key)?))
}

#[test]
fn bundles_by_a_key_are_verified() {
    let (p256, rsa) = (fixture!("p256.pub"), fixture!("rsa2048.pub"));
    for (bundle, key) in [
        (fixture!("p256.json"), p256),
        (fixture!("rsa2048.json"), rsa),
        (fixture!("p256_message.json"), p256),
    ] {
        pull(bundle, key).unwrap();
    }
}

#[test]
fn other_bundles_and_changed_bundles_are_denied() {
    let p256 = fixture!("p256.pub");
    let changed = |pointer: &str| {
        let mut bundle: Value = serde_json::from_str(fixture!("p256.json")).unwrap();
        let text = bundle.pointer_mut(pointer).unwrap();
        let mut characters: Vec<char> = text.as_str().unwrap().chars().collect();
        let middle = characters.len() / 2;
        characters[middle] = if characters[middle] == 'A' { 'B' } else { 'A' };
        *text = characters.into_iter().collect::<String>().into();
        bundle.to_string()
    };
    for (bundle, key, part) in [
        (fixture!("p256.json").to_owned(), Key::new().pem(), "by another key"),
        (changed("/dsseEnvelope/payload"), p256.to_owned(), "by another key"),
        (changed("/dsseEnvelope/signatures/0/sig"), p256.to_owned(), "by another key"),
        (fixture!("p256_provenance.json").to_owned(), p256.to_owned(), "an attestation, not a signature"),
        (fixture!("keyless.json").to_owned(), p256.to_owned(), "by another key"),
    ] {
        let error = pull(&bundle, &key).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        assert!(error.message().contains(part), "{error}");
    }
}
