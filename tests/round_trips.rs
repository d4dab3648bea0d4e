//! The requests and connections of a pull: only the necessary ones.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/tls.rs"]
mod tls;

use std::path::Path;
use std::sync::atomic::Ordering;
use std::thread;
use std::time::Duration;

use common::SOON;
use common::pulls::quick;
use oci_puller::RegistryImageService;
use oci_puller::registry::RegistryImageServiceBuilder;
use oci_puller::testing::images::ImageBuilder;
use oci_puller::testing::{Action, Fault, Registry, Stage, Target};
use tls::{PrivateCa, ServerCertificate};

const LAYERS: usize = 6;

fn image(repository: &str, seed: u64) -> ImageBuilder {
    let image = ImageBuilder::new(repository).seed(seed);
    (0..LAYERS).fold(image, |image, _| image.layer(30_000))
}

fn service(dir: &Path) -> RegistryImageServiceBuilder {
    quick(dir).connections_per_host(LAYERS + 1)
}

/// A registry far enough away for several connections.
fn far(registry: &Registry) {
    registry.fault(Fault::anywhere().with(Action::Delay(Duration::from_millis(5))));
}

fn asked(registry: &Registry) -> Vec<Target> {
    registry.requests().iter().map(|request| request.target).collect()
}

#[test]
fn an_image_is_its_manifest_and_then_config_and_layers() {
    let registry = Registry::start().unwrap();
    let dir = tempfile::tempdir().unwrap();
    let service = service(dir.path()).build().unwrap();
    let plain = image("team/plain", 1).build();
    let many = image("team/many", 2).platforms(["linux/amd64", "linux/arm64"]).build();
    for (image, documents) in [(plain, 1), (many, 2)] {
        let name = registry.push(&image, "v1");
        registry.forget_requests();
        service.pull(&*name).unwrap();
        let documents = std::iter::repeat_n(Target::Manifest, documents);
        let blobs = std::iter::repeat_n(Target::Blob, LAYERS + 1);
        assert_eq!(asked(&registry), documents.chain(blobs).collect::<Vec<_>>());

        // What is there already is asked for by its name, and that is all.
        registry.forget_requests();
        service.pull(&*name).unwrap();
        assert_eq!(asked(&registry), [Target::Manifest]);
    }
    let stats = registry.stats();
    assert_eq!((stats.heads, stats.pings, stats.tokens), (0, 0, 0));
}

#[test]
fn config_and_layers_are_asked_for_at_once() {
    let registry = Registry::start().unwrap();
    far(&registry);
    let name = registry.push(&image("team/app", 1).build(), "v1");
    let held = registry.fault(Fault::on(Target::Blob).with(Action::Hold(Stage::BeforeHead)));
    let dir = tempfile::tempdir().unwrap();
    let service = service(dir.path()).build().unwrap();
    thread::scope(|scope| {
        let pull = scope.spawn(|| service.pull(&*name));
        let all_came = held.wait_fired(LAYERS as u64 + 1, SOON);
        held.release();
        assert!(all_came, "{} blobs were asked for while none was answered", held.fired());
        pull.join().unwrap().unwrap();
    });
}

#[test]
fn one_pull_after_the_other_uses_the_same_connections() {
    let registry = Registry::start().unwrap();
    far(&registry);
    let names: Vec<_> =
        (0..4).map(|n| registry.push(&image("team/app", n).build(), &format!("v{n}"))).collect();
    let dir = tempfile::tempdir().unwrap();
    let service = service(dir.path()).build().unwrap();
    pull_all(&service, &names);
    let stats = registry.stats();
    assert!(stats.connections_accepted <= LAYERS as u64 + 1, "{stats:?}");
}

#[test]
fn a_second_connection_resumes_the_tls_session() {
    let ca = PrivateCa::new();
    let acceptor = ca.acceptor(ServerCertificate::Good);
    let resumed = acceptor.resumed();
    let registry = Registry::builder().acceptor(acceptor).start().unwrap();
    let names: Vec<_> =
        (0..4).map(|n| registry.push(&image("team/app", n).build(), &format!("v{n}"))).collect();
    let dir = tempfile::tempdir().unwrap();
    let service = service(dir.path()).tls(registry.host()).ca_certificate(ca.pem()).build().unwrap();
    for name in names {
        service.pull(&*name).unwrap();
        registry.close_connections();
    }
    let (resumed, all) = (resumed.load(Ordering::Relaxed), registry.stats().connections_accepted);
    assert!(resumed > 0, "none of {all} connections");
}

fn pull_all(service: &RegistryImageService, names: &[String]) {
    names.iter().for_each(|name| drop(service.pull(name.as_str()).unwrap()));
}
