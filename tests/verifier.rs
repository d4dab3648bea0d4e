//! The caller's own check, between the manifest and the first blob.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::{Arc, Mutex};

use common::pulls::quick;
use oci_puller::testing::images::{Image, ImageBuilder};
use oci_puller::testing::{Registry, Target};
use oci_puller::{Candidate, ErrorKind, ImageVerifier};

/// A check that is a closure.
struct Check<F>(F);

impl<F: Fn(&Candidate<'_>) -> Result<(), String> + Send + Sync> ImageVerifier for Check<F> {
    fn verify(&self, candidate: &Candidate<'_>) -> Result<(), String> {
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
    check: impl Fn(&Candidate<'_>) -> Result<(), String> + Send + Sync + 'static,
) -> Result<(), oci_puller::Error> {
    let dir = tempfile::tempdir().unwrap();
    quick(dir.path()).verifier(Arc::new(Check(check))).build().unwrap().pull(name).map(drop)
}

#[test]
fn it_may_refuse_an_image_and_its_reason_is_told() {
    let (registry, _, name) = registry();
    let error = pull_with(&name, |_| Err("nobody signed it".into())).unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Denied, false));
    assert!(error.to_string().contains("nobody signed it"), "{error}");
    assert_eq!(registry.stats().blobs, 0, "no blob is fetched before");
}

#[test]
fn its_panic_is_a_refusal() {
    let (registry, _, name) = registry();
    let error = pull_with(&name, |_| panic!("a panic that is meant")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert_eq!(registry.stats().blobs, 0);
}

#[test]
fn it_sees_what_was_asked_for_and_what_it_stands_for() {
    let (_registry, image, name) = registry();
    let seen = Arc::new(Mutex::new(None));
    let told = seen.clone();
    pull_with(&name, move |candidate| {
        let digest = candidate.descriptor().digest.clone();
        *told.lock().unwrap() =
            Some((candidate.reference().to_string(), digest, candidate.manifest().to_vec()));
        Ok(())
    })
    .unwrap();
    let (reference, digest, manifest) = seen.lock().unwrap().take().unwrap();
    assert_eq!((reference, &digest), (name, image.digest()));
    assert!(image.variants().iter().any(|variant| *variant.manifest.data == *manifest));
}

#[test]
fn it_may_ask_what_refers_to_the_image() {
    let (registry, image, name) = registry();
    let signature = format!(
        r#"{{"schemaVersion":2,"mediaType":"application/vnd.oci.image.manifest.v1+json",
            "artifactType":"application/vnd.example.signature",
            "config":{{"mediaType":"application/vnd.oci.empty.v1+json","digest":"sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a","size":2}},
            "layers":[],
            "subject":{{"mediaType":"{}","digest":"{}","size":{}}}}}"#,
        image.media_type(),
        image.digest(),
        image.root().size(),
    );
    let signature = registry.put_manifest(
        "library/app",
        "signature",
        "application/vnd.oci.image.manifest.v1+json",
        signature.into_bytes(),
    );
    let found = Arc::new(Mutex::new(Vec::new()));
    let told = found.clone();
    pull_with(&name, move |candidate| {
        let index = candidate.referrers(&candidate.descriptor().digest).map_err(|error| error.to_string())?;
        told.lock().unwrap().extend(index.manifests.into_iter().map(|entry| entry.digest));
        Ok(())
    })
    .unwrap();
    assert_eq!(*found.lock().unwrap(), [signature]);
    assert!(registry.requests().iter().any(|request| request.target == Target::Referrers));
}
