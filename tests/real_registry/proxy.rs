//! A proxy in front of a registry, killed and started again in the middle of a pull.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use crossbeam_channel::{Receiver, Sender, bounded};
use oci_puller::progress::{Progress, ProgressEvent};
use oci_puller::testing::images::{ImageBuilder, Part};
use oci_puller::{ImageService, PullContext, PullRequest};
use tempfile::TempDir;

use crate::images::Layout;
use crate::real::{DockerRegistry, Server, free_port, program};
use crate::{SOON, Test, service_with};

pub const TESTS: &[Test] = &[
    ("a_proxy_killed_in_the_middle_of_a_layer_costs_next_to_nothing", TOOLS, || {
        let (proxy, layer) = killed_in_the_middle_of(7 * MIB);
        assert_only_the_rest_was_sent(&proxy, &layer);
    }),
    // Large ones may come on several connections.
    ("a_proxy_killed_in_the_middle_of_a_large_layer_costs_next_to_nothing", TOOLS, || {
        killed_in_the_middle_of(16 * MIB);
    }),
];

const TOOLS: &[&str] = &["docker-registry", "skopeo", "nginx"];

const MIB: u64 = 1024 * 1024;

/// Kills the proxy when the first MiB is there, and starts it again at once. Tells the proxy that
/// runs then, and the layer.
fn killed_in_the_middle_of(layer: u64) -> (Server, Part) {
    let registry = DockerRegistry::start();
    let image = ImageBuilder::new("app").layer(layer as usize).build();
    Layout::of(&image).push(&registry, "app:big", &["--preserve-digests"]);
    let proxy = Proxy::in_front_of(registry.host());
    let mut first = proxy.start();

    let (_folder, service) = service_with(|builder| builder);
    let (watch, first_mib) = Watch::new();
    let cx = PullContext::new().with_progress(watch.clone());
    let request = PullRequest::new(0, format!("127.0.0.1:{}/app:big", proxy.port));
    let (second, pulled) = thread::scope(|scope| {
        let pull = scope.spawn(|| service.pull_image(&cx, &request));
        first_mib.recv_timeout(SOON).unwrap();
        first.kill();
        let second = proxy.start();
        (second, pull.join().unwrap())
    });

    assert_eq!(pulled.unwrap().image_ref.as_str(), image.config_digest().as_str());
    let layer = image.layers()[0].clone();
    let stored = service.store().dir().join("blobs/sha256").join(layer.digest.hex());
    assert!(fs::read(stored).unwrap() == *layer.data);
    let twice = watch.arrived.load(Ordering::SeqCst) - image.blobs().map(Part::size).sum::<u64>();
    assert!(twice <= layer.size() / 100, "{twice} bytes came twice");
    (second, layer)
}

/// The second proxy was asked once for the layer, from the byte on that was reached.
fn assert_only_the_rest_was_sent(proxy: &Server, layer: &Part) {
    let resumed = proxy.line_with(&format!("/blobs/{} 206", layer.digest));
    let (offset, sent) = range_and_sent(&resumed);
    assert!(offset >= MIB, "{resumed}");
    assert_eq!(offset + sent, layer.size(), "{resumed}");
}

/// An nginx's settings; it sends 4 MiB a second on each connection, so that a pull lasts.
struct Proxy {
    port: u16,
    folder: TempDir,
}

impl Proxy {
    fn in_front_of(registry: &str) -> Self {
        let proxy = Proxy { port: free_port(), folder: tempfile::tempdir().unwrap() };
        let dir = proxy.folder.path().display();
        let port = proxy.port;
        let config = format!(
            r#"
            daemon off;
            master_process off;
            pid {dir}/pid;
            events {{}}
            http {{
                log_format seen '$request_uri $status range=$http_range sent=$body_bytes_sent';
                access_log /dev/stdout seen;
                client_body_temp_path {dir}/body;
                proxy_temp_path {dir}/proxy;
                fastcgi_temp_path {dir}/fastcgi;
                uwsgi_temp_path {dir}/uwsgi;
                scgi_temp_path {dir}/scgi;
                server {{
                    listen 127.0.0.1:{port};
                    location / {{
                        proxy_pass http://{registry};
                        proxy_set_header Host $http_host;
                        limit_rate 4m;
                    }}
                }}
            }}
            "#
        );
        fs::write(proxy.config(), config).unwrap();
        proxy
    }

    fn config(&self) -> PathBuf {
        self.folder.path().join("nginx.conf")
    }

    fn start(&self) -> Server {
        let mut command = program("nginx");
        command.args([Path::new("-e"), Path::new("stderr"), Path::new("-p"), self.folder.path()]);
        command.args([Path::new("-c"), &self.config()]);
        // It chooses how to wait for events when its sockets listen.
        command.args(["-g", "error_log stderr notice;"]);
        Server::start(command, "event method")
    }
}

/// N and M of `… range=bytes=N- sent=M`.
fn range_and_sent(line: &str) -> (u64, u64) {
    let after = |mark: &str| {
        let (_, rest) = line.split_once(mark).unwrap();
        let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
        digits.parse().unwrap()
    };
    (after("range=bytes="), after("sent="))
}

/// Counts the bytes of blobs that arrive, and says when the first MiB is there.
struct Watch {
    arrived: AtomicU64,
    first_mib: Sender<()>,
}

impl Watch {
    fn new() -> (Arc<Self>, Receiver<()>) {
        let (first_mib, reached) = bounded(1);
        (Arc::new(Watch { arrived: AtomicU64::new(0), first_mib }), reached)
    }
}

impl Progress for Watch {
    fn event(&self, event: &ProgressEvent) {
        if let ProgressEvent::BlobAdvanced { bytes, .. } = event
            && self.arrived.fetch_add(*bytes, Ordering::SeqCst) + bytes >= MIB
        {
            let _ = self.first_mib.try_send(());
        }
    }
}
