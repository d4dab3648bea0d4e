//! The bandwidth limit of a service, as the server counts it.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

mod common;

use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use common::SOON;
use common::pulls::quick;
use crossbeam_channel::unbounded;
use oci_puller::testing::images::ImageBuilder;
use oci_puller::testing::{Acceptor, Connection, Registry};
use oci_puller::{
    CancelToken, ErrorKind, ImagePuller, ParallelImagePuller, PullContext, PullRequest, RegistryImageService,
};

/// Counts the bytes that the kernel has taken for sending, on all connections.
#[derive(Clone, Debug, Default)]
struct Meter(Arc<AtomicU64>);

impl Meter {
    fn bytes(&self) -> u64 {
        self.0.load(Ordering::SeqCst)
    }

    fn wait_for(&self, bytes: u64) {
        let until = Instant::now() + SOON;
        while self.bytes() < bytes {
            assert!(Instant::now() < until, "{} of {bytes} bytes were sent", self.bytes());
            thread::sleep(Duration::from_millis(5));
        }
    }
}

struct Metered(TcpStream, Meter);

impl Acceptor for Meter {
    fn accept(&self, stream: TcpStream) -> io::Result<Box<dyn Connection>> {
        // What waits in this machine's socket was not sent yet.
        rustix::net::sockopt::set_socket_send_buffer_size(&stream, 16 * 1024)?;
        Ok(Box::new(Metered(stream, self.clone())))
    }
}

impl Read for Metered {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.0.read(buffer)
    }
}

impl Write for Metered {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.0.write(&bytes[..bytes.len().min(16 * 1024)])?;
        self.1.0.fetch_add(written as u64, Ordering::SeqCst);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush()
    }
}

fn metered_registry() -> (Registry, Meter) {
    let meter = Meter::default();
    (Registry::builder().acceptor(meter.clone()).start().unwrap(), meter)
}

/// Runs `pulls` pulls of 20 s together with a limit, and `measure` meanwhile; then cancels them.
fn while_pulling<T>(pulls: usize, limit: u64, measure: impl FnOnce(&Meter) -> T) -> T {
    let (registry, meter) = metered_registry();
    let share = limit as usize / pulls;
    let names: Vec<_> = (0..pulls)
        .map(|pull| {
            let image = ImageBuilder::new(format!("app{pull}")).seed(pull as u64);
            // A large layer, which comes in chunks, and small ones.
            let image = (0..8).fold(image.layer(share * 18), |image, _| image.layer(share / 4));
            registry.push(&image.build(), "v1")
        })
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let service = quick(dir.path()).bandwidth_limit(limit).build().unwrap();
    let puller = ParallelImagePuller::new(service, Some(pulls as i32)).unwrap();
    let (cancel, (results, answers)) = (CancelToken::new(), unbounded());
    for name in &names {
        let cx = PullContext::new().with_cancel(&cancel);
        puller.pull_image(cx, PullRequest::new(0, name.as_str()), results.clone());
    }
    let measured = measure(&meter);
    cancel.cancel();
    for _ in names {
        answers.recv_timeout(SOON).unwrap();
    }
    measured
}

#[test]
fn pulls_share_the_limit() {
    const LIMIT: u64 = 4_000_000;
    // What the buffers of a connection hold at most, on both sides.
    const AHEAD: u64 = 512 << 10;
    for (pulls, connections) in [(1, 4), (16, 16)] {
        let (sent, time) = while_pulling(pulls, LIMIT, |meter| {
            let began = Instant::now();
            thread::sleep(Duration::from_millis(1500));
            (meter.bytes(), began.elapsed())
        });
        let allowed = (LIMIT as f64 * (time.as_secs_f64() + 0.2)) as u64 + connections * AHEAD;
        assert!(sent <= allowed, "{pulls} pulls: {sent} of {allowed} bytes");
        assert!(sent >= LIMIT / 2, "{pulls} pulls: only {sent} bytes");
    }
}

#[test]
#[ignore = "measures for 1 min"]
fn at_least_95_and_at_most_102_percent_of_the_limit_are_used() {
    // So much that what the sockets' buffers hold is less than a hundredth.
    const LIMIT: u64 = 10_000_000;
    for pulls in [1, 4, 16] {
        let rate = while_pulling(pulls, LIMIT, |meter| {
            meter.wait_for(3 * LIMIT);
            let (began, before) = (Instant::now(), meter.bytes());
            thread::sleep(Duration::from_secs(10));
            (meter.bytes() - before) as f64 / began.elapsed().as_secs_f64()
        });
        let used = rate / LIMIT as f64;
        println!("{pulls} pulls use {:.1} % of the limit", 100.0 * used);
        assert!((0.95..=1.02).contains(&used), "{pulls} pulls use {used:.3} of the limit");
    }
}

fn layers(registry: &Registry, count: usize, size: usize) -> String {
    let image = (0..count).fold(ImageBuilder::new("app"), |image, _| image.layer(size));
    registry.push(&image.build(), "v1")
}

fn pull(service: &RegistryImageService, cx: PullContext, name: &str) -> Result<(), oci_puller::Error> {
    use oci_puller::ImageService;
    service.pull_image(&cx, &PullRequest::new(0, name)).map(drop)
}

#[test]
fn many_small_blobs_keep_to_the_limit() {
    let registry = Registry::start().unwrap();
    let name = layers(&registry, 60, 2_000);
    let dir = tempfile::tempdir().unwrap();
    let service = quick(dir.path()).bandwidth_limit(120_000).build().unwrap();
    let began = Instant::now();
    pull(&service, PullContext::new(), &name).unwrap();
    assert!(began.elapsed() > Duration::from_millis(800), "{:?}", began.elapsed());
}

#[test]
fn a_wait_for_the_limit_is_neither_silence_nor_a_slow_host() {
    let registry = Registry::start().unwrap();
    let name = layers(&registry, 3, 100_000);
    let dir = tempfile::tempdir().unwrap();
    let service = quick(dir.path())
        .tries(1)
        .bandwidth_limit(100_000)
        .silence_timeout(Duration::from_secs(1))
        .slowest(1_000_000, Duration::from_secs(1))
        .build()
        .unwrap();
    pull(&service, PullContext::new(), &name).unwrap();
}

#[test]
fn a_pull_that_waits_for_the_limit_is_cancelled_at_once_and_keeps_what_it_has() {
    let (registry, meter) = metered_registry();
    let name = layers(&registry, 1, 3_000_000);
    let dir = tempfile::tempdir().unwrap();
    let service = quick(dir.path()).bandwidth_limit(4_000).build().unwrap();
    let cancel = CancelToken::new();
    let (began, kind) = thread::scope(|scope| {
        let cx = PullContext::new().with_cancel(&cancel);
        let pulling = scope.spawn(|| pull(&service, cx, &name).unwrap_err().kind());
        meter.wait_for(20_000);
        cancel.cancel();
        (Instant::now(), pulling.join().unwrap())
    });
    assert_eq!(kind, ErrorKind::Cancelled);
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());

    let cx = PullContext::new().with_timeout(Duration::from_millis(50));
    assert_eq!(pull(&service, cx, &name).unwrap_err().kind(), ErrorKind::Timeout);
}

#[test]
fn a_change_counts_for_pulls_that_wait() {
    let (registry, meter) = metered_registry();
    let name = layers(&registry, 2, 3_000_000);
    let dir = tempfile::tempdir().unwrap();
    let service = quick(dir.path()).bandwidth_limit(2_000).build().unwrap();
    thread::scope(|scope| {
        let pulling = scope.spawn(|| pull(&service, PullContext::new().with_timeout(SOON), &name));
        meter.wait_for(20_000);
        // At the first rate it would take 50 minutes, and at this one 300 s.
        service.bandwidth_limit(20_000).unwrap();
        service.clone().bandwidth_limit(None).unwrap();
        pulling.join().unwrap().unwrap();
    });
}

#[test]
fn a_limit_that_no_server_would_bear_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    let error = quick(dir.path()).bandwidth_limit(0).build().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidConfig);
    let service = quick(dir.path()).bandwidth_limit(1024).build().unwrap();
    assert_eq!(service.bandwidth_limit(1023).unwrap_err().kind(), ErrorKind::InvalidConfig);
    service.bandwidth_limit(Some(1024)).unwrap();
    service.bandwidth_limit(None).unwrap();
}
