//! The caller's own check, between the manifest and the first layer: verdicts, and what a verifier can read.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::{Arc, Mutex};

use common::pulls::quick;
use oci_puller::image::{Descriptor, Digest};
use oci_puller::registry::{Candidate, ImageVerifier, Referrers, VerifyError};
use oci_puller::testing::images::{Image, ImageBuilder};
use oci_puller::testing::{Action, Fault, Registry, SeenRequest, Target};
use oci_puller::{Error, ErrorKind};
use serde_json::{Value, json};

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A verifier that is a closure.
struct Check<F>(F);

impl<F: Fn(&Candidate<'_>) -> Result<(), VerifyError> + Send + Sync> ImageVerifier for Check<F> {
    fn verify(&self, candidate: &Candidate<'_>) -> Result<(), VerifyError> {
        (self.0)(candidate)
    }
}

fn registry() -> (Registry, Image, String) {
    let registry = Registry::start().unwrap();
    let image =
        ImageBuilder::new("library/app").layer(5_000).platforms(["linux/amd64", "linux/arm64"]).build();
    let name = registry.push(&image, "v1");
    (registry, image, name)
}

fn pull_with(
    name: &str,
    check: impl Fn(&Candidate<'_>) -> Result<(), VerifyError> + Send + Sync + 'static,
) -> Result<(), Error> {
    let dir = tempfile::tempdir().unwrap();
    quick(dir.path()).verifier(Arc::new(Check(check))).build().unwrap().pull(name).map(drop)
}

/// Pulls with a verifier that asks something, and returns the answer.
fn ask<T: Send + 'static>(
    name: &str,
    question: impl Fn(&Candidate<'_>) -> Result<T, Error> + Send + Sync + 'static,
) -> Result<T, Error> {
    let answer = Arc::new(Mutex::new(None));
    let told = answer.clone();
    pull_with(name, move |candidate| {
        *told.lock().unwrap() = Some(question(candidate)?);
        Ok(())
    })?;
    Ok(answer.lock().unwrap().take().unwrap())
}

fn referrers(name: &str) -> Result<Referrers, Error> {
    ask(name, |candidate| candidate.referrers(&candidate.descriptor().digest))
}

fn digests(referrers: &Referrers) -> Vec<&Digest> {
    referrers.manifests.iter().map(|entry| &entry.digest).collect()
}

/// A manifest with no layers whose subject is the image; a field that is null in `more` is left out.
fn signature(image: &Image, more: Value) -> Vec<u8> {
    let mut manifest = json!({
        "schemaVersion": 2,
        "mediaType": MANIFEST,
        "artifactType": "application/vnd.example.signature",
        "config": { "mediaType": "application/vnd.oci.empty.v1+json", "digest": Digest::sha256(b"{}").as_str(), "size": 2 },
        "layers": [],
        "subject": { "mediaType": image.media_type(), "digest": image.digest().as_str(), "size": image.root().size() },
    });
    let fields = manifest.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    fields.retain(|_, value| !value.is_null());
    manifest.to_string().into_bytes()
}

/// An index whose entries have no artifact type.
fn index_of(manifests: &[&[u8]]) -> Vec<u8> {
    let entry = |manifest: &&[u8]| json!({ "mediaType": MANIFEST, "digest": Digest::sha256(manifest).as_str(), "size": manifest.len() });
    let manifests: Vec<Value> = manifests.iter().map(entry).collect();
    json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests }).to_string().into_bytes()
}

/// The tag that registries without the referrers API use.
fn fallback_tag(image: &Image) -> String {
    image.digest().as_str().replace(':', "-")
}

#[test]
fn a_verifier_may_refuse_an_image_with_a_reason() {
    let (registry, _, name) = registry();
    let error = pull_with(&name, |_| Err(VerifyError::Denied("nobody signed it".into()))).unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Denied, false));
    assert!(error.to_string().contains("nobody signed it"), "{error}");
    assert_eq!(registry.stats().blobs, 0, "no blob is fetched before");
}

#[test]
fn a_check_that_was_not_completed_keeps_its_kind() {
    let (registry, _, name) = registry();
    for (kind, is_retryable) in [(ErrorKind::Timeout, true), (ErrorKind::Protocol, false)] {
        let failure = Error::new(kind, "no word from the key server").with_retryable(is_retryable);
        let error = pull_with(&name, move |_| Err(failure.clone().into())).unwrap_err();
        assert_eq!((error.kind(), error.is_retryable()), (kind, is_retryable));
        assert_eq!(error.image(), Some(&*name));
    }
    assert_eq!(registry.stats().blobs, 0);
}

#[test]
fn its_panic_is_a_refusal() {
    let (registry, _, name) = registry();
    let error = pull_with(&name, |_| panic!("a panic that is meant")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert_eq!(registry.stats().blobs, 0);
}

#[test]
fn a_verifier_sees_the_name_and_the_resolved_image() {
    let (_registry, image, name) = registry();
    let asked = name.clone();
    ask(&name, move |candidate| {
        assert_eq!(candidate.reference().to_string(), asked);
        assert_eq!(&candidate.descriptor().digest, image.digest());
        assert_eq!(candidate.root(), &*image.root().data);
        let is_chosen = |manifest: &[u8]| Digest::sha256(manifest) == candidate.platform_manifest().digest;
        assert!(is_chosen(candidate.manifest()));
        assert!(image.variants().iter().any(|variant| is_chosen(&variant.manifest.data)));
        Ok(())
    })
    .unwrap();
}

#[test]
fn referrers_are_listed_by_the_api() {
    let (registry, image, name) = registry();
    let signature = registry.put_manifest("library/app", "s", MANIFEST, signature(&image, json!({})));
    let found = referrers(&name).unwrap();
    assert_eq!(digests(&found), [&signature]);
    assert!(found.is_complete);
    let fetched_signatures = |request: &&SeenRequest| request.path.ends_with(signature.as_str());
    assert_eq!(registry.requests().iter().filter(fetched_signatures).count(), 0, "the list has the type");
}

#[test]
fn an_image_that_nothing_refers_to_has_no_referrers() {
    let (registry, _, name) = registry();
    assert_eq!(referrers(&name).unwrap(), referrers(&name).unwrap());
    for status in [400, 404, 405, 406] {
        registry.fault(Fault::on(Target::Referrers).with(Action::Status(status)));
        let found = referrers(&name).unwrap();
        assert!(found.manifests.is_empty() && found.is_complete, "{status}");
    }
}

#[test]
fn a_registry_without_the_api_is_asked_for_the_tag_and_types_come_from_the_manifests() {
    let unknown: [&[Action]; 4] = [
        &[Action::Status(404)],
        &[Action::Status(405)],
        &[Action::Status(400)],
        &[Action::Header("Content-Type".into(), "text/html".into()), Action::Body(b"<html>hello".to_vec())],
    ];
    for actions in unknown {
        let (registry, image, name) = registry();
        let typed = signature(&image, json!({}));
        let by_config = signature(&image, json!({ "artifactType": null }));
        let lost = signature(&image, json!({ "annotations": { "never": "pushed" } }));
        for manifest in [&typed, &by_config] {
            registry.put_manifest("library/app", "x", MANIFEST, manifest.clone());
        }
        registry.put_manifest(
            "library/app",
            &fallback_tag(&image),
            INDEX,
            index_of(&[&typed, &lost, &by_config]),
        );
        registry.fault(actions.iter().cloned().fold(Fault::on(Target::Referrers), Fault::with));

        let found = referrers(&name).unwrap();
        let types: Vec<_> = found.manifests.iter().map(|entry| entry.artifact_type.as_deref()).collect();
        let expected =
            [Some("application/vnd.example.signature"), None, Some("application/vnd.oci.empty.v1+json")];
        assert_eq!(types, expected, "{actions:?}");
    }
}

#[test]
fn pages_are_followed_at_the_same_host_and_at_most_eight_of_them() {
    let page =
        |number: usize, manifest: &[u8], next: &str| {
            let last = format!("last={number}");
            Fault::on(Target::Referrers)
                .when(move |request| {
                    if number == 0 { !request.query.contains("last=") } else { request.query.contains(&last) }
                })
                .with(Action::Body(index_of(&[manifest])))
                .with(Action::header("Link", format!("<{next}>; rel=\"next\"")))
        };
    // The links, how many manifests come of them, and whether these are all.
    let endless: Vec<String> = (1..20).map(|number| format!("?last={number}")).collect();
    let two = vec!["?last=1".to_owned(), String::new()];
    for (links, pages, is_complete) in [(two, 2, true), (endless, 8, false)] {
        let (registry, image, name) = registry();
        for (number, link) in links.iter().enumerate() {
            let manifest = signature(&image, json!({ "annotations": { "page": number.to_string() } }));
            registry.put_manifest("library/app", "x", MANIFEST, manifest.clone());
            let mut fault = page(number, &manifest, link);
            if link.is_empty() {
                fault = fault.with(Action::NoHeader("Link".into()));
            }
            registry.fault(fault);
        }
        let found = referrers(&name).unwrap();
        assert_eq!((found.manifests.len(), found.is_complete), (pages, is_complete));
        assert_eq!(registry.stats().referrers, pages as u64);
    }

    let (registry, image, name) = registry();
    let other = Registry::start().unwrap();
    registry.fault(page(
        0,
        &signature(&image, json!({})),
        &format!("{}/v2/x", other.url().replace("127.0.0.1", "localhost")),
    ));
    assert_eq!(referrers(&name).unwrap_err().kind(), ErrorKind::Protocol);
    assert_eq!(other.stats().requests, 0);
}

#[test]
fn a_mirror_without_referrers_does_not_hide_those_of_the_registry() {
    for actions in [vec![], vec![Action::Status(404)], vec![Action::Status(500)]] {
        let (registry, image, name) = registry();
        let mirror = Registry::start().unwrap();
        mirror.push(&image, "v1");
        let signature = registry.put_manifest("library/app", "s", MANIFEST, signature(&image, json!({})));
        mirror.fault(actions.iter().cloned().fold(Fault::on(Target::Referrers), Fault::with));
        let found = Arc::new(Mutex::new(None));
        let told = found.clone();
        let check = Check(move |candidate: &Candidate<'_>| {
            *told.lock().unwrap() = Some(candidate.referrers(&candidate.descriptor().digest)?);
            Ok(())
        });
        let dir = tempfile::tempdir().unwrap();
        let service = quick(dir.path()).mirror(registry.host(), mirror.url()).verifier(Arc::new(check));
        service.build().unwrap().pull(&*name).unwrap();
        assert_eq!(digests(found.lock().unwrap().as_ref().unwrap()), [&signature], "{actions:?}");
    }
}

#[test]
fn trouble_with_the_referrers_is_no_verdict() {
    for (status, kind) in [
        (401, ErrorKind::Unauthorized),
        (403, ErrorKind::Denied),
        (429, ErrorKind::RateLimited),
        (500, ErrorKind::Unavailable),
    ] {
        let (registry, _, name) = registry();
        registry.fault(Fault::on(Target::Referrers).with(Action::Status(status)));
        let error = referrers(&name).unwrap_err();
        assert_eq!(error.kind(), kind);
        assert_eq!(error.is_retryable(), matches!(status, 429 | 500), "{status}");
        let tries = if error.is_retryable() { 3 } else { 1 };
        assert_eq!(registry.stats().referrers, tries, "{status}: retried as the pull is");
    }
}

#[test]
fn manifests_are_fetched_by_tag_or_digest() {
    let (registry, image, name) = registry();
    let bytes = signature(&image, json!({}));
    let digest = registry.put_manifest("library/app", "sig-1", MANIFEST, bytes.clone());
    let by_digest = digest.to_string();
    let fetched = ask(&name, move |candidate| {
        let again = candidate.fetch_manifest(&by_digest)?;
        assert_eq!(again.bytes, candidate.fetch_manifest(&by_digest)?.bytes);
        candidate.fetch_manifest("sig-1")
    })
    .unwrap();
    assert_eq!((fetched.descriptor.digest, fetched.bytes), (digest.clone(), bytes));
    let by_digest = |request: &&SeenRequest| {
        request.target == Target::Manifest && request.path.ends_with(digest.as_str())
    };
    assert_eq!(registry.requests().iter().filter(by_digest).count(), 1, "it is remembered");

    registry.put_manifest("library/app", "long", MANIFEST, vec![b' '; (1 << 20) + 1]);
    for (reference, kind) in [
        ("absent", ErrorKind::NotFound),
        ("../blobs/x", ErrorKind::InvalidReference),
        ("", ErrorKind::InvalidReference),
        ("md5:d41d8cd98f00b204e9800998ecf8427e", ErrorKind::Unsupported),
        ("long", ErrorKind::Protocol),
    ] {
        let error = ask(&name, move |candidate| candidate.fetch_manifest(reference)).unwrap_err();
        assert_eq!(error.kind(), kind, "{reference}: {error}");
        assert!(!error.is_retryable(), "{reference}");
    }
}

#[test]
fn a_verifier_fetches_small_blobs_that_match_their_descriptor() {
    let (registry, _, name) = registry();
    let payload = registry.put_blob("library/app", b"a payload".to_vec());
    let long = registry.put_blob("library/app", vec![b'x'; 8 << 20]);
    let absent = Digest::sha256(b"absent");
    for (digest, size, expected) in [
        (&payload, 9, Ok(b"a payload".to_vec())),
        (&payload, 8, Err(ErrorKind::SizeMismatch)),
        (&payload, 10, Err(ErrorKind::SizeMismatch)),
        (&payload, 5 << 30, Err(ErrorKind::InvalidManifest)),
        (&long, 100, Err(ErrorKind::SizeMismatch)),
        (&absent, 9, Err(ErrorKind::NotFound)),
    ] {
        let before = registry.stats().body_bytes;
        let descriptor = Descriptor::new("application/octet-stream", digest.clone(), size);
        let fetched = ask(&name, move |candidate| candidate.fetch_blob(&descriptor));
        assert_eq!(fetched.map_err(|error| error.kind()), expected, "{digest} {size}");
        assert!(registry.stats().body_bytes - before < 8 << 20, "it is not read to its end");
    }

    registry.fault(Fault::on(Target::Blob).path_containing(payload.as_str()).with(Action::Corrupt(3)));
    let descriptor = Descriptor::new("application/octet-stream", payload, 9);
    let error = ask(&name, move |candidate| candidate.fetch_blob(&descriptor)).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DigestMismatch);
}
