//! No thread outlives what started it. Alone in its process, whose threads it counts.
#![cfg(all(feature = "testing", target_os = "linux"))]
#![allow(clippy::unwrap_used)]

mod common;

use std::fs::{self, Permissions};
use std::net::SocketAddr;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use common::SOON;
use common::pulls::quick;
use crossbeam_channel::{Receiver, bounded, unbounded};
use oci_puller::registry::Resolver;
use oci_puller::store::Durability;
use oci_puller::testing::Registry;
use oci_puller::testing::images::ImageBuilder;
use oci_puller::{
    EnsureRequest, ImageManager, ImagePuller, ParallelImagePuller, PullContext, PullRequest,
    RegistryImageService, SerialImagePuller,
};

/// Ten idle seconds end a thread in any case: what waits for less sees it end for another reason.
const LESS_THAN_IDLE: Duration = Duration::from_secs(7);

/// A port, and the channel whose end a look-up of `hangs` waits for.
struct Names(u16, Receiver<()>);

impl Resolver for Names {
    fn resolve(&self, host: &str, _: u16) -> std::io::Result<Vec<SocketAddr>> {
        if host.starts_with("hangs") {
            let _ = self.1.recv();
        }
        Ok(vec![([127, 0, 0, 1], self.0).into()])
    }
}

/// The names of the threads that this process has.
fn threads() -> Vec<String> {
    let tasks = fs::read_dir("/proc/self/task").unwrap();
    let names = tasks.filter_map(|task| fs::read_to_string(task.unwrap().path().join("comm")).ok());
    let mut names: Vec<String> = names.map(|name| name.trim_end().to_owned()).collect();
    names.sort();
    names
}

fn pool_threads() -> Vec<String> {
    let pools = ["dns-", "helper-", "flush-"];
    threads().into_iter().filter(|name| pools.iter().any(|pool| name.starts_with(pool))).collect()
}

/// Waits until `have` returns `expected`: a thread that was joined is listed for a moment more.
fn assert_threads_become(expected: &[String], have: impl Fn() -> Vec<String>) {
    let begin = Instant::now();
    while have() != expected {
        assert!(begin.elapsed() < LESS_THAN_IDLE, "{:?} instead of {expected:?}", have());
        thread::yield_now();
    }
}

/// Writes a credential helper that knows `ann`, and the configuration that names it.
fn write_helper(dir: &Path) {
    let helper = dir.join("docker-credential-own");
    let answer = r#"{"ServerURL": "", "Username": "ann", "Secret": "secret"}"#;
    fs::write(&helper, format!("#!/bin/sh\ncat >/dev/null\necho '{answer}'\n")).unwrap();
    fs::set_permissions(&helper, Permissions::from_mode(0o755)).unwrap();
    fs::write(dir.join("config.json"), r#"{"credsStore": "own"}"#).unwrap();
}

#[test]
fn nothing_is_left_when_pullers_services_and_stores_are_gone() {
    let before = threads();
    let registry = Registry::start().unwrap();
    registry.require_basic("ann", "secret");
    let image = ImageBuilder::new("library/app").layer(10_000).layer(24 << 20).build();
    registry.push(&image, "v1");
    let port = registry.addr().port();
    let name = format!("registry.test:{port}/library/app:v1");
    let (release, held) = bounded(0);
    let resolver = Arc::new(Names(port, held));
    let service = |dir: &Path| -> RegistryImageService {
        write_helper(dir);
        quick(dir)
            .durability(Durability::Full)
            .plain_http(format!("registry.test:{port}"))
            .plain_http(format!("hangs.test:{port}"))
            .resolver(resolver.clone())
            .docker_config(dir.join("config.json"))
            .helper_dir(dir)
            .build()
            .unwrap()
    };
    // The registry answers each connection on a thread of its own: only those of the library are compared.
    let ours = || -> Vec<String> {
        let is_ours = |name: &String| {
            ["pull-", "timer", "blob-", "manager-", "until"].iter().any(|own| name.starts_with(own))
        };
        threads().into_iter().filter(is_ours).chain(pool_threads()).collect()
    };
    let assert_none_of_ours = || assert_threads_become(&[], ours);

    // Pullers and a manager over one service.
    for round in 0..2 {
        let dir = tempfile::tempdir().unwrap();
        let own = service(dir.path());
        let (results, answers) = unbounded();
        let parallel = ParallelImagePuller::new(own.clone(), 2).unwrap();
        parallel.pull_image(PullContext::new(), PullRequest::new(1, &*name), results.clone());
        answers.recv_timeout(SOON).unwrap().outcome.unwrap();
        let kinds = ["dns-0", "flush-0", "flush-large-0", "helper-0"];
        assert!(kinds.iter().all(|kind| pool_threads().iter().any(|name| name == kind)), "{:?}", threads());
        let serial = SerialImagePuller::new(own.clone()).unwrap();
        serial.pull_image(PullContext::new(), PullRequest::new(2, &*name), results);
        answers.recv_timeout(SOON).unwrap().outcome.unwrap();
        let manager = ImageManager::builder(own.clone()).build().unwrap();
        manager.ensure_image_exists(&PullContext::new(), &EnsureRequest::new("pod", &*name)).unwrap();
        for puller in [&parallel as &dyn ImagePuller, &serial] {
            puller.shutdown(SOON);
        }
        manager.shutdown(SOON);
        drop((parallel, serial, manager));
        let store = own.store().clone();
        if round == 0 {
            assert!(!own.close(), "the store keeps the threads that flush");
            let others = || pool_threads().into_iter().filter(|name| !name.starts_with("flush-")).collect();
            assert_threads_become(&[], others);
            drop(store);
        } else {
            drop(store);
            assert!(own.close(), "{:?}", pool_threads());
        }
        assert_none_of_ours();
    }

    // Two services: the first one's end takes nothing from the second.
    let dirs = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [first, second] = dirs.each_ref().map(|dir| service(dir.path()));
    first.pull(&*name).unwrap();
    assert!(!first.close(), "the other service keeps them");
    second.pull(&*name).unwrap();
    drop(second);
    assert_none_of_ours();

    // A look-up that hangs is left behind, and ends by itself.
    let dir = tempfile::tempdir().unwrap();
    let stuck = service(dir.path());
    let hurried = PullContext::new().with_timeout(Duration::from_millis(50));
    let request = PullRequest::new(3, format!("hangs.test:{port}/library/app:v1"));
    oci_puller::ImageService::pull_image(&stuck, &hurried, &request).unwrap_err();
    let begin = Instant::now();
    assert!(!stuck.close());
    assert!(begin.elapsed() < LESS_THAN_IDLE, "{:?}", begin.elapsed());
    assert_threads_become(&["dns-0".to_owned()], pool_threads);
    drop(release);
    assert_none_of_ours();

    drop(registry);
    assert_threads_become(&before, threads);
}
