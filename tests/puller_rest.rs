//! A puller at rest uses no processor. Alone in its process, whose threads it watches.
#![allow(clippy::unwrap_used)]

mod common;

use std::collections::BTreeMap;
use std::fs;
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use common::SOON;
use common::service::Scripted;
use crossbeam_channel::unbounded;
use oci_puller::{
    CancelToken, ImagePuller, ParallelImagePuller, PullContext, PullRequest, SerialImagePuller,
};

/// Each test watches all threads, so there is one test at a time.
static ALONE: Mutex<()> = Mutex::new(());

const A_SECOND: Duration = Duration::from_secs(1);

/// How often each thread gave the processor up to wait, by id; not that of this thread, nor that of the
/// harness.
fn waits() -> BTreeMap<String, u64> {
    let me = fs::read_link("/proc/thread-self").unwrap().file_name().unwrap().to_owned();
    let harness = std::process::id().to_string();
    let others = fs::read_dir("/proc/self/task").unwrap().map(|task| task.unwrap().path());
    let others = others.filter(|task| !task.ends_with(&me) && !task.ends_with(&harness));
    others
        .map(|task| {
            let status = fs::read_to_string(task.join("status")).unwrap();
            let waits =
                status.lines().find_map(|line| line.strip_prefix("voluntary_ctxt_switches:")).unwrap();
            (task.to_str().unwrap().to_owned(), waits.trim().parse().unwrap())
        })
        .collect()
}

fn no_thread_wakes_for(a_while: Duration) {
    let _alone = ALONE.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    let pullers: [Arc<dyn ImagePuller>; 3] = [
        Arc::new(ParallelImagePuller::new(Scripted::new(), None).unwrap()),
        Arc::new(ParallelImagePuller::new(Scripted::new(), Some(4)).unwrap()),
        Arc::new(SerialImagePuller::new(Scripted::new()).unwrap()),
    ];
    for puller in &pullers {
        let (results, answers) = unbounded();
        for id in 0..100 {
            // A deadline starts the timer's thread, too, and would wake it unless the pull's end is reported to it.
            let cx = PullContext::new().with_cancel(&CancelToken::new()).with_timeout(A_SECOND);
            puller.pull_image(cx, PullRequest::new(id, "alpine"), results.clone());
        }
        (0..100).for_each(|_| drop(answers.recv_timeout(SOON).unwrap()));
    }
    // The timers, and the serial puller's worker.
    let at_rest = [1, 1, 2];
    while !pullers.iter().zip(at_rest).all(|(puller, threads)| puller.stats().threads == threads) {
        thread::yield_now();
    }
    // Waits until the remaining threads are idle. No event reports it.
    thread::sleep(Duration::from_millis(100));

    let before = waits();
    assert!(before.len() >= 4, "those that live are watched");
    thread::sleep(a_while);
    assert_eq!(waits(), before, "nobody woke in {a_while:?}");
}

#[test]
fn a_puller_at_rest_wakes_no_thread() {
    no_thread_wakes_for(Duration::from_secs(2));
}

#[test]
#[ignore = "takes ten seconds"]
fn a_puller_at_rest_wakes_no_thread_in_ten_seconds() {
    no_thread_wakes_for(Duration::from_secs(10));
}
