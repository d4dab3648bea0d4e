//! Pullers when the kernel refuses another thread. Alone in its process, whose limits it
//! changes.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::SOON;
use common::service::Scripted;
use crossbeam_channel::unbounded;
use oci_puller::{ImagePuller, ParallelImagePuller, PullContext, PullRequest};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

const MIB: usize = 1024 * 1024;

#[test]
fn a_request_whose_thread_cannot_start_waits_for_a_living_thread() {
    let service = Arc::new(Scripted::new());
    let puller = ParallelImagePuller::builder(Arc::clone(&service)).stack_size(256 * MIB).build().unwrap();
    let (results, answers) = unbounded();
    puller.pull_image(PullContext::new(), PullRequest::new(1, "gate/x"), results.clone());
    service.next_started();

    allow_more_memory(64 * MIB);
    puller.pull_image(PullContext::new(), PullRequest::new(2, "alpine"), results);
    let stats = puller.stats();
    assert_eq!((stats.queued, stats.running, stats.threads), (1, 1, 1));

    service.open(1);
    let ids = [1, 2].map(|_| {
        let result = answers.recv_timeout(SOON).expect("a result");
        assert!(result.outcome.is_ok());
        result.id
    });
    assert_eq!(ids, [1, 2]);
}

/// Lets this process have `bytes` more than it has now: too little for another stack.
fn allow_more_memory(bytes: usize) {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("/proc is there");
    let pages: usize =
        statm.split(' ').next().and_then(|pages| pages.parse().ok()).expect("a number of pages");
    let limit = (pages * rustix::param::page_size() + bytes) as u64;
    setrlimit(Resource::As, Rlimit { current: Some(limit), ..getrlimit(Resource::As) })
        .expect("a lower limit");
}
