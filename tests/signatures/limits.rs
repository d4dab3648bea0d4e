//! What a registry sends in the place of signatures is bounded.

use std::time::{Duration, Instant};

use oci_puller::ErrorKind;
use oci_puller::image::Digest;
use oci_puller::testing::{Action, Fault, Target};
use serde_json::json;

use crate::sign::*;

#[test]
fn more_referrers_than_the_limit_are_too_many() {
    let (key, world) = (Key::new(), World::new());
    let digest = world.image.digest();
    let mut entries: Vec<_> = (0..2_000u32)
        .map(|n| {
            let other = Digest::sha256(&n.to_be_bytes());
            json!({ "mediaType": MANIFEST, "digest": other.as_str(), "size": 9, "artifactType": "application/x-other" })
        })
        .collect();
    let ours = world.put_bundle(digest, &bundle(&key, &statement(&[digest], COSIGN_SIGN)));
    entries.insert(299, ours.clone());
    world.list_by_tag(digest, &entries);
    let began = Instant::now();
    let error = world.pull(&world.name, &world.policy(key.signer())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.message().contains("too many"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(5));
    // Within the first 256 it is found.
    entries.swap(10, 299);
    world.list_by_tag(digest, &entries);
    world.pull(&world.name, &world.policy(key.signer())).unwrap();
}

#[test]
fn pages_without_end_are_too_many() {
    let (key, world) = (Key::new(), World::new().with_referrers_api());
    let path = format!("/v2/team/app/referrers/{}", world.image.digest());
    let page = Fault::on(Target::Referrers);
    let pages = world.registry.fault(
        page.with(Action::header("Content-Type", INDEX))
            .with(Action::header("Link", format!("<{path}?again>; rel=\"next\"")))
            .with(Action::Body(index(&[json!({
                "mediaType": MANIFEST, "digest": Digest::sha256(b"x").as_str(), "size": 9, "artifactType": "application/x-other",
            })]))),
    );
    let error = world.pull(&world.name, &world.policy(key.signer())).unwrap_err();
    assert!(error.message().contains("too many"), "{error}");
    assert!(pages.fired() <= 16, "{}", pages.fired());
}

#[test]
fn more_signatures_than_the_limit_are_too_many() {
    let (k1, k2) = (Key::new(), Key::new());
    let world = World::new();
    let others: Vec<&Key> = std::iter::repeat_n(&k2, 40).chain([&k1]).collect();
    world.sign_simple(&others);
    let error = world.pull(&world.name, &world.policy(k1.signer())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.message().contains("too many"), "{error}");
    let host = world.registry.host();
    let builder = oci_puller::signatures::SignaturePolicy::builder().require(host, k1.signer());
    world.pull(&world.name, &builder.limits(64, 64 << 10).build().unwrap()).unwrap();
}

#[test]
fn a_signature_that_is_too_large_is_not_fetched() {
    let (key, world) = (Key::new(), World::new());
    let digest = world.image.digest();
    let large =
        json!({ "mediaType": SIMPLE, "digest": Digest::sha256(b"x").as_str(), "size": 5_000_000_000u64 });
    world.put_json(&format!("sha256-{}.sig", digest.hex()), vec![large], json!({}));
    let error = world.pull(&world.name, &world.policy(key.signer())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    assert!(error.message().contains("larger than 65536 bytes"), "{error}");
    assert_eq!(world.registry.stats().blobs, 0);
}

#[test]
fn a_signature_that_is_longer_than_it_says_is_cut() {
    let (key, world) = (Key::new(), World::new());
    world.sign_simple(&[&key]);
    let body = vec![b'x'; 4 << 20];
    world.registry.fault(Fault::on(Target::Blob).with(Action::Body(body)));
    let error = world.pull(&world.name, &world.policy(key.signer())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::SizeMismatch, "{error}");
}
