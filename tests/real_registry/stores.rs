//! Pulls into a store that another tool made.

use oci_puller::{ImageService, PullContext, RegistryImageService};
use serde_json::Value;

use crate::Test;
use crate::images::{Layout, assert_same_files};
use crate::real::{DockerRegistry, run};

pub const TESTS: &[Test] = &[
    ("a_store_of_umoci_is_pulled_into", TOOLS, a_store_of_umoci),
    ("a_store_of_skopeo_is_pulled_into", TOOLS, a_store_of_skopeo),
    ("a_store_of_ours_is_written_by_others", TOOLS, a_store_of_ours),
];

const TOOLS: &[&str] = &["docker-registry", "skopeo", "umoci"];

fn a_store_of_umoci() {
    let registry = DockerRegistry::start();
    let name = Layout::by_umoci().push(&registry, "app:v1", &[]);
    let theirs = Layout::by_umoci();
    let service = open(&theirs.dir());
    assert_eq!(names(&service), ["v1"]);

    service.pull(&*name).unwrap();
    assert_eq!(names(&service), [&*name, "v1"]);
    assert_all_read(&theirs.dir(), &[&name, "v1"]);

    // What umoci holds for garbage is none of ours.
    run("umoci", ["gc", "--layout", &theirs.dir()]);
    assert_all_read(&theirs.dir(), &[&name, "v1"]);
    assert_unpacks(&theirs.dir(), &name, &theirs);
}

fn a_store_of_skopeo() {
    let registry = DockerRegistry::start();
    let layout = Layout::by_umoci();
    let first = layout.push(&registry, "app:v1", &[]);
    run("umoci", ["config", "--image", &layout.path(), "--config.env", "NEW=er"]);
    let second = layout.push(&registry, "app:v2", &[]);
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("store").to_str().unwrap().to_owned();
    let source = format!("docker://{first}");
    let target = format!("oci:{dir}:docker.io/library/app:v1");
    run("skopeo", ["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", &source, &target]);

    let service = open(&dir);
    assert_eq!(names(&service), ["docker.io/library/app:v1"]);
    let pulled = service.pull(&*second).unwrap();
    assert!(pulled.bytes_reused > 100_000, "the layers were there: {pulled:?}");
    assert_all_read(&dir, &["docker.io/library/app:v1", &second]);
}

fn a_store_of_ours() {
    let registry = DockerRegistry::start();
    let layout = Layout::by_umoci();
    let name = layout.push(&registry, "app:v1", &[]);
    let folder = tempfile::tempdir().unwrap();
    let dir = folder.path().join("store").to_str().unwrap().to_owned();
    let service = open(&dir);
    service.pull(&*name).unwrap();

    let source = format!("docker://{name}");
    let target = format!("oci:{dir}:by-skopeo");
    run("skopeo", ["--insecure-policy", "copy", "--quiet", "--src-tls-verify=false", &source, &target]);
    run("umoci", ["tag", "--image", &format!("{dir}:{name}"), "by-umoci"]);
    assert_all_read(&dir, &["by-skopeo", "by-umoci", &name]);
    assert_eq!(names(&service), [&*name, "by-skopeo", "by-umoci"]);
    assert!(service.store().verify(&PullContext::new()).unwrap().is_sound());

    service.pull(&*name).unwrap();
    assert_all_read(&dir, &["by-skopeo", "by-umoci", &name]);
}

fn open(dir: &str) -> RegistryImageService {
    RegistryImageService::builder(dir).no_proxy().build().unwrap()
}

/// The names of all images, without `repository@digest`.
fn names(service: &RegistryImageService) -> Vec<String> {
    let images = service.list_images(&PullContext::new()).unwrap();
    let mut names: Vec<String> = images.into_iter().flat_map(|image| image.names).collect();
    names.retain(|name| !name.contains('@'));
    names.sort();
    names
}

/// skopeo and umoci find each image by its name.
fn assert_all_read(dir: &str, names: &[&str]) {
    for name in names {
        let seen = run("skopeo", ["inspect", &format!("oci:{dir}:{name}")]);
        let seen: Value = serde_json::from_slice(&seen).unwrap();
        assert_eq!(seen["Layers"].as_array().unwrap().len(), 3, "{name}");
    }
    let listed = String::from_utf8(run("umoci", ["list", "--layout", dir])).unwrap();
    for name in names {
        assert!(listed.lines().any(|line| line == *name), "{name} is not in {listed}");
    }
}

fn assert_unpacks(dir: &str, name: &str, made: &Layout) {
    let folder = tempfile::tempdir().unwrap();
    let bundle = folder.path().join("bundle");
    let image = format!("{dir}:{name}");
    run("umoci", ["unpack", "--rootless", "--image", &image, bundle.to_str().unwrap()]);
    assert_same_files(&made.files(), &bundle.join("rootfs"));
}
