//! The registry ends at once, also with requests in progress.

use std::net::TcpStream;
use std::time::{Duration, Instant};

use oci_puller::testing::{Action, Fault, Registry, Stage, Target};

use crate::{REPOSITORY, SOON, blob_path, client, layer_path, registry};

/// For a machine that has much else to do; what hangs would do so for an hour.
const AT_ONCE: Duration = Duration::from_secs(2);

#[test]
fn shutdown_does_not_wait_for_requests_that_hang() {
    let long = Duration::from_secs(3600);
    for action in [
        Action::Delay(long),
        Action::Hold(Stage::BeforeHead),
        Action::Hold(Stage::InHead),
        Action::Hold(Stage::Body(100)),
        Action::Drip { bytes: 1, every: long },
        Action::Pace(1),
    ] {
        let (registry, image) = registry();
        let fault = registry.fault(Fault::on(Target::Blob).with(action.clone()));
        let mut busy = client(&registry);
        busy.send("GET", &layer_path(&image), &[], "").unwrap();
        let _idle = client(&registry);
        assert!(fault.wait_fired(1, SOON));
        let begin = Instant::now();
        registry.shutdown();
        assert!(begin.elapsed() < AT_ONCE, "{action:?}: {:?}", begin.elapsed());
        assert!(TcpStream::connect(registry.addr()).is_err(), "{action:?}");
    }
}

#[test]
fn shutdown_does_not_wait_for_a_client_that_does_not_read() {
    let registry = Registry::start().unwrap();
    let digest = registry.put_blob(REPOSITORY, vec![0; 32 << 20]);
    let mut lazy = client(&registry);
    lazy.send("GET", &blob_path(&digest), &[], "").unwrap();
    assert!(registry.wait_until(|stats| stats.blob_bytes > 0, SOON));
    let begin = Instant::now();
    drop(registry);
    assert!(begin.elapsed() < AT_ONCE);
}

#[test]
fn another_can_take_its_place() {
    let (first, _) = registry();
    let mut idle = client(&first);
    idle.get("/v2/").unwrap();
    first.shutdown();
    first.shutdown();
    let second = Registry::builder().addr(first.addr()).start().unwrap();
    assert_eq!((second.host(), client(&second).get("/v2/").unwrap().status), (first.host(), 200));
}
