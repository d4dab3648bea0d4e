//! Pulls over links of some kbit/s, which `tc` makes of a network namespace's loopback device.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

use std::process::Command;
use std::thread;
use std::time::{Duration, Instant};

use oci_puller::testing::Registry;
use oci_puller::testing::images::ImageBuilder;
use oci_puller::{RegistryImageService, store::Durability};

/// Set in the process that is in the namespace: the link's rate, kbit/s, and the layers' size, bytes.
const CASE: &str = "OCI_PULLER_SLOW_LINK";
const LAYERS: usize = 8;

/// What two packets carry, and what they and their acknowledgement take on the link, bytes: Ethernet, IP, and TCP
/// with timestamps.
const PAYLOAD: f64 = 2.0 * 1448.0;
const PACKETS: f64 = 2.0 * 1514.0 + 66.0;

#[test]
#[ignore = "takes eight minutes; needs root, unshare, ip and tc"]
fn many_layers_take_no_longer_than_a_slow_link_needs_for_them() {
    if let Ok(case) = std::env::var(CASE) {
        return pull_over_link(&case);
    }
    thread::scope(|scope| {
        for (rate, size) in [(64, 400_000), (32, 200_000)] {
            scope.spawn(move || pull_in_namespace(rate, size));
        }
    });
}

/// Runs this test again in a network namespace, whose loopback device is the slow link for both directions.
fn pull_in_namespace(rate: u64, size: u64) {
    let link = format!(
        "ip link set lo mtu 1500 up
        tc qdisc add dev lo root tbf rate {rate}kbit burst 4kb latency 2s
        exec \"$0\" --ignored --exact --nocapture many_layers_take_no_longer_than_a_slow_link_needs_for_them"
    );
    let mut command = Command::new("unshare");
    command.args(["--net", "sh", "-ec", &link]).arg(std::env::current_exe().unwrap());
    let status = command.env(CASE, format!("{rate} {size}")).status().unwrap();
    assert!(status.success(), "{rate} kbit/s");
}

fn pull_over_link(case: &str) {
    let (rate, size) = case.split_once(' ').unwrap();
    let (rate, size): (f64, u64) = (rate.parse().unwrap(), size.parse().unwrap());
    let registry = Registry::builder().start().unwrap();
    let image = (0..LAYERS).fold(ImageBuilder::new("app"), |image, _| image.layer(size as usize));
    let image = image.build();
    let name = registry.push(&image, "1");
    let dir = tempfile::tempdir().unwrap();
    let service = RegistryImageService::builder(dir.path())
        .durability(Durability::Relaxed)
        .plain_http(registry.host())
        .build()
        .unwrap();
    let began = Instant::now();
    let pulled = service.pull(name).unwrap();
    let took = began.elapsed();
    let bits = pulled.bytes_fetched as f64 * 8.0;
    let needed = Duration::from_secs_f64(bits / (rate * 1000.0) * PACKETS / PAYLOAD);
    let ratio = took.as_secs_f64() / needed.as_secs_f64();
    println!("{rate} kbit/s, {LAYERS} layers of {size} bytes: {took:.1?}, {ratio:.3} of {needed:.1?}");
    assert!(ratio < 1.05, "{ratio}");
}
