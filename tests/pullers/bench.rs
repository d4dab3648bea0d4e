//! A puller under test, and the table of pullers that each test runs on.

use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender};
use oci_puller::{
    ErrorKind, ImagePuller, ParallelImagePuller, PullContext, PullRequest, PullResult, SerialImagePuller,
};

use crate::common::service::Scripted;
use crate::common::{SOON, served};

/// A puller under test, and the service behind it.
pub(crate) struct Bench {
    pub(crate) name: &'static str,
    pub(crate) puller: Arc<dyn ImagePuller>,
    pub(crate) service: Arc<Scripted>,
    /// How many pulls run at a time.
    pub(crate) width: usize,
}

impl Bench {
    pub(crate) fn serial() -> Self {
        let service = Arc::new(Scripted::new());
        let puller = Arc::new(SerialImagePuller::new(served(&service)).unwrap());
        Bench { name: "serial", puller, service, width: 1 }
    }

    pub(crate) fn parallel(limit: i32) -> Self {
        let service = Arc::new(Scripted::new());
        let puller = Arc::new(ParallelImagePuller::new(served(&service), Some(limit)).unwrap());
        Bench { name: "parallel", puller, service, width: limit as usize }
    }

    pub(crate) fn ask(&self, id: u64, image: &str, results: &Sender<PullResult>) {
        self.puller.pull_image(PullContext::new(), PullRequest::new(id, image), results.clone());
    }

    /// Fills every place at the gate, and waits until all of them stand there.
    pub(crate) fn occupy(&self, results: &Sender<PullResult>) {
        for place in 0..self.width {
            self.ask(1000 + place as u64, "gate/occupied", results);
            assert_eq!(self.service.next_started(), "gate/occupied", "{}", self.name);
        }
    }
}

/// The table that each promise to both pullers is tried on.
pub(crate) fn both() -> Vec<Bench> {
    vec![Bench::serial(), Bench::parallel(1), Bench::parallel(3)]
}

pub(crate) fn next(answers: &Receiver<PullResult>) -> PullResult {
    answers.recv_timeout(SOON).expect("a result")
}

pub(crate) fn assert_silent(answers: &Receiver<PullResult>) {
    assert!(answers.try_recv().is_err(), "no second result");
}

pub(crate) fn kind(result: &PullResult) -> Option<ErrorKind> {
    result.outcome.as_ref().err().map(|error| error.kind())
}
