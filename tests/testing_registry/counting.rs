//! The registry's counters and records, and its concurrent requests.

use std::io::Read;
use std::sync::Arc;
use std::time::{Duration, Instant};

use oci_puller::testing::{Registry, Target};

use crate::{REPOSITORY, SOON, blob_path, client, layer_path, manifest_path, registry};

#[test]
fn requests_connections_and_bytes_are_counted() {
    let (registry, image) = registry();
    let mut first = client(&registry);
    first.ask("GET", &format!("{}?ns=docker.io", manifest_path()), &["X-Mine: yes", "x-mine: too"]).unwrap();
    first.get(&layer_path(&image)).unwrap();
    let mut second = client(&registry);
    second.get("/v2/").unwrap();

    let stats = registry.stats();
    assert_eq!((stats.requests, stats.manifests, stats.blobs, stats.pings, stats.tokens), (3, 1, 1, 1, 0));
    assert_eq!((stats.connections_accepted, stats.connections_open), (2, 2));
    assert_eq!(stats.blob_bytes, image.layers()[0].size());
    assert_eq!(stats.body_bytes, stats.blob_bytes + image.root().size() + 2);

    let seen = registry.requests();
    assert_eq!(seen.iter().map(|one| one.connection).collect::<Vec<_>>(), [0, 0, 1]);
    assert_eq!((&*seen[0].path, &*seen[0].query), (&*manifest_path(), "ns=docker.io"));
    assert_eq!(
        (seen[0].target, &*seen[0].method, seen[0].header("X-MINE")),
        (Target::Manifest, "GET", Some("yes"))
    );
    drop(first);
    assert!(registry.wait_until(|stats| stats.connections_open == 1, SOON));
}

#[test]
fn no_more_connections_are_served_at_once_than_allowed() {
    let registry = Registry::builder().max_connections(2).start().unwrap();
    let mut served = [client(&registry), client(&registry)];
    for client in &mut served {
        client.get("/v2/").unwrap();
    }
    let mut waiting = client(&registry);
    waiting.send("GET", "/v2/", &[], "").unwrap();
    assert!(!registry.wait_until(|stats| stats.connections_accepted > 2, Duration::from_millis(100)));
    drop(served);
    assert_eq!(waiting.answer("GET").unwrap().status, 200);
    assert_eq!(registry.stats().connections_accepted, 3);
}

#[test]
fn its_connections_can_be_closed_under_a_client() {
    let (registry, _) = registry();
    let mut idle = client(&registry);
    idle.get("/v2/").unwrap();
    registry.close_connections();
    assert!(registry.wait_until(|stats| stats.connections_open == 0, SOON));
    assert!(idle.get("/v2/").is_err());
    assert_eq!(client(&registry).get("/v2/").unwrap().status, 200);
}

#[test]
#[ignore = "a measurement: run it with --release -- --ignored --nocapture"]
fn how_fast_a_blob_goes_over_loopback() {
    let registry = Registry::start().unwrap();
    let data: Arc<[u8]> = vec![7; 256 << 20].into();
    let digest = registry.put_blob(REPOSITORY, data.clone());
    let mut client = client(&registry);
    let mut sink = vec![0; 1 << 20];
    for _ in 0..4 {
        client.send("GET", &blob_path(&digest), &[], "").unwrap();
        let begin = Instant::now();
        let mut left = data.len();
        let mut socket = client.socket();
        while left > 0 {
            left = left.saturating_sub(socket.read(&mut sink).unwrap());
        }
        println!("{:.2} GB/s", data.len() as f64 / begin.elapsed().as_secs_f64() / 1e9);
    }
}
