use std::process::Stdio;
use std::thread;
use std::time::Duration;

use oci_puller::testing::Registry;
use oci_puller::testing::images::ImageBuilder;

use crate::bench::Bench;

const MIB: usize = 1 << 20;

/// The most memory that a pull of one layer of this size takes, KiB, as the kernel tells while it runs.
fn peak_of(layer: usize) -> u64 {
    let registry = Registry::start().unwrap();
    let name = registry.push(&ImageBuilder::new("team/app").layer(layer).build(), "1.0");
    let bench = Bench::new();
    let mut pull = bench.command(["pull", "--json", &name]).stdout(Stdio::null()).spawn().unwrap();
    let mut peak = 0;
    let status = loop {
        let told = std::fs::read_to_string(format!("/proc/{}/status", pull.id())).unwrap_or_default();
        let high_water = told.lines().find_map(|line| line.strip_prefix("VmHWM:")?.split_whitespace().next());
        peak = peak.max(high_water.and_then(|kib| kib.parse().ok()).unwrap_or(0));
        match pull.try_wait().unwrap() {
            Some(status) => break status,
            None => thread::sleep(Duration::from_millis(1)),
        }
    };
    assert!(status.success() && peak > 0, "{status}, {peak} KiB");
    peak
}

#[test]
fn a_large_layer_takes_no_more_memory_than_a_middling_one() {
    let (middling, large) = (peak_of(32 * MIB), peak_of(320 * MIB));
    // How many connections come together is chance: each may take half a MiB, and there are 16.
    assert!(large < middling + 16 * 512, "{middling} KiB became {large}");
}
