//! The shutdown of a manager.

// Helpers of tests are tests.
#![allow(clippy::unwrap_used)]

mod common;

use std::fs;
use std::sync::{Arc, Mutex, OnceLock};
use std::thread;
use std::time::{Duration, Instant};

use common::node::{BOTH, Bench, Kind, Node};
use common::{SOON, served};
use crossbeam_channel::{bounded, unbounded};
use oci_puller::manager::{Event, EventReason, EventSink};
use oci_puller::{EnsureRequest, ErrorKind, ImageManager, PullContext};

fn request(image: &str) -> EnsureRequest {
    EnsureRequest::new("pod", image)
}

#[test]
fn shutdown_answers_waiting_requests_and_gives_running_pulls_a_grace() {
    for kind in BOTH {
        let bench = Bench::with(kind, |b| b.max_parallel(1));
        let (running, queued) = (unbounded(), unbounded());
        bench.begin(request("gate/running:v1"), &running.0);
        bench.enqueue(request("gate/queued:v1"), &queued.0);
        thread::scope(|scope| {
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
fn running_pulls_are_cancelled_after_the_grace() {
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
fn a_service_that_ignores_its_context_delays_no_caller() {
    for kind in BOTH {
        let bench = Bench::new(kind);
        let begun_at = thread::scope(|scope| {
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
    assert_eq!(threads(), before + 1, "one at rest");
    for n in 0..1000 {
        bench.manager.submit(PullContext::new(), request(&format!("gate/{n}:v1")), results.clone());
    }
    bench.events.wait_for(3, EventReason::Pulling);
    assert_eq!(threads(), before + 5 + 3, "four for submitted requests, and one for each pull that runs");
    bench.node.open(1000);
    for _ in 0..1000 {
        answers.recv_timeout(SOON).unwrap().outcome.unwrap();
    }
    drop(bench);
    assert_eq!(threads(), before);
}

/// Keeps the name of the thread of each event.
#[derive(Default)]
struct ThreadNames(Mutex<Vec<String>>);

impl EventSink for ThreadNames {
    fn event(&self, event: &Event) {
        let name = thread::current().name().unwrap_or_default().to_owned();
        self.0.lock().unwrap().push(format!("{} on {name}", event.reason));
    }
}

#[test]
fn a_pull_takes_the_calling_thread_and_one_pull_thread() {
    let names = Arc::new(ThreadNames::default());
    let node = Arc::new(Node::new());
    let manager = ImageManager::builder(served(&node)).events(Arc::clone(&names)).build().unwrap();
    thread::scope(|scope| {
        let asker = thread::Builder::new().name("asker".to_owned());
        let ensure = || manager.ensure_image_exists(&PullContext::new(), &request("app")).map(drop);
        asker.spawn_scoped(scope, ensure).unwrap().join().unwrap().unwrap();
    });
    let (results, answers) = unbounded();
    manager.submit(PullContext::new(), request("other"), results);
    answers.recv_timeout(SOON).unwrap().outcome.unwrap();
    assert_eq!(
        *names.0.lock().unwrap(),
        ["Pulling on pull-1", "Pulled on asker", "Pulling on pull-2", "Pulled on pull-2"]
    );
}

#[test]
fn answers_that_find_no_room_wait_for_it_and_hold_nothing_up() {
    let bench = Bench::new(Kind::Serial);
    bench.begin(request("gate/occupied"), &unbounded().0);
    let (results, answers) = bounded(4);
    let soon = PullContext::new().with_timeout(Duration::from_millis(20));
    for id in 0..10 {
        bench.manager.submit(soon.clone(), request("gate/queued").with_id(id), results.clone());
    }
    // The last of them fails by its name, after the others' deadline: by then their answers wait for room.
    thread::sleep(Duration::from_millis(60));
    bench.manager.submit(PullContext::new(), request("no name").with_id(10), results.clone());
    bench.node.add("there:latest");
    bench.ensure(&request("there")).expect("full channels hold up no other request");
    let mut ids: Vec<_> = (0..11).map(|_| answers.recv_timeout(SOON).unwrap().id).collect();
    ids.sort_unstable();
    assert_eq!(ids, (0..11).collect::<Vec<_>>());
    bench.node.open(1);
}

#[test]
fn once_the_shutdown_is_over_an_answer_without_room_is_dropped() {
    let bench = Bench::new(Kind::Serial);
    let (results, answers) = bounded(1);
    bench.node.add("there:latest");
    for id in 0..2 {
        bench.manager.submit(PullContext::new(), request("there").with_id(id), results.clone());
    }
    bench.events.wait_for(2, EventReason::Pulled);
    bench.manager.shutdown(Duration::ZERO);
    drop(results);
    assert_eq!(answers.iter().count(), 1);
}

#[test]
fn an_answer_that_finds_no_room_waits_for_it() {
    let bench = Bench::new(Kind::Serial);
    let (results, answers) = bounded(0);
    for id in 0..3 {
        bench.manager.submit(PullContext::new(), request("app").with_id(id), results.clone());
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
fn a_thread_of_the_manager_may_drop_it() {
    let ender = Arc::new(Ender::default());
    let (results, answers) = unbounded();
    let node = Arc::new(Node::new());
    node.add("app:latest");
    let manager = ImageManager::builder(served(&node)).events(Arc::clone(&ender)).build().unwrap();
    let mut slot = ender.manager.lock().unwrap();
    manager.submit(PullContext::new(), request("app"), results);
    *slot = Some(manager);
    drop(slot);
    answers.recv_timeout(SOON).unwrap().outcome.unwrap();
    assert!(ender.dropped.get().is_some());
}
