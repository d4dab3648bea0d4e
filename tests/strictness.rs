//! Documents that are refused before any blob is fetched, and oddities that are accepted.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

mod common;

use common::pulls::quick;
use oci_puller::image::Digest;
use oci_puller::registry::RegistryImageServiceBuilder;
use oci_puller::testing::images::{Image, ImageBuilder};
use oci_puller::testing::{Fault, Registry, Target};
use oci_puller::{Error, ErrorKind, PullContext, PulledImage};
use serde_json::{Value, json};

fn pull(
    image: &Image,
    change: impl FnOnce(RegistryImageServiceBuilder) -> RegistryImageServiceBuilder,
) -> (Result<PulledImage, Error>, Registry) {
    let registry = Registry::start().unwrap();
    let name = registry.push(image, "v1");
    let dir = tempfile::tempdir().unwrap();
    let outcome = change(quick(dir.path())).build().unwrap().pull(&*name);
    (outcome, registry)
}

fn with_manifest(change: impl Fn(&mut Value) + Send + Sync + 'static) -> Image {
    let rewrite = move |bytes: Vec<u8>| {
        let mut manifest: Value = serde_json::from_slice(&bytes).unwrap();
        change(&mut manifest);
        manifest.to_string().into_bytes()
    };
    ImageBuilder::new("library/app").layer(5_000).rewrite_manifest(rewrite).build()
}

#[test]
fn a_manifest_that_is_wrong_is_refused_once_and_before_any_blob_is_fetched() {
    type Change = fn(&mut Value);
    let cases: [(&str, Change, ErrorKind); 12] = [
        ("fields of an index", |it| it["manifests"] = it["layers"].clone(), ErrorKind::InvalidManifest),
        ("no config", |it| it["config"] = Value::Null, ErrorKind::InvalidManifest),
        ("a negative size", |it| it["layers"][0]["size"] = json!(-1), ErrorKind::InvalidManifest),
        ("an absurd size", |it| it["layers"][0]["size"] = json!(1e300), ErrorKind::InvalidManifest),
        ("a config too large", |it| it["config"]["size"] = json!(5 << 20), ErrorKind::InvalidManifest),
        ("another case", |it| it["Layers"] = json!([]), ErrorKind::InvalidManifest),
        ("another media type", |it| it["mediaType"] = json!("text/plain"), ErrorKind::InvalidManifest),
        ("schema 1", |it| it["schemaVersion"] = json!(1), ErrorKind::Unsupported),
        (
            "too many descriptors",
            |it| it["layers"] = Value::Array(vec![it["layers"][0].clone(); 4097]),
            ErrorKind::InvalidManifest,
        ),
        ("wrong inline data", |it| it["layers"][0]["data"] = json!("AAAA"), ErrorKind::InvalidManifest),
        ("no hash", |it| it["layers"][0]["digest"] = json!("sha256:xyz"), ErrorKind::InvalidManifest),
        ("nothing, by another hash", |it| it["layers"][0]["size"] = json!(0), ErrorKind::InvalidManifest),
    ];
    for (name, change, kind) in cases {
        let (outcome, registry) = pull(&with_manifest(change), |builder| builder);
        let error = outcome.expect_err(name);
        assert_eq!(error.kind(), kind, "{name}: {error}");
        assert_eq!((registry.stats().manifests, registry.stats().blobs), (1, 0), "{name}");
    }
}

#[test]
fn an_image_larger_than_the_builder_allows_is_refused() {
    let image = ImageBuilder::new("library/app").layer(5_000).build();
    let (outcome, registry) = pull(&image, |builder| builder.max_image_size(1_000));
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::InvalidManifest);
    assert_eq!(registry.stats().blobs, 0);
}

#[test]
fn a_repeated_layer_is_fetched_once() {
    let image = ImageBuilder::new("library/app").layer_shared(1, 5_000).layer_shared(1, 5_000).build();
    let (outcome, registry) = pull(&image, |builder| builder);
    outcome.unwrap();
    assert_eq!(registry.stats().blobs, 2, "the config, and the layer");
}

#[test]
fn inline_data_is_used() {
    const EMPTY: &str = "sha256:44136fa355b3678a1146ad16f7e8649e94fb4fc21fe77e8310c060f61caaff8a";
    let image = with_manifest(|manifest| {
        manifest["layers"][0] = json!({
            "mediaType": "application/vnd.oci.empty.v1+json", "digest": EMPTY, "size": 2, "data": "e30="
        });
    });
    let (outcome, registry) = pull(&image, |builder| builder);
    outcome.unwrap();
    assert_eq!(registry.stats().blobs, 1, "the config alone");
}

#[test]
fn an_image_may_have_no_layers() {
    let changes: [fn(&mut Value); 3] = [
        |it| it["layers"] = json!([]),
        |it| it["layers"] = Value::Null,
        |it| drop(it.as_object_mut().unwrap().remove("layers")),
    ];
    for change in changes {
        let (outcome, registry) = pull(&with_manifest(change), |builder| builder);
        outcome.unwrap();
        assert_eq!(registry.stats().blobs, 1, "the config alone");

        let name = format!("{}/library/app:v1", registry.host());
        let stores = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
        let [from, to] = stores.each_ref().map(|dir| quick(dir.path()).build().unwrap());
        from.pull(&*name).unwrap();
        let mut archive = Vec::new();
        from.store().export(&PullContext::new(), &name, &mut archive).unwrap();
        let imported = to.store().import(&PullContext::new(), &*archive).unwrap();
        assert_eq!(imported, [name]);
    }
}

#[test]
fn unused_fields_may_be_odd() {
    let changes: [fn(&mut Value); 4] = [
        |it| it["layers"][0]["mediaType"] = json!("application/vnd.dev.sigstore.bundle+json;version=0.2"),
        |it| it["layers"][0]["platform"] = json!({ "os": "linux" }),
        |it| it["subject"] = json!({ "mediaType": "x/y", "size": 1, "digest": "sha384:aa" }),
        |it| {
            let null = Value::Null;
            it["annotations"] = null.clone();
            it["artifactType"] = json!("");
            it["layers"][0]["urls"] = null.clone();
            it["layers"][0]["annotations"] = null;
        },
    ];
    for change in changes {
        pull(&with_manifest(change), |builder| builder).0.unwrap();
    }
    let config = |bytes: Vec<u8>| {
        let mut config: Value = serde_json::from_slice(&bytes).unwrap();
        config["config"] = json!({ "User": 123, "Volumes": null });
        config["history"] = Value::Null;
        config.to_string().into_bytes()
    };
    let image = ImageBuilder::new("library/app").layer(5_000).rewrite_config(config).build();
    pull(&image, |builder| builder).0.unwrap();
}

#[test]
fn nothing_is_a_layer_too() {
    let nothing = Digest::sha256(b"");
    let media_type = "application/vnd.oci.image.layer.v1.tar";
    let image = ImageBuilder::new("library/app").layer_made(media_type, Vec::new(), nothing).build();
    pull(&image, |builder| builder).0.unwrap();
}

#[test]
fn no_encoding_is_asked_for() {
    let image = ImageBuilder::new("library/app").layer(5_000).build();
    let (outcome, registry) = pull(&image, |builder| builder);
    outcome.unwrap();
    let encodings: Vec<_> =
        registry.requests().iter().map(|seen| seen.header("accept-encoding").map(str::to_owned)).collect();
    assert!(encodings.iter().all(|encoding| encoding.as_deref() == Some("identity")), "{encodings:?}");
}

#[test]
fn a_digest_that_is_in_the_store_is_not_asked_for() {
    let registry = Registry::start().unwrap();
    let image = ImageBuilder::new("library/app").layer(5_000).build();
    let name = registry.push(&image, "v1");
    let dir = tempfile::tempdir().unwrap();
    let service = quick(dir.path()).build().unwrap();
    service.pull(&*name).unwrap();
    registry.fault(Fault::on(Target::Manifest).with(oci_puller::testing::Action::Status(500)));
    service.pull(format!("{}/library/app@{}", registry.host(), image.digest())).unwrap();
    assert_eq!(registry.stats().manifests, 1);
}
