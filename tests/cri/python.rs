//! Servers of python-h2 and grpcio, which know nothing of this crate: `pip install h2 grpcio`.
//!
//! The tests show as ignored where Python or a package is missing, unless `OCI_PULLER_PYTHON` names the Python to use.

use std::env;
use std::path::PathBuf;
use std::process::{Command, Stdio};
use std::thread;
use std::time::Duration;

use libtest_mimic::Trial;
use oci_puller::cri::CriImageService;
use oci_puller::{CancelToken, ErrorKind, ImageService, PullContext, PullRequest};
use tempfile::TempDir;

use crate::real::{self, Server};
use crate::service;

const PYTHON: &str = "OCI_PULLER_PYTHON";

pub fn trials() -> Vec<Trial> {
    let tests: [(&str, &'static str, fn()); 4] = [
        ("grpcio_answers_calls", "grpc", grpcio_calls),
        ("grpcio_learns_of_a_cancel_and_of_a_deadline", "grpc", grpcio_ends),
        ("python_h2_accepts_the_client", "h2", h2_accepts),
        ("python_h2_is_understood", "h2", h2_answers),
    ];
    tests.map(|(name, module, run)| trial(name, module, run)).into()
}

fn trial(name: &str, module: &'static str, run: fn()) -> Trial {
    let can_import = command("-c").arg(format!("import {module}")).stderr(Stdio::null()).status();
    if can_import.is_ok_and(|status| status.success()) {
        return real::test(name, run);
    }
    real::missing(name, format!("no module {module} in {:?}", python()), env::var_os(PYTHON).is_some())
}

fn python() -> PathBuf {
    env::var_os(PYTHON).unwrap_or_else(|| "python3".into()).into()
}

fn command(argument: &str) -> Command {
    let mut command = Command::new(python());
    command.arg(argument);
    command
}

/// A server of `script` on a socket of its own.
struct PythonPeer {
    folder: TempDir,
    server: Server,
}

impl PythonPeer {
    fn start(script: &str) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let mut command = command("-c");
        command.arg(script).arg(folder.path().join("cri.sock"));
        PythonPeer { server: Server::start(command, "ready"), folder }
    }

    fn grpcio() -> Self {
        Self::start(include_str!("grpc_peer.py"))
    }

    fn h2() -> Self {
        Self::start(include_str!("h2_peer.py"))
    }

    fn service(&self) -> CriImageService {
        service(&self.folder.path().join("cri.sock"))
    }
}

fn grpcio_calls() {
    let (peer, cx) = (PythonPeer::grpcio(), PullContext::new());
    let service = peer.service();
    assert_eq!(service.version(&cx).unwrap().runtime_name, "grpcio");
    assert_eq!(service.image_size(&cx, &"app".into()).unwrap(), 42);
    assert_eq!(service.image_ref(&cx, &"absent".into()).unwrap(), None);
    for (image, kind, part) in [
        ("refused", ErrorKind::Denied, "failed to authorize: 403 Forbidden \\u{20ac} %"),
        ("broken", ErrorKind::Unavailable, "as the test says"),
    ] {
        let error = service.image_ref(&cx, &image.into()).unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.message().contains(part), "{error}");
    }
    let error = service.image_fs_info(&cx).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported, "{error}");
    // More than 5 MB in one message.
    let listed = service.list_images(&cx).unwrap();
    assert_eq!((listed.len(), listed[9_999].size), (10_000, 9_999));
    // More than the 64 KiB of HTTP/2's first windows.
    let mut request = PullRequest::new(1, "app");
    request.image.annotations.insert("long".into(), "v".repeat(1 << 20));
    let pulled = service.pull_image(&cx, &request).unwrap();
    let length: usize = pulled.image_ref.as_str().strip_prefix("sha256:").unwrap().parse().unwrap();
    assert!(length > 1 << 20, "{length}");
    thread::scope(|scope| {
        for _ in 0..64 {
            let service = service.clone();
            scope.spawn(move || service.image_size(&PullContext::new(), &"app".into()).unwrap());
        }
    });
}

fn grpcio_ends() {
    let peer = PythonPeer::grpcio();
    let (service, token) = (peer.service(), CancelToken::new());
    let cx = PullContext::new().with_cancel(&token);
    let pull = thread::spawn(move || service.pull_image(&cx, &PullRequest::new(1, "slow")));
    peer.server.line_with("slow, ");
    token.cancel();
    assert_eq!(pull.join().unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
    peer.server.line_with("slow ended");

    let peer = PythonPeer::grpcio();
    let cx = PullContext::new().with_timeout(Duration::from_secs(1));
    let error = peer.service().pull_image(&cx, &PullRequest::new(1, "slow")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    let line = peer.server.line_with("slow, ");
    let remaining: f32 = line.strip_prefix("slow, ").unwrap().parse().unwrap();
    assert!(remaining <= 1.0, "{line}");
    peer.server.line_with("slow ended");
}

fn h2_accepts() {
    let (peer, cx) = (PythonPeer::h2(), PullContext::new());
    let mut image = oci_puller::ImageSpec::from("app");
    image.annotations.insert("long".into(), "v".repeat(100_000));
    assert_eq!(peer.service().image_size(&cx, &image).unwrap(), 7);
    let line = peer.server.line_with(" bytes");
    assert!(line.split(' ').next().unwrap().parse::<usize>().unwrap() > 100_000, "{line}");
    assert_eq!(peer.service().image_size(&cx, &"pings".into()).unwrap(), 7);
    assert!(peer.server.lines_with(&["refused"]).is_empty());
}

fn h2_answers() {
    let (peer, cx) = (PythonPeer::h2(), PullContext::new());
    let service = peer.service();
    for image in ["app", "padded", "continuation", "indexed", "pings", "settings"] {
        assert_eq!(service.image_size(&cx, &image.into()).unwrap(), 7, "{image}");
    }
    assert_eq!(service.image_ref(&cx, &"trailers-only".into()).unwrap(), None);
    for image in ["reset", "goodbye"] {
        let error = service.image_ref(&cx, &image.into()).unwrap_err();
        assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Unavailable, true), "{image}: {error}");
    }
    assert!(peer.server.lines_with(&["refused"]).is_empty());
}
