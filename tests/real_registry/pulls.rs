//! Images that other tools pushed are pulled unchanged, and other tools can read them.

use std::fs;
use std::sync::Arc;

use crossbeam_channel::unbounded;
use oci_puller::image::Platform;
use oci_puller::{
    ImagePuller, ParallelImagePuller, PullContext, PullRequest, PulledImage, RegistryImageService,
    SerialImagePuller,
};
use serde_json::Value;

use crate::images::{Layout, assert_identical, assert_same_files, multi_platform};
use crate::real::{DockerRegistry, run};
use crate::{SOON, Test, service, service_with};

pub const TESTS: &[Test] = &[
    ("an_oci_image_of_umoci_comes_back_identical", TOOLS, || {
        one_image_through_both_pullers(&["--preserve-digests"])
    }),
    ("a_docker_image_comes_back_identical", TOOLS, || one_image_through_both_pullers(&["--format", "v2s2"])),
    ("of_an_index_each_platform_comes_back_identical", TOOLS, || {
        each_platform_of(&["--all", "--preserve-digests"])
    }),
    ("of_a_manifest_list_each_platform_comes_back_identical", TOOLS, || {
        each_platform_of(&["--all", "--format", "v2s2"]);
    }),
    ("what_was_pulled_unpacks_to_the_files_that_went_in", TOOLS, what_was_pulled_unpacks),
    ("many_images_come_through_one_puller_at_the_same_time", TOOLS, many_images_at_once),
];

const TOOLS: &[&str] = &["docker-registry", "skopeo", "umoci"];

fn one_image_through_both_pullers(push_options: &[&str]) {
    let registry = DockerRegistry::start();
    let layout = Layout::by_umoci();
    let name = layout.push(&registry, "team/app:v1", push_options);
    for is_parallel in [true, false] {
        let (_folder, service) = service();
        let puller = puller(service.clone(), is_parallel);
        let pulled = pull_all(&*puller, &[&name]).remove(0);
        let manifest = assert_identical(
            &service,
            &registry,
            ("team/app", "v1"),
            &Platform::host().architecture,
            &pulled,
        );
        assert_skopeo_reads(&service, &registry, &name, &manifest);
    }
}

fn each_platform_of(push_options: &[&str]) {
    let registry = DockerRegistry::start();
    let name = Layout::of(&multi_platform()).push(&registry, "app:multi", push_options);
    for platform in ["linux/amd64", "linux/arm64/v8", "linux/arm/v7"] {
        let platform = Platform::parse(platform).unwrap();
        let (_folder, service) = service_with(|builder| builder.platform(platform.clone()));
        let pulled = service.pull(&*name).unwrap();
        let manifest =
            assert_identical(&service, &registry, ("app", "multi"), &platform.architecture, &pulled);
        assert_skopeo_reads(&service, &registry, &name, &manifest);
    }
}

fn what_was_pulled_unpacks() {
    let registry = DockerRegistry::start();
    let layout = Layout::by_umoci();
    let name = layout.push(&registry, "app:v1", &[]);
    let (folder, service) = service();
    service.pull(&*name).unwrap();

    let image = format!("{}:{name}", service.store().dir().display());
    let bundle = folder.path().join("bundle");
    run("umoci", ["unpack", "--rootless", "--image", &image, bundle.to_str().unwrap()]);
    assert_same_files(&layout.files(), &bundle.join("rootfs"));
}

fn many_images_at_once() {
    let registry = DockerRegistry::start();
    let layout = Layout::by_umoci();
    let tags: Vec<String> = (0..12).map(|n| format!("v{n}")).collect();
    let names: Vec<String> =
        tags.iter().map(|tag| layout.push(&registry, &format!("app:{tag}"), &[])).collect();
    let (_folder, service) = service();
    let puller = puller(service.clone(), true);
    let pulled = pull_all(&*puller, &names.iter().map(String::as_str).collect::<Vec<_>>());

    for (tag, pulled) in tags.iter().zip(&pulled) {
        assert_identical(&service, &registry, ("app", tag), &Platform::host().architecture, pulled);
    }
    // One manifest, one config and three layers, by twelve names: the blobs came once.
    assert_eq!(registry.requests_of_ours().iter().filter(|line| line.contains("/blobs/")).count(), 4);
}

fn puller(service: RegistryImageService, is_parallel: bool) -> Arc<dyn ImagePuller> {
    match is_parallel {
        true => Arc::new(ParallelImagePuller::new(service, Some(4)).unwrap()),
        false => Arc::new(SerialImagePuller::new(service).unwrap()),
    }
}

/// Pulls all images, and gives the results in the order of the names.
fn pull_all(puller: &dyn ImagePuller, names: &[&str]) -> Vec<PulledImage> {
    let (results, answers) = unbounded();
    for (id, name) in names.iter().enumerate() {
        puller.pull_image(PullContext::new(), PullRequest::new(id as u64, *name), results.clone());
    }
    let mut pulled: Vec<_> = names
        .iter()
        .map(|_| {
            let result = answers.recv_timeout(SOON).unwrap();
            assert!(result.image_size.is_some());
            (result.id, result.outcome.unwrap())
        })
        .collect();
    pulled.sort_by_key(|(id, _)| *id);
    pulled.into_iter().map(|(_, image)| image).collect()
}

/// skopeo finds the image by the name it was pulled by, and copies it out byte by byte.
///
/// Names of Docker's manifests it passes over in an OCI layout; it reads them where there is nothing to
/// choose from, without a name.
fn assert_skopeo_reads(
    service: &RegistryImageService,
    registry: &DockerRegistry,
    name: &str,
    manifest: &str,
) {
    let dir = service.store().dir().display();
    let is_docker = registry.blob(manifest).windows(10).any(|window| window == b"vnd.docker");
    let image = if is_docker { format!("oci:{dir}") } else { format!("oci:{dir}:{name}") };
    let raw = run("skopeo", ["inspect", "--raw", &image]);
    assert_eq!(raw, registry.blob(manifest));

    let copy = tempfile::tempdir().unwrap();
    let target = format!("dir:{}", copy.path().display());
    run("skopeo", ["--insecure-policy", "copy", "--quiet", "--preserve-digests", &image, &target]);
    assert_eq!(fs::read(copy.path().join("manifest.json")).unwrap(), raw);
    let manifest: Value = serde_json::from_slice(&raw).unwrap();
    let layers = manifest["layers"].as_array().unwrap();
    for descriptor in layers.iter().chain([&manifest["config"]]) {
        let digest = descriptor["digest"].as_str().unwrap();
        let file = copy.path().join(digest.strip_prefix("sha256:").unwrap());
        assert!(fs::read(file).unwrap() == registry.blob(digest), "{digest} was copied out wrong");
    }
}
