//! Which manifest of an index is pulled: by platform, by config, or by artifact type; and the ids of what is
//! no image.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::{Arc, Mutex};

use common::pulls::quick;
use oci_puller::image::{Descriptor, Digest, Index, Manifest, Platform};
use oci_puller::progress::{Progress, ProgressEvent};
use oci_puller::registry::RegistryImageServiceBuilder;
use oci_puller::testing::images::{Image, ImageBuilder};
use oci_puller::testing::{Action, Fault, Registry, Target};
use oci_puller::{
    Error, ErrorKind, ImageService, PullContext, PullRequest, PulledImage, RegistryImageService,
};
use serde_json::{Value, json};
use tempfile::TempDir;

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const INDEX: &str = "application/vnd.oci.image.index.v1+json";

/// A registry, and a service that pulls from it.
struct Setup {
    registry: Registry,
    service: RegistryImageService,
    _dir: TempDir,
}

impl Setup {
    fn new(change: impl FnOnce(RegistryImageServiceBuilder) -> RegistryImageServiceBuilder) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let service = change(quick(dir.path())).build().unwrap();
        Setup { registry: Registry::start().unwrap(), service, _dir: dir }
    }

    fn for_platform(platform: &str) -> Self {
        let platform = Platform::parse(platform).unwrap();
        Setup::new(|builder| builder.platform(platform))
    }

    /// Puts an artifact into the repository; its config is `{}`.
    fn artifact(&self, artifact_type: &str, payload: &[u8]) -> Descriptor {
        let blob = self.registry.put_blob("library/app", payload.to_vec());
        let config = self.registry.put_blob("library/app", b"{}".to_vec());
        let config = Descriptor::new("application/vnd.oci.empty.v1+json", config, 2);
        let layer = Descriptor::new("application/x", blob, payload.len() as u64);
        let bytes = Manifest::new(config, vec![layer]).with_artifact_type(artifact_type).to_json();
        let size = bytes.len() as u64;
        let digest = self.registry.put_manifest("library/app", artifact_type, MANIFEST, bytes);
        Descriptor::new(MANIFEST, digest, size)
    }

    fn index(&self, entries: Vec<Descriptor>) -> String {
        self.registry.put_manifest("library/app", "v1", INDEX, Index::new(entries).to_json());
        format!("{}/library/app:v1", self.registry.host())
    }

    fn pull(&self, name: &str, artifact_type: Option<&str>) -> Result<PulledImage, Error> {
        let mut request = PullRequest::new(0, name);
        request.artifact_type = artifact_type.map(str::to_owned);
        self.service.pull_image(&PullContext::new(), &request)
    }

    fn pull_image(&self, image: &Image) -> Result<PulledImage, Error> {
        self.pull(&self.registry.push(image, "v1"), None)
    }
}

fn entries(change: impl Fn(&mut Vec<Value>) + Send + Sync + 'static) -> ImageBuilder {
    let rewrite = move |bytes: Vec<u8>| {
        let mut index: Value = serde_json::from_slice(&bytes).unwrap();
        change(index["manifests"].as_array_mut().unwrap());
        index.to_string().into_bytes()
    };
    ImageBuilder::new("library/app").layer(5_000).rewrite_index(rewrite)
}

fn without_platforms(entries: &mut Vec<Value>) {
    for entry in entries {
        entry.as_object_mut().unwrap().remove("platform");
    }
}

#[test]
fn where_an_index_names_no_platforms_the_configs_tell() {
    let image = entries(without_platforms).platforms(["linux/s390x", "linux/arm64", "linux/amd64"]).build();
    for (platform, expected) in [("linux/amd64", true), ("linux/arm64", true), ("windows/amd64", false)] {
        let setup = Setup::for_platform(platform);
        match setup.pull_image(&image) {
            Ok(pulled) => {
                let variant = image.variant(platform).unwrap();
                assert_eq!(pulled.image_ref.as_str(), variant.config.digest.as_str(), "{platform}");
            }
            Err(error) => {
                assert!(!expected, "{platform}: {error}");
                assert_eq!(error.kind(), ErrorKind::NoMatchingPlatform);
                assert_eq!(setup.registry.stats().blobs, 3, "no more than the configs");
            }
        }
    }
}

#[test]
fn indexes_stand_within_indexes_to_a_depth_of_four() {
    for (levels, kind) in [(3, None), (4, Some(ErrorKind::InvalidManifest))] {
        let image = ImageBuilder::new("library/app").layer(1_000).nested(levels).build();
        let outcome = Setup::new(|builder| builder).pull_image(&image);
        assert_eq!(outcome.err().map(|error| error.kind()), kind, "{levels}");
    }
}

#[test]
fn a_config_that_was_read_for_its_platform_is_fetched_once() {
    let image = entries(without_platforms).platforms(["linux/amd64"]).build();
    let setup = Setup::for_platform("linux/amd64");
    let pulled = setup.pull_image(&image).unwrap();
    assert_eq!(setup.registry.stats().blobs, 2, "the config and the layer");
    let expected = image.variants()[0].manifest.size() + image.root().size();
    let blobs = image.variants()[0].config.size() + image.layers()[0].size();
    assert_eq!((pulled.bytes_fetched, pulled.bytes_reused), (expected + blobs, 0));
}

#[test]
fn an_entry_that_is_not_chosen_cannot_fail_the_pull() {
    type Odd = fn(&mut Value);
    let odd: [(&str, Odd); 9] = [
        ("unknown algorithm", |it| it["digest"] = json!("sha384:aa")),
        ("odd platform", |it| it["platform"] = json!({ "os": "linux" })),
        ("no size", |it| drop(it.as_object_mut().unwrap().remove("size"))),
        ("empty type", |it| it["mediaType"] = json!("")),
        ("odd type", |it| it["mediaType"] = json!("application/vnd.x;version=0.2")),
        ("no such manifest", |it| {
            it["digest"] = json!(Digest::sha256(b"lost").as_str());
            it.as_object_mut().unwrap().remove("platform");
        }),
        ("no manifest at all", |it| {
            it["digest"] = json!(Digest::sha256(b"{}").as_str());
            it["size"] = json!(2);
            it.as_object_mut().unwrap().remove("platform");
        }),
        ("another platform", |it| it["platform"]["architecture"] = json!("s390x")),
        ("an artifact", |it| {
            it["artifactType"] = json!("application/vnd.example");
            it["platform"] = Value::Null;
        }),
    ];
    for (name, change) in odd {
        // The second entry is the image; it has no platform either, so that all are looked at.
        let image = entries(move |entries| {
            entries[1].as_object_mut().unwrap().remove("platform");
            change(&mut entries[0]);
        });
        let image = image.platforms(["linux/arm64", "linux/amd64"]).build();
        let setup = Setup::for_platform("linux/amd64");
        setup.registry.put_manifest("library/app", "odd", MANIFEST, b"{}".to_vec());
        let pulled = setup.pull_image(&image).unwrap_or_else(|error| panic!("{name}: {error}"));
        let expected = &image.variant("linux/amd64").unwrap().config.digest;
        assert_eq!(pulled.image_ref.as_str(), expected.as_str(), "{name}");
    }
}

#[test]
fn a_failure_of_a_host_is_no_unusable_entry() {
    let image = entries(without_platforms).platforms(["linux/arm64", "linux/amd64"]).build();
    let setup = Setup::for_platform("linux/amd64");
    let first = image.variants()[0].manifest.digest.as_str();
    setup.registry.fault(Fault::on(Target::Manifest).path_containing(first).with(Action::Status(503)));
    assert_eq!(setup.pull_image(&image).unwrap_err().kind(), ErrorKind::Unavailable);
}

#[test]
fn each_manifest_is_looked_at_once_and_not_too_many_are() {
    // Each index names the next one 200 times.
    let setup = Setup::for_platform("linux/amd64");
    let mut inner = vec![setup.artifact("application/vnd.example", b"x")];
    for level in 0..4 {
        let bytes = Index::new(inner).with_annotation("level", level.to_string()).to_json();
        let size = bytes.len() as u64;
        let digest = setup.registry.put_manifest("library/app", "inner", INDEX, bytes);
        inner = vec![Descriptor::new(INDEX, digest, size); 200];
    }
    let name = setup.index(inner);
    setup.pull(&name, None).unwrap_err();
    assert!(setup.registry.stats().manifests <= 6, "{:?}", setup.registry.stats());

    let setup = Setup::for_platform("linux/amd64");
    let many = (0..200).map(|n| setup.artifact(&format!("application/vnd.n{n}"), b"x")).collect();
    let name = setup.index(many);
    assert_eq!(setup.pull(&name, None).unwrap_err().kind(), ErrorKind::NoMatchingPlatform);
    assert!(setup.registry.stats().manifests <= 40, "{:?}", setup.registry.stats());
}

/// Keeps the platforms of a warning.
#[derive(Default)]
struct Warnings(Mutex<Vec<String>>);

impl Progress for Warnings {
    fn event(&self, event: &ProgressEvent) {
        if let ProgressEvent::OtherPlatform { offered, wanted } = event {
            self.0.lock().unwrap().push(format!("{offered} for {wanted}"));
        }
    }
}

#[test]
fn a_single_manifest_for_another_platform_is_refused_if_a_platform_was_asked_for() {
    let config = |bytes: Vec<u8>| {
        let mut config: Value = serde_json::from_slice(&bytes).unwrap();
        config["architecture"] = json!("s390x");
        config.to_string().into_bytes()
    };
    let image = ImageBuilder::new("library/app").layer(5_000).rewrite_config(config).build();

    let asked = Setup::for_platform("linux/amd64");
    let error = asked.pull_image(&image).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NoMatchingPlatform);
    assert!(error.message().contains("for linux/s390x, not for linux/amd64"), "{error}");
    assert_eq!(asked.registry.stats().blobs, 1, "the config alone");
    Setup::for_platform("linux/s390x").pull_image(&image).unwrap();

    let by_default = Setup::new(|builder| builder);
    let name = by_default.registry.push(&image, "v1");
    let warnings = Arc::new(Warnings::default());
    let cx = PullContext::new().with_progress(warnings.clone());
    by_default.service.pull_image(&cx, &PullRequest::new(0, name)).unwrap();
    let told = warnings.0.lock().unwrap();
    assert_eq!(*told, [format!("linux/s390x for {}", Platform::host())]);
}

#[test]
fn an_artifact_is_chosen_by_its_type_or_as_the_only_entry() {
    let setup = Setup::for_platform("linux/amd64");
    let chart = setup.artifact("application/vnd.example.chart", b"chart");
    let sbom = setup.artifact("application/vnd.example.sbom", b"sbom");

    let only = setup.index(vec![chart.clone()]);
    assert_eq!(setup.pull(&only, None).unwrap().image_ref.as_str(), chart.digest.as_str());

    for typed in [false, true] {
        let entry = |entry: &Descriptor, of: &str| match typed {
            true => entry.clone().with_artifact_type(of),
            false => entry.clone(),
        };
        let both = setup.index(vec![
            entry(&chart, "application/vnd.example.chart"),
            entry(&sbom, "application/vnd.example.sbom"),
        ]);
        let chosen = setup.pull(&both, Some("application/vnd.example.sbom")).unwrap();
        assert_eq!(chosen.image_ref.as_str(), sbom.digest.as_str());
        for wanted in [None, Some("application/vnd.example.other")] {
            let error = setup.pull(&both, wanted).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::NoMatchingPlatform, "{wanted:?}");
        }
    }
}

#[test]
fn artifacts_with_the_same_config_have_different_ids() {
    let setup = Setup::new(|builder| builder);
    let (one, two) = (setup.artifact("one", b"one"), setup.artifact("two", b"two"));
    let pull = |tag: &str| setup.pull(&format!("{}/library/app:{tag}", setup.registry.host()), None).unwrap();
    assert_eq!(pull("one").image_ref.as_str(), one.digest.as_str());
    assert_eq!(pull("two").image_ref.as_str(), two.digest.as_str());

    let store = setup.service.store();
    let mut ids: Vec<_> = store.images().unwrap().into_iter().map(|image| image.id).collect();
    ids.sort();
    let mut expected = [one.digest.clone(), two.digest.clone()];
    expected.sort();
    assert_eq!(ids, expected);
    let empty = Digest::sha256(b"{}");
    assert!(store.find(empty.as_str()).unwrap().is_none(), "the config they share is no id");
    store.remove(&PullContext::new(), one.digest.as_str()).unwrap();
    assert_eq!(store.images().unwrap().len(), 1);
}
