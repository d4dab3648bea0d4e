//! Storms: many faults at a time, for a while. `OCI_PULLER_STORM_SECONDS` sets the time of each. Default: 10.
//!
//! The storm of power cuts is in `src/store/tests/power.rs`, on the simulated disk.

#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use common::pulls::quick;
use common::threads::threads_named;
use oci_puller::testing::images::ImageBuilder;
use oci_puller::testing::{Action, Fault, Registry, Stage, Target};
use oci_puller::{CancelToken, ErrorKind, ImageService, PullContext, PullRequest, Store};
use serde_json::Value;

/// Far more than anything here takes on a loaded machine.
const SOON: Duration = Duration::from_secs(60);
const HANGING: usize = 200;

/// Returns when the storm ends.
fn end() -> Instant {
    let seconds = std::env::var("OCI_PULLER_STORM_SECONDS").map_or(10, |text| text.parse().unwrap());
    Instant::now() + Duration::from_secs(seconds)
}

/// Pushes images of two layers, one of which they share; with another repository they share none.
fn push(registry: &Registry, repository: &str, count: usize, layer: usize) -> Vec<String> {
    let shared = repository.bytes().map(u64::from).sum();
    let image = |n: usize| {
        let image = ImageBuilder::new(repository)
            .seed(n as u64 + 1000 * shared)
            .layer_shared(shared, layer)
            .layer(layer);
        registry.push(&image.build(), &format!("v{n}"))
    };
    (0..count).map(image).collect()
}

#[test]
#[ignore = "a storm"]
fn pulls_that_hang_in_any_phase_hold_no_others_up_and_leave_nothing_behind() {
    let phases = [
        (Target::Manifest, Stage::BeforeHead),
        (Target::Manifest, Stage::InHead),
        (Target::Blob, Stage::BeforeHead),
        (Target::Blob, Stage::InHead),
        (Target::Blob, Stage::Body(10)),
    ];
    let end = end();
    for (round, (target, stage)) in phases.into_iter().cycle().enumerate() {
        if Instant::now() > end {
            println!("{round} rounds of {HANGING} pulls that hung");
            break;
        }
        hang(target, stage);
    }
}

/// Begins pulls that hang, pulls from another host beside them, and cancels those that hang.
fn hang(target: Target, stage: Stage) {
    let dir = tempfile::tempdir().unwrap();
    let service = quick(dir.path()).silence_timeout(Duration::from_secs(300)).build().unwrap();
    let (bad, good) = (Registry::builder().max_connections(64).start().unwrap(), Registry::start().unwrap());
    let hung = bad.fault(Fault::on(target).with(Action::Hold(stage)));
    let (bad_names, good_names) = (push(&bad, "bad", HANGING, 5_000), push(&good, "good", 5, 5_000));
    let stop = CancelToken::new();
    thread::scope(|scope| {
        let pull = |name: &String| {
            let (cx, request) = (PullContext::new().with_cancel(&stop), PullRequest::new(0, name.as_str()));
            let service = &service;
            let pull = move || service.pull_image(&cx, &request);
            thread::Builder::new().stack_size(256 * 1024).spawn_scoped(scope, pull).unwrap()
        };
        let hanging: Vec<_> = bad_names.iter().map(pull).collect();
        let is_hung = hung.wait_fired(2, SOON);
        let began = Instant::now();
        let pulled: Vec<_> = good_names.iter().map(|name| service.pull(name.as_str())).collect();
        let took = began.elapsed();
        stop.cancel();
        let ended: Vec<_> = hanging.into_iter().map(|pull| pull.join().unwrap()).collect();
        assert!(is_hung && took < SOON, "{stage:?}: {took:?}");
        assert!(pulled.iter().all(Result::is_ok), "{stage:?}: {pulled:?}");
        let is_cancelled = |error: &oci_puller::Error| error.kind() == ErrorKind::Cancelled;
        assert!(ended.iter().all(|it| it.as_ref().is_err_and(is_cancelled)), "{stage:?}");
    });
    hung.release();
    // The system lists a thread for a moment after its end.
    let began = Instant::now();
    while threads_named("blob-") > 0 {
        assert!(began.elapsed() < SOON, "{} threads are left", threads_named("blob-"));
        thread::yield_now();
    }
    assert!(service.store().verify(&PullContext::new()).unwrap().is_sound());
    // Those that are idle are kept until then.
    drop(service);
    assert!(bad.wait_until(|stats| stats.connections_open == 0, SOON), "{:?}", bad.stats());
}

/// A run of the command, which may be killed.
struct Run {
    child: Child,
    output: std::path::PathBuf,
}

impl Run {
    fn start(dir: &Path, number: usize, args: &[&str]) -> Self {
        let output = dir.join(format!("output-{number}"));
        let mut command = Command::new(env!("CARGO_BIN_EXE_oci-puller"));
        command.args(args).env("OCI_PULLER_STORE", dir.join("store")).env("HOME", dir);
        command.stdin(Stdio::null()).stdout(File::create(&output).unwrap()).stderr(Stdio::null());
        Run { child: command.spawn().unwrap(), output }
    }

    /// Waits for its end, and returns the images whose pulls it has answered.
    fn end(mut self, is_killed: bool) -> BTreeSet<String> {
        if is_killed {
            self.child.kill().unwrap();
        }
        let status = self.child.wait().unwrap();
        let text = std::fs::read_to_string(self.output).unwrap();
        assert!(is_killed || status.success(), "{status}: {text}");
        // The last line may be cut short.
        let lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let answered = lines.filter(|line| line["error"].is_null());
        answered.filter_map(|line| Some(line["image"].as_str()?.to_owned())).collect()
    }
}

#[test]
#[ignore = "a storm"]
fn processes_that_are_killed_again_and_again_lose_no_image_that_was_answered() {
    let dir = tempfile::tempdir().unwrap();
    drop(Store::open(dir.path().join("store")).unwrap());
    let registry = Registry::start().unwrap();
    let names = push(&registry, "app", 40, 400_000);
    registry.limit_rate(20_000_000);
    let (end, mut kills, mut answered) = (end(), 0, BTreeSet::new());
    let durability = |number: usize| ["full", "relaxed"][number % 2];
    while Instant::now() < end {
        let prune = ["prune", "--json", "--min-age", "0s", "--above", "100"];
        let runs: Vec<_> = (0..3)
            .map(|number| {
                let mut own: Vec<&str> = names.iter().map(String::as_str).collect();
                fastrand::shuffle(&mut own);
                let args = [&["pull", "--json", "--durability", durability(number)], &own[..8]].concat();
                Run::start(dir.path(), number, &args)
            })
            .chain([Run::start(dir.path(), 3, &prune)])
            .collect();
        // Anywhere in the pulls.
        thread::sleep(Duration::from_millis(fastrand::u64(..600)));
        for run in runs {
            answered.extend(run.end(true));
            kills += 1;
        }
        assert_all_there(dir.path(), &answered);
    }
    let all: Vec<_> = ["pull", "--json"].into_iter().chain(names.iter().map(String::as_str)).collect();
    answered.extend(Run::start(dir.path(), 0, &all).end(false));
    assert_eq!(answered.len(), names.len());
    assert_all_there(dir.path(), &answered);
    println!("{kills} processes were killed");
}

/// Makes sure that the images are there, and whole.
fn assert_all_there(dir: &Path, answered: &BTreeSet<String>) {
    Run::start(dir, 0, &["verify", "--json"]).end(false);
    let store = Store::open(dir.join("store")).unwrap();
    for name in answered {
        assert!(store.find(name).unwrap().is_some(), "{name} is gone");
    }
}
