//! What both pullers promise: order, bound, one result a request, and an orderly end.
#![allow(clippy::unwrap_used)]

mod answers;
#[path = "../common/mod.rs"]
mod common;
mod contexts;
mod panics;
mod room;
mod shutdown;
mod traits;

use std::sync::Arc;

use common::SOON;
use common::service::Scripted;
use crossbeam_channel::{Receiver, Sender};
use oci_puller::{
    ErrorKind, ImagePuller, ParallelImagePuller, PullContext, PullRequest, PullResult, SerialImagePuller,
};

/// A puller under test, and the service behind it.
struct Bench {
    name: &'static str,
    puller: Arc<dyn ImagePuller>,
    service: Arc<Scripted>,
    /// How many pulls run at a time.
    width: usize,
}

impl Bench {
    fn serial() -> Self {
        let service = Arc::new(Scripted::new());
        let puller = Arc::new(SerialImagePuller::new(Arc::clone(&service)).unwrap());
        Bench { name: "serial", puller, service, width: 1 }
    }

    fn parallel(limit: i32) -> Self {
        let service = Arc::new(Scripted::new());
        let puller = Arc::new(ParallelImagePuller::new(Arc::clone(&service), Some(limit)).unwrap());
        Bench { name: "parallel", puller, service, width: limit as usize }
    }

    fn ask(&self, id: u64, image: &str, results: &Sender<PullResult>) {
        self.puller.pull_image(PullContext::new(), PullRequest::new(id, image), results.clone());
    }

    /// Fills every place at the gate, and waits until all of them stand there.
    fn occupy(&self, results: &Sender<PullResult>) {
        for place in 0..self.width {
            self.ask(1000 + place as u64, "gate/occupied", results);
            assert_eq!(self.service.next_started(), "gate/occupied", "{}", self.name);
        }
    }
}

/// The table that each promise to both pullers is tried on.
fn both() -> Vec<Bench> {
    vec![Bench::serial(), Bench::parallel(1), Bench::parallel(3)]
}

fn next(answers: &Receiver<PullResult>) -> PullResult {
    answers.recv_timeout(SOON).expect("a result")
}

fn assert_silent(answers: &Receiver<PullResult>) {
    assert!(answers.try_recv().is_err(), "no second result");
}

fn kind(result: &PullResult) -> Option<ErrorKind> {
    result.outcome.as_ref().err().map(|error| error.kind())
}
