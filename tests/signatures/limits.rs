//! Bounds on the signatures and lists that a registry sends.

use std::time::{Duration, Instant};

use oci_puller::ErrorKind;
use oci_puller::image::Digest;
use oci_puller::testing::{Action, Fault, FaultHandle, Target};
use serde_json::{Value, json};

use crate::sign::*;

/// Entries of a list of referrers that are no signatures.
fn others(count: u32) -> Vec<Value> {
    let entry = |n: u32| {
        let digest = Digest::sha256(&n.to_be_bytes());
        json!({ "mediaType": MANIFEST, "digest": digest.as_str(), "size": 9, "artifactType": "application/x-other" })
    };
    (0..count).map(entry).collect()
}

#[test]
fn more_referrers_than_the_limit_are_too_many() {
    let (key, world) = (Key::new(), World::new());
    let digest = world.image.digest();
    let mut entries = others(10_000);
    entries.insert(299, world.put_bundle(digest, &bundle(&key, &statement(&[digest], COSIGN_SIGN))));
    let policy = world.policy(key.signer());
    let is_too_many = || {
        let began = Instant::now();
        let error = world.pull(&world.name, &policy).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
        assert!(error.message().contains("too many"), "{error}");
        assert!(began.elapsed() < Duration::from_secs(10), "{:?}", began.elapsed());
    };
    world.list_by_tag(digest, &entries);
    is_too_many();
    let mut long = entries.clone();
    long[9_999]["annotations"] = json!({ "more": "x".repeat(4 << 20) });
    world.list_by_tag(digest, &long);
    is_too_many();
    // The same by the API, in eight pages.
    let page = |number: usize, entries: &[Value]| {
        let fault = Fault::on(Target::Referrers).path_containing(digest.as_str());
        let this = format!("page={number}");
        let fault = fault.when(move |request| match number {
            1 => !request.query.contains("page="),
            _ => request.query.contains(&this),
        });
        let link = format!("</v2/team/app/referrers/{digest}?page={}>; rel=\"next\"", number + 1);
        let fault = fault.with(Action::Status(200)).with(Action::header("Content-Type", INDEX));
        let fault = if number < 8 { fault.with(Action::header("Link", link)) } else { fault };
        world.registry.fault(fault.with(Action::Body(index(entries))))
    };
    let pages: Vec<_> =
        entries.chunks(1_251).enumerate().map(|(number, entries)| page(number + 1, entries)).collect();
    is_too_many();
    pages.iter().for_each(FaultHandle::remove);
    // Within the first 256 it is found.
    entries.truncate(1_000);
    entries.swap(10, 299);
    world.list_by_tag(digest, &entries);
    world.pull(&world.name, &policy).unwrap();
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
    for actions in [
        &[Action::Longer(5_000_000_000)][..],
        &[Action::Longer(u64::MAX)],
        &[Action::Longer(u64::MAX), Action::NoHeader("Content-Length".into())],
        &[Action::Longer(u64::MAX), Action::Chunked],
    ] {
        let before = world.registry.stats().blob_bytes;
        let fault = actions.iter().cloned().fold(Fault::on(Target::Blob), Fault::with);
        let fault = world.registry.fault(fault);
        let error = world.pull(&world.name, &world.policy(key.signer())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::SizeMismatch, "{actions:?}: {error}");
        // The kernel's buffers take more than the client reads.
        let sent = world.registry.stats().blob_bytes - before;
        assert!(sent < 64 << 20, "{actions:?}: {sent} bytes");
        fault.remove();
    }
}
