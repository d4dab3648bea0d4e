//! Sends the one result of a submitted request.

use crossbeam_channel::Sender;

use super::request::{EnsureRequest, EnsureResult, EnsuredImage};
use crate::error::{Error, ErrorKind};
use crate::service::ImageSpec;
use crate::sync::{Answer, Timer};

/// Owes one answer. If it is dropped without one, as by a panic, it answers `Panicked`.
pub(super) struct Responder(Option<Owed>);

struct Owed {
    id: u64,
    owner: String,
    image: ImageSpec,
    results: Sender<EnsureResult>,
    timer: Timer<EnsureResult>,
}

impl Responder {
    pub(super) fn new(
        request: &EnsureRequest,
        results: Sender<EnsureResult>,
        timer: &Timer<EnsureResult>,
    ) -> Self {
        let EnsureRequest { id, owner, image, .. } = request;
        let (owner, image) = (owner.clone(), image.clone());
        Responder(Some(Owed { id: *id, owner, image, results, timer: timer.clone() }))
    }

    /// Answers without blocking. While the channel is full, the timer's thread waits for room.
    pub(super) fn respond(mut self, outcome: Result<EnsuredImage, Error>) {
        self.send(outcome);
    }

    fn send(&mut self, outcome: Result<EnsuredImage, Error>) {
        let Some(Owed { id, owner, image, results, timer }) = self.0.take() else { return };
        timer.deliver(&results, EnsureResult { id, owner, image, outcome });
    }
}

impl Drop for Responder {
    fn drop(&mut self) {
        self.send(Err(Error::new(ErrorKind::Panicked, "the work on the request panicked")));
    }
}

impl Answer for EnsureResult {
    fn summary(&self) -> String {
        match &self.outcome {
            Ok(image) => format!("{}: {} for {:?}", self.image.image, image.image_ref, self.owner),
            Err(error) => format!("{error}; for {:?}", self.owner),
        }
    }
}
