//! The counts of requests, retries and bytes by host.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

mod common;

use common::SOON;
use common::pulls::quick;
use oci_puller::registry::ClientMetrics;
use oci_puller::testing::images::{Image, ImageBuilder, Part};
use oci_puller::testing::{Action, Fault, Registry, Target};

fn image() -> Image {
    ImageBuilder::new("library/app").layer(50_000).layer(3_000).build()
}

/// Requests, retries and bytes of bodies.
fn counts_of(metrics: &ClientMetrics, registry: &Registry) -> (u64, u64, u64) {
    let host = metrics.hosts[&registry.host()];
    (host.requests, host.retries, host.body_bytes)
}

#[test]
fn each_host_has_the_counts_that_the_host_itself_has() {
    let once = |target, action| Some(Fault::on(target).times(1).with(action));
    let layer = image().layers()[0].digest.to_string();
    let corrupt = Fault::on(Target::Blob).path_containing(layer).times(1).with(Action::Corrupt(9));
    let cases = [
        ("no failure", None, 0),
        ("a manifest with 500", once(Target::Manifest, Action::Status(500)), 1),
        ("a blob with 429", once(Target::Blob, Action::Status(429)), 1),
        ("a blob with wrong bytes", Some(corrupt), 1),
    ];
    for (what, fault, retries) in cases {
        let registry = Registry::start().unwrap();
        let name = registry.push(&image(), "v1");
        let has_fault = fault.is_some();
        fault.map(|fault| registry.fault(fault));
        let dir = tempfile::tempdir().unwrap();
        let service = quick(dir.path()).build().unwrap();
        service.pull(&*name).unwrap();

        let metrics = service.metrics();
        let (requests, retried, bytes) = counts_of(&metrics, &registry);
        assert_eq!(retried, retries, "{what}: {metrics:?}");
        assert_eq!(requests, registry.stats().requests, "{what}: {metrics:?}");
        // The registry counts after it has sent.
        let is_equal = registry.wait_until(|stats| stats.body_bytes == bytes, SOON);
        assert!(is_equal, "{what}: {metrics:?}, {:?}", registry.stats());
        if !has_fault {
            let image = image();
            let size: u64 = image.documents().chain(image.blobs()).map(Part::size).sum();
            assert_eq!(bytes, size, "{what}");
        }
        let line = format!("oci_puller_http_retries_total{{host=\"{}\"}} {retries}", registry.host());
        assert!(metrics.to_prometheus().lines().any(|found| found == line), "{what}: {metrics:?}");
    }
}

#[test]
fn the_target_of_a_redirect_is_counted_as_a_host_and_clones_count_together() {
    let (registry, storage) = (Registry::start().unwrap(), Registry::start().unwrap());
    let image = image();
    let name = registry.push(&image, "v1");
    let layer = &image.layers()[0];
    storage.put_file("/layer", layer.data.clone());
    registry.fault(
        Fault::on(Target::Blob)
            .path_containing(layer.digest.as_str())
            .with(Action::Redirect(format!("{}/layer", storage.url()))),
    );
    let dir = tempfile::tempdir().unwrap();
    let service = quick(dir.path()).build().unwrap();
    service.clone().pull(&*name).unwrap();
    let metrics = service.metrics();
    assert_eq!(metrics.hosts.len(), 2, "{metrics:?}");
    assert_eq!(counts_of(&metrics, &storage), (1, 0, layer.size()));
    assert_eq!(counts_of(&metrics, &registry).0, registry.stats().requests);
}
