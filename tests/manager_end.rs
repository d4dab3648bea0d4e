//! How a manager ends.

// Helpers of tests are tests.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::sync::{Arc, Mutex, OnceLock};
use std::time::{Duration, Instant};

use common::SOON;
use common::node::{BOTH, Bench, Kind, Node};
use crossbeam_channel::{bounded, unbounded};
use oci_puller::{EnsureRequest, ErrorKind, Event, EventReason, EventSink, ImageManager, PullContext};

fn request(image: &str) -> EnsureRequest {
    EnsureRequest::new("pod", image)
}

#[test]
fn what_waits_is_answered_and_what_runs_has_its_grace() {
    for kind in BOTH {
        let bench = Bench::with(kind, |b| b.max_parallel(1));
        let (running, queued) = (unbounded(), unbounded());
        bench.begin(request("gate/running:v1"), &running.0);
        bench.enqueue(request("gate/queued:v1"), &queued.0);
        std::thread::scope(|scope| {
            let end = scope.spawn(|| bench.manager.shutdown(SOON));
            let answer = queued.1.recv_timeout(SOON).unwrap();
            assert_eq!(answer.outcome.unwrap_err().kind(), ErrorKind::ShutDown, "{}", bench.name);
            bench.node.open(1);
            running.1.recv_timeout(SOON).unwrap().outcome.unwrap();
            end.join().unwrap();
        });
        let error = bench.ensure(&request("app")).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::ShutDown);
        bench.manager.submit(PullContext::new(), request("app"), running.0.clone());
        assert_eq!(running.1.try_recv().unwrap().outcome.unwrap_err().kind(), ErrorKind::ShutDown);
    }
}

#[test]
fn after_its_grace_what_runs_is_cancelled() {
    for kind in BOTH {
        let bench = Bench::new(kind);
        let (results, answers) = unbounded();
        bench.begin(request("gate/running:v1"), &results);
        bench.manager.shutdown(Duration::from_millis(10));
        let answer = answers.try_recv().unwrap();
        assert_eq!(answer.outcome.unwrap_err().kind(), ErrorKind::Cancelled, "{}", bench.name);
    }
}

#[test]
fn a_service_that_does_not_listen_holds_nobody_up() {
    for kind in BOTH {
        let bench = Bench::new(kind);
        let begun_at = std::thread::scope(|scope| {
            let waiting = scope.spawn(|| bench.ensure(&request("deaf/app:v1")));
            bench.node.next_started();
            let begun_at = Instant::now();
            bench.manager.shutdown(Duration::ZERO);
            assert_eq!(waiting.join().unwrap().unwrap_err().kind(), ErrorKind::ShutDown, "{}", bench.name);
            begun_at
        });
        assert!(begun_at.elapsed() < Duration::from_secs(3), "{:?}", begun_at.elapsed());
        bench.node.open(1);
    }
}

#[test]
fn its_threads_are_few_and_gone_afterwards() {
    let threads = || fs::read_dir("/proc/self/task").unwrap().count();
    // Other tests of this file have managers, too: this one runs in a process of its own.
    if std::env::var_os("ALONE").is_none() {
        let me = std::env::current_exe().unwrap();
        let arguments = ["--exact", "its_threads_are_few_and_gone_afterwards"];
        let status = std::process::Command::new(me).args(arguments).env("ALONE", "1").output().unwrap();
        assert!(status.status.success(), "{status:?}");
        return;
    }
    let before = threads();
    let (bench, (results, answers)) = (Bench::new(Kind::Parallel(3)), unbounded());
    assert_eq!(threads(), before + 5);
    for n in 0..1000 {
        bench.manager.submit(PullContext::new(), request(&format!("gate/{n}:v1")), results.clone());
    }
    bench.events.wait_for(3, EventReason::Pulling);
    assert_eq!(threads(), before + 5 + 3, "one more for each pull that runs");
    bench.node.open(1000);
    for _ in 0..1000 {
        answers.recv_timeout(SOON).unwrap().outcome.unwrap();
    }
    drop(bench);
    assert_eq!(threads(), before);
}

#[test]
fn an_answer_that_finds_no_room_waits_for_it() {
    let bench = Bench::new(Kind::Serial);
    let (results, answers) = bounded(0);
    for id in 0..3 {
        bench.manager.submit(PullContext::new(), EnsureRequest { id, ..request("app") }, results.clone());
    }
    let mut ids: Vec<_> = (0..3).map(|_| answers.recv_timeout(SOON).unwrap().id).collect();
    ids.sort_unstable();
    assert_eq!(ids, [0, 1, 2]);
}

/// Drops the manager in the first event.
#[derive(Default)]
struct Ender {
    manager: Mutex<Option<ImageManager>>,
    dropped: OnceLock<()>,
}

impl EventSink for Ender {
    fn event(&self, _: &Event) {
        let manager = self.manager.lock().unwrap().take();
        if manager.is_some() {
            drop(manager);
            self.dropped.set(()).unwrap();
        }
    }
}

#[test]
fn it_may_be_dropped_by_one_of_its_own_threads() {
    let ender = Arc::new(Ender::default());
    let (results, answers) = unbounded();
    let node = Arc::new(Node::new());
    node.add("app:latest");
    let manager = ImageManager::builder(node).events(Arc::clone(&ender) as _).build().unwrap();
    let mut slot = ender.manager.lock().unwrap();
    manager.submit(PullContext::new(), request("app"), results);
    *slot = Some(manager);
    drop(slot);
    answers.recv_timeout(SOON).unwrap().outcome.unwrap();
    assert!(ender.dropped.get().is_some());
}
