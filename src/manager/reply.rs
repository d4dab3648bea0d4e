//! The one answer to a request that was submitted.

use crossbeam_channel::{Receiver, Sender, TrySendError, select};

use super::request::{EnsureRequest, EnsureResult, EnsuredImage};
use crate::error::{Error, ErrorKind};
use crate::service::ImageSpec;

/// Owes one answer. If it is dropped without, as by a panic, it says so.
pub(super) struct Reply(Option<Owed>);

struct Owed {
    id: u64,
    owner: String,
    image: ImageSpec,
    results: Sender<EnsureResult>,
}

impl Owed {
    fn into_result(self, outcome: Result<EnsuredImage, Error>) -> (EnsureResult, Sender<EnsureResult>) {
        (EnsureResult { id: self.id, owner: self.owner, image: self.image, outcome }, self.results)
    }
}

impl Reply {
    pub(super) fn new(request: &EnsureRequest, results: Sender<EnsureResult>) -> Self {
        let EnsureRequest { id, owner, image, .. } = request;
        Reply(Some(Owed { id: *id, owner: owner.clone(), image: image.clone(), results }))
    }

    /// Answers, and waits for room; but not once `closing` is disconnected.
    pub(super) fn answer<T>(mut self, outcome: Result<EnsuredImage, Error>, closing: &Receiver<T>) {
        let Some(owed) = self.0.take() else { return };
        let (result, results) = owed.into_result(outcome);
        match results.try_send(result) {
            Ok(()) => {}
            Err(TrySendError::Disconnected(result)) => note_unheard(&result),
            Err(TrySendError::Full(result)) => select! {
                send(results, result) -> sent => if let Err(unsent) = sent {
                    note_unheard(&unsent.0);
                },
                recv(closing) -> _ => log::warn!("an answer found no room in its channel"),
            },
        }
    }

    /// Answers if there is room, and never waits for it.
    pub(super) fn offer(mut self, outcome: Result<EnsuredImage, Error>) {
        self.send_if_room(outcome);
    }

    fn send_if_room(&mut self, outcome: Result<EnsuredImage, Error>) {
        let Some(owed) = self.0.take() else { return };
        let (result, results) = owed.into_result(outcome);
        if let Err(TrySendError::Full(result) | TrySendError::Disconnected(result)) = results.try_send(result)
        {
            note_unheard(&result);
        }
    }
}

impl Drop for Reply {
    fn drop(&mut self) {
        self.send_if_room(Err(Error::new(ErrorKind::Panicked, "the request's work panicked")));
    }
}

fn note_unheard(result: &EnsureResult) {
    log::debug!("{}: nobody takes the answer to {}", result.image.image, result.owner);
}
