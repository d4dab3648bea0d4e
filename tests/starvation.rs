//! Hosts that hang in the middle of their blobs do not starve the pulls from another one.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

mod common;

use std::thread;
use std::time::{Duration, Instant};

use common::SOON;
use common::pulls::quick;
use oci_puller::testing::images::ImageBuilder;
use oci_puller::testing::{Action, Fault, FaultHandle, Registry, Stage, Target};
use oci_puller::{CancelToken, ImageService, PullContext, PullRequest};

const GOOD: usize = 10;

/// Ends the pulls that hang, also when the test fails.
struct End<'a>(&'a CancelToken, &'a [(Registry, FaultHandle)]);

impl Drop for End<'_> {
    fn drop(&mut self) {
        self.0.cancel();
        for (_, hold) in self.1 {
            hold.release();
        }
    }
}

/// Begins `hanging` pulls, each of an image of its own, from `hosts` that send no blob to its end; then pulls ten
/// images of a good host. Returns how long those took.
fn good_pulls_beside(hanging: usize, hosts: usize) -> Duration {
    let dir = tempfile::tempdir().unwrap();
    let service = quick(dir.path()).silence_timeout(Duration::from_secs(300)).build().unwrap();
    let bad: Vec<_> = (0..hosts)
        .map(|_| {
            let registry = Registry::builder().max_connections(64).start().unwrap();
            let hold = registry.fault(Fault::on(Target::Blob).with(Action::Hold(Stage::Body(10))));
            (registry, hold)
        })
        .collect();
    let good = Registry::start().unwrap();
    let names: Vec<String> = (0..GOOD)
        .map(|n| {
            good.push(
                &ImageBuilder::new("library/good").seed(n as u64).layer(2_000).build(),
                &format!("v{n}"),
            )
        })
        .collect();
    let stop = CancelToken::new();
    thread::scope(|scope| {
        let _end = End(&stop, &bad);
        for n in 0..hanging {
            let (registry, _) = &bad[n % hosts];
            let image = ImageBuilder::new("library/bad").seed(n as u64).layer(5_000).layer(5_000).build();
            let name = registry.push(&image, &format!("v{n}"));
            let cx = PullContext::new().with_cancel(&stop);
            let service = &service;
            let pull = move || service.pull_image(&cx, &PullRequest::new(n as u64, name));
            thread::Builder::new().stack_size(256 * 1024).spawn_scoped(scope, pull).unwrap();
        }
        for (_, hold) in &bad {
            assert!(hold.wait_fired(2, SOON));
        }
        let begin = Instant::now();
        let pulls: Vec<_> = names.iter().map(|name| scope.spawn(|| service.pull(&**name))).collect();
        let results: Vec<_> = pulls.into_iter().map(|pull| pull.join().unwrap()).collect();
        let took = begin.elapsed();
        assert!(results.iter().all(Result::is_ok), "{results:?}");
        took
    })
}

#[test]
fn ten_of_ten_good_pulls_come_beside_hosts_that_hang() {
    for (hanging, hosts) in [(32, 1), (60, 5)] {
        let took = good_pulls_beside(hanging, hosts);
        assert!(took < SOON, "{hanging} over {hosts}: {took:?}");
    }
}

#[test]
#[ignore = "up to 1,000 pulls at a time, half a minute"]
fn ten_of_ten_good_pulls_come_beside_a_thousand_that_hang() {
    for (hanging, hosts) in [(32, 1), (32, 5), (200, 1), (200, 5), (1_000, 1), (1_000, 5)] {
        let took = good_pulls_beside(hanging, hosts);
        println!("{hanging} hanging pulls over {hosts} hosts: 10 of 10 in {took:?}");
        assert!(took < Duration::from_secs(12), "{hanging} over {hosts}: {took:?}");
    }
}
