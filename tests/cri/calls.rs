//! The messages to a runtime, the results of its answers, and the ends of calls.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::net::UnixListener;
use std::thread;
use std::time::{Duration, Instant};

use oci_puller::credentials::Credential;
use oci_puller::cri::CriImageService;
use oci_puller::{
    CancelToken, ErrorKind, ImageRef, ImageService, ImageSpec, PodSandboxConfig, PullContext, PullRequest,
    PullSecret,
};

use crate::peer::{self, Answer, Peer, field, image, number, status};
use crate::{SOON, Test, service};

pub const TESTS: &[Test] = &[
    ("pulls_send_image_sandbox_and_annotations", &[], passes_on),
    ("pulls_try_each_credential_in_order_and_then_none", &[], credentials),
    ("the_error_of_a_refused_pull_lists_every_attempt", &[], every_try),
    ("empty_refs_ids_and_sizes_are_protocol_errors", &[], empty_parts),
    ("absent_images_have_no_ref_and_are_removed", &[], absent),
    ("images_and_file_systems_are_listed", &[], lists),
    ("a_runtime_without_cri_v1_is_unsupported", &[], unsupported),
    ("a_cancelled_call_returns_and_closes_its_connection", &[], cancel),
    ("a_deadline_is_sent_to_the_runtime_and_ends_the_call", &[], deadline),
    ("the_call_timeout_limits_calls_except_pulls", &[], call_timeout),
    ("missing_and_refused_sockets_are_retryable", &[], no_socket),
    ("a_socket_without_permission_is_denied", &[], no_permission),
    ("a_service_uses_the_socket_that_replaced_another", &[], replaced),
    ("a_runtime_that_does_not_accept_times_out_and_can_be_cancelled", &[], full_backlog),
    ("requests_larger_than_the_window_wait_for_it", &[], windows),
    ("calls_run_in_parallel", &[], many),
    ("the_command_pulls_lists_and_removes_images_of_a_runtime", &[], command),
    ("the_command_tells_the_errors_of_a_runtime", &[], command_errors),
];

fn passes_on() {
    let peer = Peer::start(|call| match call.method() {
        "PullImage" => peer::message(&field(1, "sha256:id")).into(),
        _ => image("sha256:id", 7, &format!("r.io/app@sha256:{}", "a".repeat(64))).into(),
    });
    let image = ImageSpec::new("r.io/app:1").with_runtime_handler("kata").with_annotation("key", "value");
    let pod = PodSandboxConfig::new("pod", "uid-1", "space").with_attempt(3);
    let request = PullRequest::new(1, image).with_pod_sandbox_config(pod);
    let service = service(&peer.path());
    let pulled = service.pull_image(&PullContext::new(), &request).unwrap();
    assert_eq!(pulled.image_ref, ImageRef::new("sha256:id"));
    assert_eq!(pulled.manifest_digest.unwrap().hex(), "a".repeat(64));
    assert!(pulled.repo_digest.unwrap().starts_with("r.io/app@sha256:aaa"));

    let call = peer.calls.recv_timeout(SOON).unwrap();
    assert_eq!(call.headers[":path"], "/runtime.v1.ImageService/PullImage");
    assert_eq!(call.headers["te"], "trailers");
    assert!(!call.headers.contains_key("grpc-timeout"));
    let has = |part: &[u8]| call.message.windows(part.len()).any(|window| window == part);
    let annotation = field(2, [field(1, "key"), field(2, "value")].concat());
    let metadata = [field(1, "pod"), field(2, "uid-1"), field(3, "space"), number(4, 3)].concat();
    for part in [field(1, "r.io/app:1"), annotation, field(1, metadata)] {
        assert!(has(&part), "{:?}", call.message);
    }
    // Fields 18 and 19 have tags of two bytes.
    assert!(has(b"\x92\x01\x0ar.io/app:1") && has(b"\x9a\x01\x04kata"), "{:?}", call.message);
}

fn credentials() {
    let peer = Peer::start(|call| {
        let has = |part: &str| call.message.windows(part.len()).any(|window| window == part.as_bytes());
        match call.method() {
            "PullImage" if has("good") => peer::message(&field(1, "sha256:id")).into(),
            "PullImage" => status("2", "failed: 401 Unauthorized").into(),
            _ => image("sha256:id", 7, "").into(),
        }
    });
    let service = CriImageService::builder(peer.path().to_str().unwrap())
        .credential("r.io", Credential::identity_token("good"))
        .build()
        .unwrap();
    let mut request = PullRequest::new(1, "r.io/app");
    let secret =
        r#"{"auths": {"r.io": {"username": "user", "password": "wrong"}, "other.io": {"username": "x"}}}"#;
    request.pull_secrets.push(PullSecret::docker_config_json(secret));
    let pulled = service.pull_image(&PullContext::new(), &request).unwrap();
    assert_eq!(pulled.credential, Some(Credential::identity_token("good").fingerprint()));

    let calls: Vec<_> = peer.calls.try_iter().filter(|call| call.method() == "PullImage").collect();
    let first = field(2, [field(1, "user"), field(2, "wrong")].concat());
    let second = field(2, field(5, "good"));
    assert_eq!(calls.len(), 2);
    for (call, auth) in calls.iter().zip([first, second]) {
        assert!(call.message.windows(auth.len()).any(|window| window == auth), "{:?}", call.message);
    }
}

fn every_try() {
    let peer = Peer::start(|call| match call.message.windows(4).any(|window| window == b"user") {
        true => status("2", "failed: 401 Unauthorized").into(),
        false => status("5", "not found").into(),
    });
    let service = CriImageService::builder(peer.path().to_str().unwrap())
        .credential("r.io", Credential::basic("user", "secret"))
        .build()
        .unwrap();
    let error = service.pull_image(&PullContext::new(), &PullRequest::new(1, "r.io/app")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized);
    let kinds: Vec<_> = error.attempts().iter().map(|attempt| attempt.error.kind()).collect();
    assert_eq!(kinds, [ErrorKind::Unauthorized, ErrorKind::NotFound]);
    let text = error.to_string();
    assert!(text.starts_with(&format!("r.io/app: {}: unauthorized", peer.path().display())), "{text}");
    assert!(!format!("{text} {error:?} {service:?}").contains("secret"));
}

fn empty_parts() {
    let (cx, request) = (PullContext::new(), PullRequest::new(1, "app"));
    let peer = Peer::start(|call| match call.method() {
        "PullImage" => peer::message(b"").into(),
        _ => image("", 0, "").into(),
    });
    let service_ = service(&peer.path());
    assert_eq!(service_.pull_image(&cx, &request).unwrap_err().kind(), ErrorKind::Protocol);
    assert_eq!(service_.image_ref(&cx, &request.image).unwrap_err().kind(), ErrorKind::Protocol);
    let peer = Peer::start(|_| image("sha256:id", 0, "").into());
    let error = service(&peer.path()).image_size(&cx, &request.image).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol);
    let peer = Peer::start(|_| peer::message(&field(1, field(2, "app:1"))).into());
    assert_eq!(service(&peer.path()).list_images(&cx).unwrap_err().kind(), ErrorKind::Protocol);
}

fn absent() {
    let cx = PullContext::new();
    for answer in [peer::message(b""), status("5", "no such image")] {
        let peer = Peer::start(move |call| match call.method() {
            "RemoveImage" => status("5", "no such image").into(),
            _ => answer.clone().into(),
        });
        let service = service(&peer.path());
        assert_eq!(service.image_ref(&cx, &"app".into()).unwrap(), None);
        assert_eq!(service.image_size(&cx, &"app".into()).unwrap_err().kind(), ErrorKind::NotFound);
        service.remove_image(&cx, &"app".into()).unwrap();
    }
}

fn lists() {
    let cx = PullContext::new();
    // More than 4 MiB: 10,000 images.
    let images = (0..10_000).flat_map(|n| {
        let digest = format!("r.io/app{n}@sha256:{n:064}");
        let names = [
            field(2, format!("r.io/a-rather-long-name-of-an-application-{n}:{}", "v".repeat(240))),
            field(3, digest),
        ];
        field(1, [field(1, format!("sha256:{n:064}")), names.concat(), number(4, n), number(8, 1)].concat())
    });
    let list = images.collect::<Vec<u8>>();
    assert!(list.len() > 4 << 20, "{}", list.len());
    let usage = [field(2, field(1, "/")), field(3, number(1, 1234)), field(4, number(1, 56))].concat();
    let peer = Peer::start(move |call| match call.method() {
        "ListImages" => peer::message(&list).into(),
        _ => peer::message(&field(1, &usage)).into(),
    });
    let service = service(&peer.path());
    let images = service.list_images(&cx).unwrap();
    assert_eq!(images.len(), 10_000);
    let last = &images[9_999];
    assert_eq!(last.image_ref, ImageRef::new(format!("sha256:{:064}", 9_999)));
    assert_eq!((last.names.len(), last.size, last.pinned), (2, 9_999, true));
    assert_eq!(last.manifest_digest.as_ref().unwrap().hex(), format!("{:064}", 9_999));

    let info = service.image_fs_info(&cx).unwrap();
    assert_eq!((info.used_bytes, info.inodes_used), (1234, 56));
    assert!(info.capacity_bytes > 0 && info.path.to_str() == Some("/"));

    let small = CriImageService::builder(peer.path().to_str().unwrap()).max_message(4 << 20).build().unwrap();
    assert_eq!(small.list_images(&cx).unwrap_err().kind(), ErrorKind::Protocol);
}

fn unsupported() {
    let peer = Peer::start(|_| status("12", "unknown service runtime.v1.ImageService").into());
    let error = service(&peer.path()).version(&PullContext::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unsupported);
    assert!(error.message().contains("no CRI v1"), "{error}");
}

fn silent() -> Peer {
    Peer::start(|_| Answer { bytes: Vec::new(), stays_open: true })
}

fn cancel() {
    let peer = silent();
    let service = service(&peer.path());
    let token = CancelToken::new();
    let cx = PullContext::new().with_cancel(&token);
    let pull = thread::spawn(move || {
        let ended = service.pull_image(&cx, &PullRequest::new(1, "app"));
        (ended, Instant::now())
    });
    peer.calls.recv_timeout(SOON).unwrap();
    let cancelled = Instant::now();
    token.cancel();
    let (ended, at) = pull.join().unwrap();
    assert_eq!(ended.unwrap_err().kind(), ErrorKind::Cancelled);
    assert!(at - cancelled < Duration::from_secs(2), "{:?}", at - cancelled);
    peer.closed.recv_timeout(SOON).expect("the runtime sees the end of the connection");
}

fn deadline() {
    let peer = silent();
    let cx = PullContext::new().with_timeout(Duration::from_millis(300));
    let error = service(&peer.path()).pull_image(&cx, &PullRequest::new(1, "app")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    let call = peer.calls.recv_timeout(SOON).unwrap();
    let timeout: u64 = call.headers["grpc-timeout"].strip_suffix('m').unwrap().parse().unwrap();
    assert!(timeout <= 300, "{timeout}");
}

fn call_timeout() {
    let peer = silent();
    let service = CriImageService::builder(peer.path().to_str().unwrap())
        .call_timeout(Duration::from_millis(50))
        .build()
        .unwrap();
    let error = service.image_ref(&PullContext::new(), &"app".into()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(error.message().contains("0.05 s"), "{error}");

    let cx = PullContext::new().with_timeout(Duration::from_millis(300));
    let began = Instant::now();
    service.pull_image(&cx, &PullRequest::new(1, "app")).unwrap_err();
    assert!(began.elapsed() >= Duration::from_millis(290));
}

fn no_socket() {
    let folder = tempfile::tempdir().unwrap();
    let path = peer::unused(folder.path());
    let error = service(&path).version(&PullContext::new()).unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::ConnectionFailed, true));
    assert_eq!(error.host(), path.to_str());
    assert!(error.message().contains("does not exist"), "{error}");
    // A socket that no process listens on.
    drop(UnixListener::bind(&path).unwrap());
    let error = service(&path).version(&PullContext::new()).unwrap_err();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::ConnectionFailed, true));
}

fn no_permission() {
    let folder = tempfile::tempdir().unwrap();
    fs::set_permissions(&folder, PermissionsExt::from_mode(0o755)).unwrap();
    let path = folder.path().join("denied.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    fs::set_permissions(&path, PermissionsExt::from_mode(0o000)).unwrap();
    let denied = path.clone();
    let call = thread::spawn(move || {
        // Permissions do not bind root: this thread becomes another user.
        if rustix::process::geteuid().is_root() {
            rustix::thread::set_thread_uid(rustix::process::Uid::from_raw(65534)).unwrap();
        }
        service(&denied).version(&PullContext::new()).unwrap_err()
    });
    let error = call.join().unwrap();
    assert_eq!((error.kind(), error.is_retryable()), (ErrorKind::Denied, false), "{error}");
    assert_eq!(error.host(), path.to_str());
}

fn replaced() {
    let [first, second] = ["sha256:1", "sha256:2"].map(|id| Peer::start(move |_| image(id, 7, "").into()));
    let (service, cx) = (service(&first.path()), PullContext::new());
    let id = || service.image_ref(&cx, &"app".into()).unwrap().unwrap();
    assert_eq!(id().as_str(), "sha256:1");
    fs::rename(second.path(), first.path()).unwrap();
    assert_eq!(id().as_str(), "sha256:2");
}

fn full_backlog() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("cri.sock");
    let _listener = UnixListener::bind(&path).unwrap();
    rustix::net::listen(&_listener, 0).unwrap();
    // A backlog of 0 holds one connection.
    let _first = std::os::unix::net::UnixStream::connect(&path).unwrap();
    let service = CriImageService::builder(path.to_str().unwrap())
        .connect_timeout(Duration::from_millis(200))
        .build()
        .unwrap();
    let error = service.version(&PullContext::new()).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");

    let service = crate::service(&path);
    let token = CancelToken::new();
    let cx = PullContext::new().with_cancel(&token);
    let call = thread::spawn(move || service.version(&cx));
    token.cancel();
    assert_eq!(call.join().unwrap().unwrap_err().kind(), ErrorKind::Cancelled);
}

fn windows() {
    // The message is larger than the windows that each connection begins with, 64 KiB.
    let peer = Peer::start(|_| peer::message(&field(1, "sha256:id")).into());
    let mut request = PullRequest::new(1, "app");
    for n in 0..2000 {
        request.image.annotations.insert(format!("key-{n}"), "v".repeat(100));
    }
    service(&peer.path()).pull_image(&PullContext::new(), &request).unwrap();
    let call = peer.calls.recv_timeout(SOON).unwrap();
    assert!(call.message.len() > 200_000, "{}", call.message.len());
}

fn many() {
    let peer = Peer::start(|_| image("sha256:id", 7, "").into());
    let service = service(&peer.path());
    thread::scope(|scope| {
        for _ in 0..64 {
            let service = service.clone();
            scope.spawn(move || {
                assert_eq!(service.image_size(&PullContext::new(), &"app".into()).unwrap(), 7);
            });
        }
    });
}

fn command() {
    let digest = format!("r.io/app@sha256:{}", "a".repeat(64));
    let listed = field(
        1,
        [field(1, "sha256:id"), field(2, "r.io/app:1"), field(3, &digest), number(4, 7_000)].concat(),
    );
    let peer = Peer::start(move |call| match call.method() {
        "PullImage" => peer::message(&field(1, "sha256:id")).into(),
        "ListImages" => peer::message(&listed).into(),
        "RemoveImage" => peer::message(b"").into(),
        _ => image("sha256:id", 7_000, &digest).into(),
    });
    let run = |arguments: &[&str]| {
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_oci-puller"));
        command.args(arguments).args(["--cri", peer.path().to_str().unwrap()]).env_clear();
        let output = command.env("OCI_PULLER_STORE", "/nowhere").output().unwrap();
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    };
    let pulled: serde_json::Value = serde_json::from_str(&run(&["pull", "--json", "r.io/app:1"])).unwrap();
    assert_eq!((pulled["ok"].as_bool(), pulled["size"].as_u64()), (Some(true), Some(7_000)));
    let rows = run(&["images"]);
    assert!(rows.contains("r.io/app:1") && rows.contains("7.0 kB"), "{rows}");
    let listed: serde_json::Value = serde_json::from_str(&run(&["images", "--json"])).unwrap();
    assert_eq!(listed["names"], serde_json::json!(["r.io/app:1"]));
    assert_eq!(run(&["rm", "r.io/app:1"]), "r.io/app:1\n");
}

/// The command's exit code, standard output and standard error.
fn failed(socket: &str, arguments: &[&str]) -> (i32, String, String) {
    let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_oci-puller"));
    let output = command.args(arguments).args(["--cri", socket]).env_clear().output().unwrap();
    let text = |bytes| String::from_utf8(bytes).unwrap();
    (output.status.code().unwrap(), text(output.stdout), text(output.stderr))
}

fn command_errors() {
    let peer = Peer::start(|_| status("2", "failed to authorize: 401 Unauthorized").into());
    let path = peer.path();
    let socket = path.to_str().unwrap();
    for arguments in [&["pull", "r.io/app:1"][..], &["images"], &["rm", "r.io/app:1"]] {
        let (code, out, error) = failed(socket, arguments);
        assert_ne!(code, 0);
        assert_eq!(out, "");
        let parts = ["error: ", socket, "unauthorized", "401 Unauthorized"];
        assert!(parts.iter().all(|part| error.contains(part)), "{arguments:?}: {error}");
    }
    let (_, out, _) = failed(socket, &["pull", "--json", "r.io/app:1"]);
    let line: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!((line["ok"].as_bool(), line["error"]["kind"].as_str()), (Some(false), Some("Unauthorized")));
    for (socket, part) in [("/none.sock", "does not exist"), ("tcp://[::1]:1", "unix:///PATH")] {
        let (code, _, error) = failed(socket, &["images"]);
        assert!(code != 0 && error.contains(part), "{error}");
    }
    for arguments in [&["rm", "--json", "a"][..], &["pull", "--platform", "linux/arm64", "a"]] {
        assert_eq!(failed(socket, arguments).0, 2, "{arguments:?}");
    }
}
