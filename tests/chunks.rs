//! Large blobs in chunks: each byte is fetched once, under all faults of the hosts.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

use oci_puller::registry::RegistryImageServiceBuilder;
use oci_puller::testing::images::{Image, ImageBuilder};
use oci_puller::testing::{Action, Fault, Registry, SeenRequest, Stage, Target};
use oci_puller::{ErrorKind, PullContext, RegistryImageService};
use std::time::Duration;

const MIB: usize = 1024 * 1024;

fn large_image(registry: &Registry) -> (Image, String) {
    let image = ImageBuilder::new("large/app").layer(12 * MIB).layer(1000).build();
    let name = registry.push(&image, "v1");
    (image, name)
}

fn builder(dir: &tempfile::TempDir) -> RegistryImageServiceBuilder {
    RegistryImageService::builder(dir.path().join("store"))
        .retry_delay(Duration::from_millis(1), Duration::from_millis(5))
        .chunks(MIB as u64, MIB as u64)
}

/// The layer's bytes that the registry was asked for, by its log of ranges.
fn ranges(registry: &Registry, image: &Image) -> Vec<SeenRequest> {
    let layer = image.layers()[0].digest.to_string();
    registry.requests().into_iter().filter(|seen| seen.path.contains(&layer)).collect()
}

fn assert_sound(service: &RegistryImageService, image: &Image) {
    let report = service.store().verify(&PullContext::new()).unwrap();
    assert!(report.is_sound(), "{report:?}");
    assert!(service.store().open_blob(&image.layers()[0].digest).is_ok());
}

#[test]
fn a_large_layer_comes_in_closed_ranges_each_byte_once() {
    let registry = Registry::start().unwrap();
    let (image, name) = large_image(&registry);
    let dir = tempfile::tempdir().unwrap();
    let service = builder(&dir).build().unwrap();
    let before = registry.stats();
    let pulled = service.pull(&*name).unwrap();
    assert_eq!(ranges(&registry, &image).len(), 13, "the layer is 12 MiB and a tar's head and end");
    let sent = registry.stats().body_bytes - before.body_bytes;
    assert_eq!(sent, pulled.bytes_fetched, "nothing twice");
    assert_sound(&service, &image);
}

#[test]
fn idle_connections_join_where_one_is_slow() {
    let registry = Registry::start().unwrap();
    let (image, name) = large_image(&registry);
    registry.fault(Fault::on(Target::Blob).with(Action::Pace(8 * MIB as u64)));
    let dir = tempfile::tempdir().unwrap();
    let service = builder(&dir).build().unwrap();
    service.pull(&*name).unwrap();
    let connections: std::collections::HashSet<_> =
        ranges(&registry, &image).iter().map(|seen| seen.connection).collect();
    assert!(connections.len() >= 4, "{connections:?}");
    assert_sound(&service, &image);
}

#[test]
fn a_host_without_ranges_sends_a_layer_on_one_connection() {
    let registry = Registry::start().unwrap();
    let (image, name) = large_image(&registry);
    registry.fault(Fault::on(Target::Blob).with(Action::IgnoreRange));
    let dir = tempfile::tempdir().unwrap();
    let service = builder(&dir).build().unwrap();
    service.pull(&*name).unwrap();
    assert_eq!(ranges(&registry, &image).len(), 2, "the range that was ignored, then the whole");
    assert_sound(&service, &image);
}

#[test]
fn chunks_that_break_go_on_where_they_broke() {
    let registry = Registry::start().unwrap();
    let (image, name) = large_image(&registry);
    registry.fault(
        Fault::on(Target::Blob)
            .path_containing(image.layers()[0].digest.hex())
            .times(20)
            .with(Action::CutWithin(100_000..900_000)),
    );
    let dir = tempfile::tempdir().unwrap();
    let service = builder(&dir).tries(30).build().unwrap();
    let pulled = service.pull(&*name).unwrap();
    let sent = registry.stats().body_bytes;
    assert!(sent < pulled.bytes_fetched * 103 / 100 + 100_000, "{sent} for {}", pulled.bytes_fetched);
    assert_sound(&service, &image);
}

#[test]
fn a_chunk_with_wrong_bytes_is_found_and_the_blob_fetched_clean() {
    let registry = Registry::start().unwrap();
    let (image, name) = large_image(&registry);
    registry.fault(Fault::on(Target::Blob).times(1).with(Action::Corrupt(5000)));
    let dir = tempfile::tempdir().unwrap();
    let service = builder(&dir).build().unwrap();
    service.pull(&*name).unwrap();
    assert_sound(&service, &image);

    registry.fault(Fault::on(Target::Blob).with(Action::Corrupt(5000)));
    let (_, name) =
        (image, registry.push(&ImageBuilder::new("large/other").seed(9).layer(3 * MIB).build(), "v1"));
    let error = service.pull(&*name).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::DigestMismatch, "{error}");
}

#[test]
fn the_next_pull_uses_each_chunk_of_a_broken_one() {
    let registry = Registry::start().unwrap();
    let (image, name) = large_image(&registry);
    let dir = tempfile::tempdir().unwrap();
    // The second chunk never arrives, later ones do, and the last one is unavailable.
    let piece = |begins: &'static str| {
        move |seen: &SeenRequest| seen.header("range").is_some_and(|range| range.starts_with(begins))
    };
    registry
        .fault(Fault::on(Target::Blob).when(piece("bytes=1048576-")).with(Action::Hold(Stage::BeforeHead)));
    registry.fault(Fault::on(Target::Blob).when(piece("bytes=12582912-")).with(Action::Status(404)));
    let failed = builder(&dir).build().unwrap().pull(&*name).unwrap_err();
    assert_eq!(failed.kind(), ErrorKind::NotFound);
    registry.clear_faults();
    // What is still on its way to the first pull is counted to that one.
    assert!(registry.wait_until(|stats| stats.connections_open == 0, Duration::from_secs(20)));

    let before = registry.stats().body_bytes;
    let service = builder(&dir).build().unwrap();
    let pulled = service.pull(&*name).unwrap();
    assert!(pulled.bytes_reused > 3 * MIB as u64, "more than the one piece before the gap: {pulled:?}");
    assert_eq!(registry.stats().body_bytes - before, pulled.bytes_fetched, "nothing twice");
    assert_sound(&service, &image);
}

#[test]
fn a_host_that_sends_helpers_the_whole_is_asked_by_them_no_more() {
    let registry = Registry::start().unwrap();
    let (image, name) = large_image(&registry);
    let dir = tempfile::tempdir().unwrap();
    // The first chunk arrives slowly and shows that ranges are supported; a request for another gets the whole blob.
    let is_first = |seen: &SeenRequest| seen.header("range").is_some_and(|it| it.starts_with("bytes=0-"));
    let slow = Fault::on(Target::Blob).when(is_first);
    registry.fault(slow.with(Action::Pace(4 * MIB as u64)));
    let whole = Fault::on(Target::Blob).when(move |seen| !is_first(seen));
    registry.fault(whole.with(Action::IgnoreRange));
    let service = builder(&dir).chunks(MIB as u64, 6 * MIB as u64).build().unwrap();
    service.pull(&*name).unwrap();
    let asked = ranges(&registry, &image).len();
    assert!(asked <= 20, "{asked} questions for three pieces");
    assert_sound(&service, &image);
}

#[test]
fn a_link_that_one_connection_fills_gets_few_connections_and_chunks_in_order() {
    let registry = Registry::start().unwrap();
    let (image, name) = large_image(&registry);
    registry.limit_rate(4 * MIB as u64);
    let dir = tempfile::tempdir().unwrap();
    builder(&dir).build().unwrap().pull(&*name).unwrap();
    let seen = ranges(&registry, &image);
    let connections: std::collections::HashSet<_> = seen.iter().map(|seen| seen.connection).collect();
    assert!(connections.len() <= 4, "{} connections", connections.len());
    let starts: Vec<u64> = seen
        .iter()
        .map(|seen| {
            let range = seen.header("range").unwrap().strip_prefix("bytes=").unwrap();
            range.split_once('-').unwrap().0.parse().unwrap()
        })
        .collect();
    for (at, start) in starts.iter().enumerate() {
        let missing = starts[at..].iter().filter(|later| *later < start).count();
        assert!(missing < 4, "{missing} chunks before {start} came later: {starts:?}");
    }
}

#[test]
fn connections_that_share_a_slow_link_are_not_given_up_for_each_other() {
    let registry = Registry::start().unwrap();
    let image = (0..8).fold(ImageBuilder::new("small/app"), |image, _| image.layer(60_000)).build();
    let name = registry.push(&image, "v1");
    registry.limit_rate(240_000);
    let dir = tempfile::tempdir().unwrap();
    // Each of eight connections alone would be too slow, all together are not.
    let builder = builder(&dir).slowest(90_000, Duration::from_millis(600)).tries(1);
    builder.build().unwrap().pull(&*name).unwrap();
    let size: u64 = image.layers().iter().map(|layer| layer.size()).sum();
    let sent = registry.stats().blob_bytes;
    assert!(sent < size + 10_000, "{sent} bytes for {size}");
}

/// The figures of links as slow as those of the field: what a pull takes, by the time that the link needs.
#[test]
#[ignore = "takes a quarter of an hour"]
fn a_pull_takes_hardly_longer_than_its_link() {
    for (layers, size, rate) in [(8, 400_000, 8_000), (8, 200_000, 4_000)] {
        let registry = Registry::start().unwrap();
        let image = (0..layers).fold(ImageBuilder::new("small/app"), |image, _| image.layer(size)).build();
        let name = registry.push(&image, "v1");
        registry.limit_rate(rate);
        let dir = tempfile::tempdir().unwrap();
        let began = std::time::Instant::now();
        RegistryImageService::builder(dir.path().join("store")).build().unwrap().pull(&*name).unwrap();
        let link = registry.stats().body_bytes.max((layers * size) as u64) as f64 / rate as f64;
        let least = image.layers().iter().map(|layer| layer.size()).sum::<u64>() as f64 / rate as f64;
        let took = began.elapsed().as_secs_f64();
        println!(
            "{layers} layers of {size} bytes at {rate} bytes/s: {:.3} x the link's time ({link:.0} s)",
            took / least
        );
        assert!(took <= 1.05 * least, "{took} s, and the link needs {least}");
    }
}
