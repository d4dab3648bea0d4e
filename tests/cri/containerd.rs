//! A real containerd, with its CRI plugin on a socket of the test's own, and docker-registry.

use std::collections::BTreeSet;
use std::fs;
use std::path::PathBuf;
use std::thread;
use std::time::{Duration, Instant};

use oci_puller::testing::images::ImageBuilder;
use oci_puller::testing::{Action, Fault, Registry, Target};
use oci_puller::{
    CancelToken, EnsureRequest, ErrorKind, ImageManager, ImagePuller, ImageService, ParallelImagePuller,
    PullContext, PullRequest, PullSecret, RegistryImageService, Store,
};
use serde_json::json;
use tempfile::TempDir;

use crate::real::{self, DockerRegistry, Server};
use crate::{SOON, Test, service};

const TOOLS: &[&str] = &["containerd", "docker-registry", "skopeo", "umoci"];

pub const TESTS: &[Test] = &[
    ("containerd_pulls_lists_and_removes_images", TOOLS, pulls),
    ("containerd_gets_the_pull_secrets", TOOLS, secrets),
    ("pulls_end_when_cancelled_and_when_containerd_ends", &["containerd"], restarts),
    ("pullers_and_manager_work_over_containerd", &["containerd"], pullers_and_manager),
    ("ctr_imports_and_exports_archives", &["containerd", "ctr"], archives),
];

/// A containerd of this test's own. It needs root.
struct Containerd {
    folder: TempDir,
    server: Option<Server>,
}

impl Containerd {
    fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name).to_str().unwrap().to_owned();
        let disabled =
            ["snapshotter.v1.aufs", "snapshotter.v1.btrfs", "snapshotter.v1.devmapper", "snapshotter.v1.zfs"]
                .map(|name| format!("io.containerd.{name}"));
        let config = format!(
            "version = 2\nroot = {root:?}\nstate = {state:?}\ndisabled_plugins = {disabled:?}\n\
             required_plugins = [\"io.containerd.grpc.v1.cri\"]\n[grpc]\naddress = {socket:?}\n\
             [plugins.\"io.containerd.grpc.v1.cri\"]\ndisable_tcp_service = true\n\
             stream_server_address = \"127.0.0.1\"\nstream_server_port = \"0\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".containerd]\nsnapshotter = \"native\"\n\
             [plugins.\"io.containerd.grpc.v1.cri\".cni]\nbin_dir = {none:?}\nconf_dir = {none:?}\n\
             [plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = {none:?}\n",
            root = path("root"),
            state = path("state"),
            socket = path("c.sock"),
            none = path("none"),
        );
        fs::write(folder.path().join("config.toml"), config).unwrap();
        let mut containerd = Containerd { folder, server: None };
        containerd.run();
        containerd
    }

    fn run(&mut self) {
        let mut command = real::program("containerd");
        command.arg("-c").arg(self.folder.path().join("config.toml"));
        self.server = Some(Server::start(command, "containerd successfully booted"));
        // Its CRI plugin may still be starting, and no line of the log tells when it is done.
        let (service, until) = (service(&self.socket()), Instant::now() + SOON);
        while let Err(error) = service.list_images(&PullContext::new()) {
            assert!(error.kind() == ErrorKind::Unavailable && Instant::now() < until, "{error}");
            thread::sleep(Duration::from_millis(10));
        }
    }

    fn kill(&mut self) {
        self.server = None;
    }

    fn stop(&mut self) {
        self.server.as_mut().unwrap().stop();
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("c.sock")
    }
}

/// Makes an image with umoci, and pushes it to the registry.
fn push(registry: &DockerRegistry, name: &str, credentials: &[&str]) -> String {
    let folder = tempfile::tempdir().unwrap();
    let layout = folder.path().join("layout");
    let layout = layout.to_str().unwrap();
    let image = format!("{layout}:image");
    real::run("umoci", ["init", "--layout", layout]);
    real::run("umoci", ["new", "--image", &image]);
    let file = folder.path().join("file");
    fs::write(&file, name).unwrap();
    real::run("umoci", ["insert", "--image", &image, file.to_str().unwrap(), "/file"]);
    let (from, to) = (format!("oci:{image}"), format!("docker://{}/{name}", registry.host()));
    let mut arguments = vec!["copy", "--insecure-policy", "--dest-tls-verify=false"];
    arguments.extend(credentials);
    arguments.extend([from.as_str(), to.as_str()]);
    real::run("skopeo", arguments);
    format!("{}/{name}", registry.host())
}

fn archives() {
    let (containerd, cx) = (Containerd::start(), PullContext::new());
    let folder = tempfile::tempdir().unwrap();
    let (ours, theirs) = (folder.path().join("ours.tar"), folder.path().join("theirs.tar"));
    let (ours, theirs) = (ours.to_str().unwrap(), theirs.to_str().unwrap());
    let registry = Registry::start().unwrap();
    let name = registry.push(&ImageBuilder::new("team/app").layer(5_000).build(), "v1");
    let dir = folder.path().join("store");
    let service = RegistryImageService::builder(&dir).build().unwrap();
    let pulled = service.pull_image(&cx, &PullRequest::new(1, name.as_str())).unwrap();
    Store::open(&dir).unwrap().export(&cx, &name, fs::File::create(ours).unwrap()).unwrap();

    let socket = containerd.socket();
    let ctr = |arguments: &[&str]| {
        real::run("ctr", ["-a", socket.to_str().unwrap(), "images"].iter().chain(arguments).copied());
    };
    ctr(&["import", "--no-unpack", ours]);
    for options in [&[][..], &["--skip-manifest-json"]] {
        ctr(&[&["export"], options, &[theirs, &name]].concat());
        let store = Store::open(folder.path().join(format!("store-{}", options.len()))).unwrap();
        assert_eq!(store.import(&cx, fs::File::open(theirs).unwrap()).unwrap(), [name.as_str()]);
        assert_eq!(store.find(&name).unwrap().unwrap().id.to_string(), pulled.image_ref.to_string());
        assert!(store.verify(&cx).unwrap().is_sound());
    }
}

fn pulls() {
    let (containerd, registry) = (Containerd::start(), DockerRegistry::start());
    let name = push(&registry, "team/app:v1", &[]);
    let (service, cx) = (service(&containerd.socket()), PullContext::new());
    let version = service.version(&cx).unwrap();
    assert_eq!((version.runtime_name.as_str(), version.api_version.as_str()), ("containerd", "v1"));

    let digest = registry.tagged("team/app", "v1");
    let repository = format!("{}/team/app", registry.host());
    let mut refs = BTreeSet::new();
    for image in [name.clone(), format!("{repository}@{digest}"), format!("{name}@{digest}")] {
        let known = service.image_ref(&cx, &image.as_str().into()).unwrap();
        assert_eq!(known.is_some(), !refs.is_empty(), "{image}");
        let pulled = service.pull_image(&cx, &PullRequest::new(1, image.as_str())).unwrap();
        assert_eq!(pulled.repo_digest.as_deref(), Some(&*format!("{repository}@{digest}")), "{image}");
        assert_eq!(pulled.manifest_digest.unwrap().as_str(), digest);
        assert!(service.image_size(&cx, &image.as_str().into()).unwrap() > 0);
        refs.insert(pulled.image_ref.as_str().to_owned());
    }
    assert_eq!(refs.len(), 1, "{refs:?}");
    let listed = service.list_images(&cx).unwrap();
    assert_eq!(listed.len(), 1, "{listed:?}");
    assert!(listed[0].names.contains(&name), "{listed:?}");
    assert!(service.image_fs_info(&cx).unwrap().capacity_bytes > 0);

    for missing in ["team/none:v1", "team/app:v2"] {
        let image = format!("{}/{missing}", registry.host());
        let error = service.pull_image(&cx, &PullRequest::new(1, image.as_str())).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotFound, "{error}");
        assert_eq!(service.image_ref(&cx, &image.as_str().into()).unwrap(), None);
    }
    let error = service.pull_image(&cx, &PullRequest::new(1, "Not A Name")).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::InvalidReference);
    // Containerd has no image of such a name.
    assert_eq!(service.image_ref(&cx, &"Not A Name".into()).unwrap(), None);
    assert_eq!(service.image_size(&cx, &"Not A Name".into()).unwrap_err().kind(), ErrorKind::NotFound);

    let id = refs.first().unwrap();
    for _ in 0..2 {
        service.remove_image(&cx, &id.as_str().into()).unwrap();
        assert_eq!(service.image_ref(&cx, &id.as_str().into()).unwrap(), None);
    }
    thread::scope(|scope| {
        for _ in 0..64 {
            let service = service.clone();
            scope.spawn(move || service.list_images(&PullContext::new()).unwrap());
        }
    });
}

fn secrets() {
    // alice's password is "open sesame".
    let folder = tempfile::tempdir().unwrap();
    let users = folder.path().join("htpasswd");
    fs::write(&users, "alice:$2y$05$abcdefghijklmnopqrstuupx2xBUC4954936wVIjyyPHmUBFu0wCW\n").unwrap();
    let registry =
        DockerRegistry::start_with(json!({ "auth": { "htpasswd": { "realm": "test", "path": users } } }));
    let name = push(&registry, "private:v1", &["--dest-creds", "alice:open sesame"]);
    let containerd = Containerd::start();
    let (service, cx) = (service(&containerd.socket()), PullContext::new());
    let secret = |password: &str| {
        let auths = json!({ "auths": { registry.host(): { "username": "alice", "password": password } } });
        PullSecret::docker_config_json(auths.to_string())
    };
    let mut request = PullRequest::new(1, name.as_str());
    let error = service.pull_image(&cx, &request).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
    request.pull_secrets = vec![secret("wrong")];
    let error = service.pull_image(&cx, &request).unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unauthorized, "{error}");
    assert_eq!(error.attempts().len(), 2);
    assert!(!format!("{error:?}").contains("wrong"));
    request.pull_secrets.push(secret("open sesame"));
    assert!(service.pull_image(&cx, &request).unwrap().credential.is_some());
}

fn restarts() {
    let (mut containerd, registry) = (Containerd::start(), Registry::start().unwrap());
    let name = registry.push(&ImageBuilder::new("slow").layer(2_000_000).build(), "1");
    let slow = registry.fault(Fault::on(Target::Blob).with(Action::Pace(100_000)));
    let service = service(&containerd.socket());
    let pull = |cx: PullContext| {
        let (service, request) = (service.clone(), PullRequest::new(1, name.as_str()));
        thread::spawn(move || (service.pull_image(&cx, &request), Instant::now()))
    };
    let token = CancelToken::new();
    let cancelled = pull(PullContext::new().with_cancel(&token));
    assert!(slow.wait_fired(1, SOON));
    let began = Instant::now();
    token.cancel();
    let (outcome, at) = cancelled.join().unwrap();
    assert_eq!(outcome.unwrap_err().kind(), ErrorKind::Cancelled);
    assert!(at - began < Duration::from_secs(2), "{:?}", at - began);

    // Killed, then restarted by a service manager, each in the middle of a pull.
    for is_killed in [true, false] {
        let fired = slow.fired();
        let broken = pull(PullContext::new());
        assert!(slow.wait_fired(fired + 1, SOON));
        if is_killed {
            containerd.kill()
        } else {
            containerd.stop()
        }
        let error = broken.join().unwrap().0.unwrap_err();
        let expected = [ErrorKind::ConnectionFailed, ErrorKind::Unavailable];
        assert!(expected.contains(&error.kind()) && error.is_retryable(), "{error}");
        let error = service.version(&PullContext::new()).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ConnectionFailed, "{error}");
        if is_killed {
            containerd.run();
        }
    }

    // The same service uses the new socket at the same path.
    slow.remove();
    containerd.run();
    let pulled = pull(PullContext::new()).join().unwrap().0.unwrap();
    assert!(!pulled.image_ref.is_empty());
}

fn pullers_and_manager() {
    let (containerd, registry) = (Containerd::start(), Registry::start().unwrap());
    let names: Vec<_> = (0..4)
        .map(|n| registry.push(&ImageBuilder::new(format!("app{n}")).layer(10_000).build(), "1"))
        .collect();
    let service = service(&containerd.socket());
    let puller = ParallelImagePuller::new(service.clone(), Some(2)).unwrap();
    let (results, answers) = crossbeam_channel::unbounded();
    for (id, name) in names.iter().enumerate() {
        puller.pull_image(PullContext::new(), PullRequest::new(id as u64, name.as_str()), results.clone());
    }
    for result in answers.iter().take(names.len()) {
        assert!(result.outcome.is_ok() && result.image_size > Some(0), "{result:?}");
    }
    let manager = ImageManager::builder(service).build().unwrap();
    let request = EnsureRequest::new("pod", names[0].as_str());
    let ensured = manager.ensure_image_exists(&PullContext::new(), &request).unwrap();
    assert!(ensured.image_ref.as_str().starts_with("sha256:"));
}
