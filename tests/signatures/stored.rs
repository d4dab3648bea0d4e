//! Kept signatures, by which stored images are judged offline, and the signatures in archives that are imported.

use std::fs;
use std::path::Path;
use std::sync::Arc;

use oci_puller::image::{Digest, Reference};
use oci_puller::signatures::{Identity, SignaturePolicy};
use oci_puller::store::{ImportOptions, PrunePolicy};
use oci_puller::{
    EnsureRequest, Error, ErrorKind, ImageManager, ImageService, ImageSpec, PullContext, PullPolicy,
    RegistryImageService, Store,
};
use serde_json::{Value, json};

use crate::common::pulls::quick;
use crate::sign::*;

fn service(dir: &Path, policy: &SignaturePolicy) -> RegistryImageService {
    let platform = "linux/amd64".parse().unwrap();
    quick(dir).platform(platform).verifier(Arc::new(policy.clone())).build().unwrap()
}

fn verified(store: &Store, name: &str, policy: &SignaturePolicy) -> Result<(), Error> {
    store.verify_signatures(&store.find(name).unwrap().unwrap(), policy)
}

fn is_there(service: &RegistryImageService, name: &str) -> bool {
    service.image_ref(&PullContext::new(), &ImageSpec::from(name)).unwrap().is_some()
}

fn export(store: &Store, name: &str) -> Vec<u8> {
    let mut archive = Vec::new();
    store.export(&PullContext::new(), name, &mut archive).unwrap();
    archive
}

#[test]
fn an_image_is_verified_again_by_what_was_kept() {
    let (k1, k2, world) = (Key::new(), Key::new(), World::new());
    let digest = world.image.digest();
    let (ours, others) = (world.policy(k1.signer()), world.policy(k2.signer()));
    for is_bundle in [false, true] {
        match is_bundle {
            false => world.sign_simple(&[&k1]),
            true => {
                world.put_simple(digest, &[]);
                let entry = world.put_bundle(digest, &bundle(&k1, &statement(&[digest], COSIGN_SIGN)));
                world.list_by_tag(digest, &[entry]);
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let puller = service(dir.path(), &ours);
        puller.pull(&*world.name).unwrap();
        let store = puller.store().clone();
        verified(&store, &world.name, &ours).unwrap();
        let error = verified(&store, &world.name, &others).unwrap_err();
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Denied, false));
        assert!(error.message().contains("1 signature, by another key"), "{error}");
        assert!(error.to_string().contains(&world.name), "{error}");
        assert!(is_there(&puller, &world.name));
        assert!(!is_there(&service(dir.path(), &others), &world.name), "a refused image counts as absent");
        let id = store.find(&world.name).unwrap().unwrap().id;
        assert!(is_there(&puller, id.as_str()));
        assert!(!is_there(&service(dir.path(), &others), id.as_str()));
    }
}

#[test]
fn an_image_that_was_pulled_without_a_policy_counts_as_absent_until_it_is_pulled_with_one() {
    let (key, world) = (Key::new(), World::new());
    let policy = world.policy(key.signer());
    let dir = tempfile::tempdir().unwrap();
    let platform = "linux/amd64".parse().unwrap();
    quick(dir.path()).platform(platform).build().unwrap().pull(&*world.name).unwrap();
    let with_policy = service(dir.path(), &policy);
    assert!(!is_there(&with_policy, &world.name));
    assert_eq!(with_policy.pull(&*world.name).unwrap_err().kind(), ErrorKind::Denied);
    assert!(with_policy.store().find(&world.name).unwrap().is_some(), "the refusal removes nothing");
    world.sign_simple(&[&key]);
    with_policy.pull(&*world.name).unwrap();
    assert!(is_there(&with_policy, &world.name));
    // A pull without a policy takes no signature away.
    let platform = "linux/amd64".parse().unwrap();
    quick(dir.path()).platform(platform).build().unwrap().pull(&*world.name).unwrap();
    assert!(is_there(&with_policy, &world.name));
}

#[test]
fn the_pull_policy_decides_about_an_image_that_the_signature_policy_refuses() {
    let (k1, k2, world) = (Key::new(), Key::new(), World::new());
    world.sign_simple(&[&k1]);
    let dir = tempfile::tempdir().unwrap();
    service(dir.path(), &world.policy(k1.signer())).pull(&*world.name).unwrap();
    let refusing = service(dir.path(), &world.policy(k2.signer()));
    let manager = ImageManager::builder(refusing).build().unwrap();
    let ensure = |image: &str, policy| {
        let request = EnsureRequest::new("pod", image).with_policy(policy);
        manager.ensure_image_exists(&PullContext::new(), &request)
    };
    let error = ensure(&world.name, PullPolicy::Never).unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Denied, false), "{error}");
    assert!(error.message().contains("1 signature, by another key"), "{error}");
    assert!(error.to_string().contains(&world.name), "{error}");
    let absent = format!("{}:absent", world.repository());
    assert_eq!(ensure(&absent, PullPolicy::Never).unwrap_err().kind(), ErrorKind::NeverPull);
    world.sign_simple(&[&k1, &k2]);
    assert!(ensure(&world.name, PullPolicy::IfNotPresent).is_ok_and(|image| image.image_ref.as_str() != ""));
    assert!(ensure(&world.name, PullPolicy::Never).is_ok(), "the pull has kept the second signature");
}

#[test]
fn a_digest_is_looked_up_once() {
    let (key, world) = (Key::new(), World::new());
    world.sign_simple(&[&key]);
    let dir = tempfile::tempdir().unwrap();
    let service = service(dir.path(), &world.policy(key.signer()));
    service.pull(&*world.name).unwrap();
    let before = world.registry.stats();
    for tag in ["v2", "v3", "v4"] {
        let name = world.registry.push(&world.image, tag);
        service.pull(&*name).unwrap();
        assert!(is_there(&service, &name));
    }
    let after = world.registry.stats();
    assert_eq!(after.manifests - before.manifests, 3, "one request for each tag");
    assert_eq!(after.blobs, before.blobs);
}

#[test]
fn kept_signatures_are_no_images_and_go_with_theirs() {
    let (key, world) = (Key::new(), World::new());
    world.sign_simple(&[&key]);
    let dir = tempfile::tempdir().unwrap();
    let puller = service(dir.path(), &world.policy(key.signer()));
    puller.pull(&*world.name).unwrap();
    let (store, cx) = (puller.store(), PullContext::new());
    let images = store.images().unwrap();
    assert_eq!(images.iter().map(|image| &image.names[..]).collect::<Vec<_>>(), [[world.name.clone()]]);
    let at_once = PrunePolicy::default().min_age(std::time::Duration::ZERO).thresholds(100, 100);
    assert_eq!(store.prune(&cx, &at_once).unwrap().blobs, 0, "an image's signatures are in use");
    assert!(store.verify(&cx).unwrap().is_sound());
    verified(store, &world.name, &world.policy(key.signer())).unwrap();
    // A damaged signature is a missing one, and the report names the image.
    let kept = kept_digest(store.dir());
    let blob = store.dir().join("blobs/sha256").join(kept.hex());
    let bytes = fs::read(&blob).unwrap();
    fs::remove_file(&blob).unwrap();
    assert_eq!(store.verify(&cx).unwrap().incomplete[0].1, [kept]);
    let error = verified(store, &world.name, &world.policy(key.signer())).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied, "{error}");
    fs::write(&blob, bytes).unwrap();
    store.remove(&cx, &world.name).unwrap();
    assert_eq!(fs::read_dir(store.dir().join("blobs/sha256")).unwrap().count(), 0);
}

fn kept_digest(store: &Path) -> Digest {
    let index: Value = serde_json::from_slice(&fs::read(store.join("index.json")).unwrap()).unwrap();
    let text = &index["manifests"][0]["annotations"]["io.oci-puller.image.signatures"];
    Digest::parse(text.as_str().unwrap()).unwrap()
}

#[test]
fn an_import_is_judged_by_what_an_export_wrote() {
    let (k1, k2, world) = (Key::new(), Key::new(), World::new());
    world.sign_simple(&[&k1]);
    let cx = PullContext::new();
    let (ours, others) = (world.policy(k1.signer()), world.policy(k2.signer()));
    let dir = tempfile::tempdir().unwrap();
    let puller = service(dir.path(), &ours);
    // The index is signed; the archive has it because the image is named by its digest.
    let by_digest = format!("{}@{}", world.repository(), world.image.digest());
    puller.pull(&*by_digest).unwrap();
    let archive = export(puller.store(), &by_digest);
    assert_eq!(archive, export(puller.store(), &by_digest), "the same image makes the same bytes");

    let import = |options: ImportOptions| {
        let into = tempfile::tempdir().unwrap();
        let store = Store::open(into.path()).unwrap();
        let outcome = store.import_with(&cx, &archive[..], &options);
        (into, store, outcome)
    };
    let (_dir, store, outcome) = import(ImportOptions::new().signature_policy(ours.clone()));
    assert_eq!(outcome.unwrap().names, [&*by_digest]);
    assert_eq!(store.images().unwrap().len(), 1);
    verified(&store, &by_digest, &ours).unwrap();
    let (dir, store, outcome) = import(ImportOptions::new().signature_policy(others.clone()));
    let error = outcome.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Denied);
    assert!(error.message().contains("1 signature, by another key"), "{error}");
    assert_eq!(store.images().unwrap(), []);
    assert_eq!(fs::read_dir(dir.path().join("blobs/sha256")).unwrap().count(), 0, "nothing of it is left");
    // An import without a policy keeps them, too.
    let (_dir, store, outcome) = import(ImportOptions::new());
    outcome.unwrap();
    verified(&store, &by_digest, &ours).unwrap();
    // The name that is given counts, not the one in the archive.
    let name = Reference::parse("other.io/app:1").unwrap();
    let (_dir, _, outcome) = import(ImportOptions::new().name(name).signature_policy(ours));
    assert!(outcome.unwrap_err().message().contains("no rule of the signature policy"));
}

/// A layout with an image and its signatures, as other tools write it.
struct Layout {
    dir: tempfile::TempDir,
    entries: Vec<Value>,
}

impl Layout {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir_all(dir.path().join("blobs/sha256")).unwrap();
        fs::write(dir.path().join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#).unwrap();
        Layout { dir, entries: Vec::new() }
    }

    fn blob(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::sha256(bytes);
        fs::write(self.dir.path().join("blobs/sha256").join(digest.hex()), bytes).unwrap();
        json!({ "mediaType": media_type, "digest": digest.as_str(), "size": bytes.len() })
    }

    fn manifest(&self, config: Value, layers: &[Value], more: Value) -> Value {
        let mut manifest =
            json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": layers });
        manifest.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        self.blob(MANIFEST, manifest.to_string().as_bytes())
    }

    /// Lists an image by this name; returns its digest.
    fn image(&mut self, name: &str) -> Digest {
        self.image_for("amd64", name)
    }

    fn image_for(&mut self, architecture: &str, name: &str) -> Digest {
        let rootfs = json!({ "type": "layers", "diff_ids": [] });
        let config = json!({ "os": "linux", "architecture": architecture, "rootfs": rootfs });
        let config = self.blob("application/vnd.oci.image.config.v1+json", config.to_string().as_bytes());
        let layer = self.blob("application/vnd.oci.image.layer.v1.tar", b"layer");
        let image = self.manifest(config, &[layer], json!({}));
        let digest = Digest::parse(image["digest"].as_str().unwrap()).unwrap();
        self.list(image, name);
        digest
    }

    fn list(&mut self, mut entry: Value, name: &str) {
        if !name.is_empty() {
            entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        }
        self.entries.push(entry);
    }

    /// Lists an entry with the annotation by which `cosign save` tells its kind.
    fn list_kind(&mut self, mut entry: Value, kind: &str) {
        entry["annotations"] = json!({ "kind": format!("dev.cosignproject.cosign/{kind}") });
        self.entries.push(entry);
    }

    /// A manifest with a signature of cosign 2, whose config is an image config.
    fn simple(&self, key: &Key, digest: &Digest, identity: &str) -> Value {
        use base64::Engine;
        let payload = payload(digest, identity);
        let signature = base64::engine::general_purpose::STANDARD.encode(key.sign(&payload));
        let mut layer = self.blob(SIMPLE, &payload);
        layer["annotations"] = json!({ "dev.cosignproject.cosign/signature": signature });
        let config = self.blob("application/vnd.oci.image.config.v1+json", br#"{"rootfs":{}}"#);
        self.manifest(config, &[layer], json!({}))
    }

    fn bundle(&self, key: &Key, digest: &Digest, has_subject: bool) -> Value {
        let bundle = bundle(key, &statement(&[digest], COSIGN_SIGN)).to_string();
        let layer = self.blob(BUNDLE, bundle.as_bytes());
        let config = self.blob("application/vnd.oci.empty.v1+json", b"{}");
        let subject = json!({ "mediaType": MANIFEST, "digest": digest.as_str(), "size": 2 });
        let more = if has_subject { json!({ "subject": subject }) } else { json!({}) };
        self.manifest(config, &[layer], more)
    }

    fn import(
        &self,
        policy: Option<&SignaturePolicy>,
    ) -> (Store, Result<Vec<String>, Error>, tempfile::TempDir) {
        let options = ImportOptions::new();
        self.import_with(match policy {
            Some(policy) => options.signature_policy(policy.clone()),
            None => options,
        })
    }

    fn import_with(&self, options: ImportOptions) -> (Store, Result<Vec<String>, Error>, tempfile::TempDir) {
        fs::write(self.dir.path().join("index.json"), index(&self.entries)).unwrap();
        let into = tempfile::tempdir().unwrap();
        let store = Store::builder(into.path()).platform("linux/amd64".parse().unwrap()).build().unwrap();
        let outcome = store.import_layout_with(&PullContext::new(), self.dir.path(), &options);
        (store, outcome.map(|imported| imported.names), into)
    }
}

const NAME: &str = "r.io/team/app:1";

#[test]
fn an_import_is_judged_by_signatures_that_other_tools_wrote() {
    let (k1, k2) = (Key::new(), Key::new());
    let policy = |key: &Key| SignaturePolicy::builder().require("r.io", key.signer()).build().unwrap();
    for way in ["none", "tag", "whole tag", "listed bundle", "fallback tag", "other key"] {
        let mut layout = Layout::new();
        let digest = layout.image(NAME);
        let tag = digest.as_str().replace(':', "-");
        match way {
            "tag" => layout.list(layout.simple(&k1, &digest, "r.io/team/app"), &format!("{tag}.sig")),
            "whole tag" => {
                layout.list(layout.simple(&k1, &digest, "r.io/team/app"), &format!("r.io/team/app:{tag}.sig"))
            }
            "listed bundle" => layout.list(layout.bundle(&k1, &digest, true), ""),
            "fallback tag" => {
                let referrers = index(&[layout.bundle(&k1, &digest, false)]);
                layout.list(layout.blob(INDEX, &referrers), &tag);
            }
            "other key" => layout.list(layout.simple(&k2, &digest, "r.io/team/app"), &format!("{tag}.sig")),
            _ => {}
        }
        let (store, outcome, _dir) = layout.import(Some(&policy(&k1)));
        if matches!(way, "none" | "other key") {
            assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Denied, "{way}");
            assert_eq!(store.images().unwrap(), [], "{way}");
        } else {
            assert_eq!(outcome.unwrap(), [NAME], "{way}");
            verified(&store, NAME, &policy(&k1)).unwrap();
            verified(&store, NAME, &policy(&k2)).unwrap_err();
        }
        // Signatures are no images, with a policy or without one.
        let (store, outcome, _dir) = layout.import(None);
        assert_eq!(outcome.unwrap(), [NAME], "{way}");
        assert_eq!(store.images().unwrap().len(), 1, "{way}");
    }
}

/// `cosign save` writes neither subjects nor tags.
#[test]
fn an_import_reads_what_cosign_save_wrote() {
    let (k1, k2) = (Key::new(), Key::new());
    let policy = |key: &Key| SignaturePolicy::builder().require("r.io", key.signer()).build().unwrap();
    let mut layout = Layout::new();
    let digest = layout.image("");
    layout.list_kind(layout.simple(&k1, &digest, "r.io/team/app"), "sigs");
    let envelope = layout.blob("application/vnd.dsse.envelope.v1+json", b"{}");
    let config = layout.blob("application/vnd.oci.image.config.v1+json", br#"{"rootfs":{}}"#);
    layout.list_kind(layout.manifest(config, &[envelope], json!({})), "atts");
    let options = ImportOptions::new().name(Reference::parse(NAME).unwrap());
    for (key, accepts) in [(&k1, true), (&k2, false)] {
        let (store, outcome, _dir) = layout.import_with(options.clone().signature_policy(policy(key)));
        if accepts {
            assert_eq!(outcome.unwrap(), [NAME]);
            assert_eq!(store.images().unwrap().len(), 1);
            verified(&store, NAME, &policy(&k1)).unwrap();
        } else {
            let error = outcome.unwrap_err();
            assert!(error.message().contains("1 signature, by another key"), "{error}");
        }
    }
    // A signature of another image does not count, whichever archive it is in.
    let mut layout = Layout::new();
    layout.image(NAME);
    layout.list_kind(layout.simple(&k1, &Digest::sha256(b"other"), "r.io/team/app"), "sigs");
    let (_, outcome, _dir) = layout.import(Some(&policy(&k1)));
    assert!(outcome.unwrap_err().message().contains("no signature was found"));
}

#[test]
fn a_name_of_several_platforms_keeps_the_signatures_of_each() {
    let (key, other) = (Key::new(), Key::new());
    let policy = |key: &Key| SignaturePolicy::builder().require("r.io", key.signer()).build().unwrap();
    let mut layout = Layout::new();
    for architecture in ["amd64", "arm64"] {
        let digest = layout.image_for(architecture, NAME);
        let tag = format!("{}.sig", digest.as_str().replace(':', "-"));
        layout.list(layout.simple(&key, &digest, "r.io/team/app"), &tag);
    }
    let (store, outcome, _dir) = layout.import(Some(&policy(&key)));
    assert_eq!(outcome.unwrap(), [NAME]);
    for image in store.images().unwrap() {
        store.verify_signatures(&image, &policy(&key)).unwrap();
        store.verify_signatures(&image, &policy(&other)).unwrap_err();
    }
    assert_eq!(store.images().unwrap().len(), 2);
}

#[test]
fn each_image_of_an_import_must_be_signed_and_have_a_name() {
    let key = Key::new();
    let policy = SignaturePolicy::builder().require("r.io", key.signer()).build().unwrap();
    let mut layout = Layout::new();
    let digest = layout.image("");
    let tag = format!("{}.sig", digest.as_str().replace(':', "-"));
    layout.list(layout.simple(&key, &digest, "r.io/team/app"), &tag);
    let (_, outcome, _dir) = layout.import(Some(&policy));
    assert!(outcome.unwrap_err().message().contains("has no name"));
    layout.image(NAME);
    layout.image("elsewhere.io/app:1");
    let (store, outcome, _dir) = layout.import(Some(&policy));
    assert!(outcome.unwrap_err().message().contains("no rule of the signature policy"));
    assert_eq!(store.images().unwrap(), []);
}

#[test]
fn names_and_identities_decide_about_stored_images_too() {
    let (key, world) = (Key::new(), World::new());
    world.sign_simple(&[&key]);
    let dir = tempfile::tempdir().unwrap();
    let puller = service(dir.path(), &world.policy(key.signer()));
    puller.pull(&*world.name).unwrap();
    let exact = world.policy(key.signer().identity(Identity::MatchRepoDigestOrExact));
    let error = verified(puller.store(), &world.name, &exact).unwrap_err();
    assert!(error.message().contains("matchRepository"), "{error}");
    let closed = SignaturePolicy::builder().build().unwrap();
    let error = verified(puller.store(), &world.name, &closed).unwrap_err();
    assert!(error.message().contains("no rule"), "{error}");
}
