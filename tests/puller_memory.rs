//! The memory of a waiting request. Alone in its process, whose memory it measures.
#![allow(clippy::unwrap_used)]

mod common;

use std::sync::Arc;

use common::SOON;
use common::service::Scripted;
use crossbeam_channel::unbounded;
use oci_puller::{CancelToken, ImagePuller, ParallelImagePuller, PullContext, PullRequest};

/// The bytes of memory that this process has in use.
fn resident() -> usize {
    let statm = std::fs::read_to_string("/proc/self/statm").expect("/proc is there");
    let pages: usize = statm.split(' ').nth(1).unwrap().parse().unwrap();
    pages * rustix::param::page_size()
}

/// The serial puller keeps its requests as the parallel one does, but ten of them at most: too few to
/// measure.
#[test]
fn a_pull_that_waits_takes_less_than_a_kibibyte() {
    const PULLS: usize = 100_000;
    const IMAGE: &str = "gate/registry.example.com/team/application:v1.2.3";
    // What each pull is asked with; each row takes more than the one before, which makes up for memory
    // that is used again.
    type Context = fn() -> PullContext;
    let table: [(&str, Context); 2] = [
        ("alone", PullContext::new),
        ("with a token and a deadline of its own", || {
            PullContext::new().with_cancel(&CancelToken::new()).with_timeout(SOON * 10)
        }),
    ];
    let mut puller_and_answers = Vec::new();
    for (name, context) in table {
        let service = Arc::new(Scripted::new());
        let puller = ParallelImagePuller::new(Arc::clone(&service), Some(1)).unwrap();
        let (results, answers) = unbounded();
        puller.pull_image(context(), PullRequest::new(0, IMAGE), results.clone());
        service.next_started();

        let before = resident();
        for id in 0..PULLS as u64 {
            puller.pull_image(context(), PullRequest::new(id, IMAGE), results.clone());
        }
        let each = (resident() - before) / PULLS;
        assert_eq!(puller.stats().queued, PULLS);
        assert!(each < 1024, "{name}: {each} bytes");
        println!("{name}: {each} bytes");

        // Kept: memory that is given back would be used again by the next.
        puller_and_answers.push((puller, answers));
    }
    for (puller, answers) in puller_and_answers {
        puller.shutdown(std::time::Duration::ZERO);
        assert_eq!(answers.iter().count(), PULLS + 1, "all are answered");
    }
}
