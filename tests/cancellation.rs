//! A cancel and a deadline end every wait of a pull at once, and close no other pull's
//! connections.
#![cfg(feature = "testing")]
#![allow(clippy::unwrap_used)]

mod common;
#[path = "common/tls.rs"]
mod tls;

use std::io;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::{Duration, Instant};

use common::SOON;
use common::pulls::quick;
use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use oci_puller::progress::{Progress, ProgressEvent};
use oci_puller::registry::{RegistryImageServiceBuilder, Resolver};
use oci_puller::testing::images::{Image, ImageBuilder};
use oci_puller::testing::{Action, Fault, Registry, Stage, Target, TokenServer};
use oci_puller::{CancelToken, ErrorKind, ImageService, PullContext, PullRequest, RegistryImageService};

/// What is promised is 100 ms; a machine that is busy with other tests gets more.
const AT_ONCE: Duration = Duration::from_secs(2);

/// Blocks until the pull waits.
type Arrived = Box<dyn FnOnce(&Events) + Send>;

/// A state's name, and how a pull gets into it.
type State = (&'static str, fn(&Path) -> Waiting);

/// A pull that waits, and how it is known that it does.
struct Waiting {
    service: RegistryImageService,
    image: String,
    arrived: Arrived,
    /// What has to live as long.
    _scene: Box<dyn Send>,
}

/// The progress events of the pull.
struct Events(Receiver<String>);

impl Events {
    fn wait_for(&self, start: &str) {
        while !self.0.recv_timeout(SOON).unwrap().starts_with(start) {}
    }
}

struct Tell(Mutex<Sender<String>>);

impl Progress for Tell {
    fn event(&self, event: &ProgressEvent) {
        let _ = self.0.lock().unwrap().send(format!("{event:?}"));
    }
}

const STATES: [State; 13] = [
    ("connecting", connecting),
    ("looking a name up", looking_up),
    ("TLS", handshake),
    ("a proxy that says nothing", proxy),
    ("waiting for the head of an answer", head),
    ("in the middle of a head", half_a_head),
    ("reading a manifest that stalls", stalled_manifest),
    ("reading a layer that drips", dripping_layer),
    ("sleeping before a retry", retry),
    ("waiting for a token", token),
    ("waiting for a token that another asks for", another_token),
    ("before a closed gate", gate),
    ("waiting for a slot", slot),
];

#[test]
fn a_cancel_is_answered_at_once_in_every_state() {
    for (name, prepare) in STATES {
        let dir = tempfile::tempdir().unwrap();
        let waiting = prepare(dir.path());
        let cancel = CancelToken::new();
        let (outcome, ended) =
            start(&waiting.service, &waiting.image, PullContext::new().with_cancel(&cancel), waiting.arrived);
        let begin = Instant::now();
        cancel.cancel();
        let error = outcome.recv_timeout(SOON).unwrap().unwrap_err();
        let took = ended.recv_timeout(SOON).unwrap() - begin;
        assert_eq!(error, ErrorKind::Cancelled, "{name}");
        assert!(took < AT_ONCE, "{name}: {took:?}");
        println!("{name}: cancelled in {took:?}");
    }
}

#[test]
fn a_deadline_is_kept_in_every_state() {
    const LIMIT: Duration = Duration::from_millis(300);
    for (name, prepare) in STATES {
        let dir = tempfile::tempdir().unwrap();
        let waiting = prepare(dir.path());
        let begin = Instant::now();
        let (outcome, ended) =
            start(&waiting.service, &waiting.image, PullContext::new().with_timeout(LIMIT), |_| {});
        let error = outcome.recv_timeout(SOON).unwrap().unwrap_err();
        let took = ended.recv_timeout(SOON).unwrap() - begin;
        // A gate that opens too late is not waited at.
        assert!(matches!(error, ErrorKind::Timeout | ErrorKind::RateLimited), "{name}: {error:?}");
        assert!(took < LIMIT + AT_ONCE, "{name}: {took:?}");
    }
}

type Outcome = Result<(), ErrorKind>;

/// Pulls on a thread, and returns when the pull waits: where its outcome comes, and when it came.
fn start(
    service: &RegistryImageService,
    image: &str,
    cx: PullContext,
    arrived: impl FnOnce(&Events),
) -> (Receiver<Outcome>, Receiver<Instant>) {
    let (events, told) = unbounded();
    let cx = cx.with_progress(Arc::new(Tell(Mutex::new(events))));
    let (service, request) = (service.clone(), PullRequest::new(0, image));
    let ((outcome, outcomes), (end, ends)) = (bounded(1), bounded(1));
    thread::spawn(move || {
        let pulled = service.pull_image(&cx, &request);
        let _ = end.send(Instant::now());
        let _ = outcome.send(pulled.map(drop).map_err(|error| error.kind()));
    });
    arrived(&Events(told));
    (outcomes, ends)
}

fn image() -> Image {
    ImageBuilder::new("library/app").layer(50_000).build()
}

fn registry() -> (Arc<Registry>, String) {
    let registry = Registry::start().unwrap();
    let name = registry.push(&image(), "v1");
    (Arc::new(registry), name)
}

/// A pull that waits where a fault holds it.
fn held(dir: &Path, fault: Fault) -> Waiting {
    let (registry, image) = registry();
    let handle = registry.fault(fault);
    let arrived = Box::new(move |_: &Events| assert!(handle.wait_fired(1, SOON)));
    waiting(quick(dir), image, arrived, registry)
}

fn waiting(
    service: RegistryImageServiceBuilder,
    image: String,
    arrived: Arrived,
    scene: impl Send + 'static,
) -> Waiting {
    Waiting { service: service.build().unwrap(), image, arrived, _scene: Box::new(scene) }
}

/// A listener whose queue is full takes no more connections.
fn connecting(dir: &Path) -> Waiting {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    let mut queued = Vec::new();
    while let Ok(socket) = TcpStream::connect_timeout(&address, Duration::from_millis(100)) {
        queued.push(socket);
        if queued.len() > 5000 {
            break;
        }
    }
    let image = format!("{address}/library/app:v1");
    // No event reports a connection attempt.
    let arrived = Box::new(|_: &Events| thread::sleep(Duration::from_millis(50)));
    waiting(quick(dir), image, arrived, (listener, queued))
}

struct Hanging(Receiver<()>, Sender<()>);

impl Resolver for Hanging {
    fn resolve(&self, _: &str, _: u16) -> io::Result<Vec<SocketAddr>> {
        let _ = self.1.try_send(());
        let _ = self.0.recv();
        Err(io::ErrorKind::NotFound.into())
    }
}

fn looking_up(dir: &Path) -> Waiting {
    let ((end, hang), (asked, was_asked)) = (bounded(0), bounded(1));
    let service = quick(dir).resolver(Arc::new(Hanging(hang, asked)));
    let arrived = Box::new(move |_: &Events| was_asked.recv_timeout(SOON).unwrap());
    waiting(service, "registry.test/library/app:v1".into(), arrived, end)
}

/// A server that accepts and says nothing: its address, and when it did.
fn silent_server() -> (String, Arrived) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let host = listener.local_addr().unwrap().to_string();
    let (accepted, connection) = bounded(1);
    thread::spawn(move || {
        let (socket, _) = listener.accept().unwrap();
        let _ = accepted.send(());
        let _ = io::copy(&mut &socket, &mut io::sink());
    });
    (host, Box::new(move |_| connection.recv_timeout(SOON).unwrap()))
}

fn handshake(dir: &Path) -> Waiting {
    let (host, arrived) = silent_server();
    waiting(quick(dir).tls(&host), format!("{host}/library/app:v1"), arrived, ())
}

fn proxy(dir: &Path) -> Waiting {
    let (host, arrived) = silent_server();
    let service = quick(dir).proxy(format!("http://{host}"));
    waiting(service, "registry.test/library/app:v1".into(), arrived, ())
}

fn head(dir: &Path) -> Waiting {
    held(dir, Fault::on(Target::Manifest).with(Action::Hold(Stage::BeforeHead)))
}

fn half_a_head(dir: &Path) -> Waiting {
    held(dir, Fault::on(Target::Blob).with(Action::Hold(Stage::InHead)))
}

fn stalled_manifest(dir: &Path) -> Waiting {
    held(dir, Fault::on(Target::Manifest).with(Action::Hold(Stage::Body(10))))
}

fn dripping_layer(dir: &Path) -> Waiting {
    let drip = Action::Drip { bytes: 1, every: Duration::from_millis(20) };
    held(dir, Fault::on(Target::Blob).with(drip))
}

fn retry(dir: &Path) -> Waiting {
    let (registry, image) = registry();
    registry.fault(Fault::on(Target::Blob).with(Action::Status(503)));
    let service = quick(dir).retry_delay(Duration::from_secs(60), Duration::from_secs(60));
    waiting(service, image, Box::new(|events| events.wait_for("Waiting")), registry)
}

fn token(dir: &Path) -> Waiting {
    let (registry, image) = registry();
    registry.require_token(&TokenServer::new().anonymous());
    let held = registry.fault(Fault::on(Target::Token).with(Action::Hold(Stage::BeforeHead)));
    let arrived = Box::new(move |_: &Events| assert!(held.wait_fired(1, SOON)));
    waiting(quick(dir), image, arrived, registry)
}

/// Another pull asks for the token; this one waits for its answer.
fn another_token(dir: &Path) -> Waiting {
    let first = token(dir);
    start(&first.service, &first.image, PullContext::new(), first.arrived);
    let arrived = Box::new(|_: &Events| thread::sleep(Duration::from_millis(50)));
    Waiting { service: first.service, image: first.image, arrived, _scene: first._scene }
}

fn gate(dir: &Path) -> Waiting {
    let (registry, image) = registry();
    let busy =
        Fault::on(Target::Manifest).with(Action::Status(429)).with(Action::header("Retry-After", "60"));
    registry.fault(busy);
    let service = quick(dir).max_retry_after(Duration::from_secs(60)).tries(1).build().unwrap();
    service.pull(&*image).unwrap_err();
    let arrived = Box::new(|events: &Events| events.wait_for("Waiting"));
    Waiting { service, image, arrived, _scene: Box::new(registry) }
}

/// Another pull holds the only connection that the host may be asked on.
fn slot(dir: &Path) -> Waiting {
    let (registry, image) = registry();
    let held = registry.fault(Fault::on(Target::Manifest).with(Action::Hold(Stage::Body(10))));
    let service = quick(dir).connections_per_host(1).build().unwrap();
    start(&service, &image, PullContext::new(), |_| assert!(held.wait_fired(1, SOON)));
    let arrived = Box::new(|_: &Events| thread::sleep(Duration::from_millis(50)));
    Waiting { service, image, arrived, _scene: Box::new(registry) }
}

#[test]
fn a_wait_for_another_pulls_blob_can_be_cancelled_alone() {
    let (registry, name) = registry();
    let layer = image().layers()[0].digest.clone();
    let at_layer = Fault::on(Target::Blob).path_containing(layer.as_str());
    let held = registry.fault(at_layer.with(Action::Hold(Stage::Body(100))));
    let dir = tempfile::tempdir().unwrap();
    let service = quick(dir.path()).build().unwrap();
    let (first, _) = start(&service, &name, PullContext::new(), |_| assert!(held.wait_fired(1, SOON)));

    let cancel = CancelToken::new();
    let cx = PullContext::new().with_cancel(&cancel);
    let (second, ended) = start(&service, &name, cx, |events| events.wait_for("Resolved"));
    thread::sleep(Duration::from_millis(50));
    let begin = Instant::now();
    cancel.cancel();
    assert_eq!(second.recv_timeout(SOON).unwrap(), Err(ErrorKind::Cancelled));
    let took = ended.recv_timeout(SOON).unwrap() - begin;
    assert!(took < AT_ONCE, "{took:?}");

    held.release();
    assert_eq!(first.recv_timeout(SOON).unwrap(), Ok(()));
}

#[test]
fn a_cancel_closes_no_connection_of_another_pull() {
    let slow = Registry::start().unwrap();
    let images: Vec<Image> =
        (0..2).map(|n| ImageBuilder::new(format!("app{n}")).seed(n).layer(200_000).build()).collect();
    let names: Vec<String> = images.iter().map(|image| slow.push(image, "v1")).collect();
    let layer = |n: usize| images[n].layers()[0].digest.to_string();
    let held = [0, 1].map(|n| {
        slow.fault(Fault::on(Target::Blob).path_containing(layer(n)).with(Action::Hold(Stage::Body(1000))))
    });
    let dir = tempfile::tempdir().unwrap();
    let service = quick(dir.path()).build().unwrap();
    let pull = |n: usize, cx: PullContext| {
        start(&service, &names[n], cx, |_| assert!(held[n].wait_fired(1, SOON))).0
    };
    let cancel = CancelToken::new();
    let cancelled = pull(0, PullContext::new().with_cancel(&cancel));
    let other = pull(1, PullContext::new());
    // Both layers and both configs were asked for: no more connections are to come.
    assert!(slow.wait_until(|stats| stats.blobs == 4, SOON));
    let before = slow.stats();
    cancel.cancel();
    assert_eq!(cancelled.recv_timeout(SOON).unwrap(), Err(ErrorKind::Cancelled));
    // Those that were read from are closed; the config's may be done already.
    assert!(slow.wait_until(|stats| stats.connections_open < before.connections_open, SOON));
    held[1].release();
    assert_eq!(other.recv_timeout(SOON).unwrap(), Ok(()));
    let after = slow.stats();
    assert_eq!(after.connections_accepted, before.connections_accepted, "the other pull connected anew");
}
