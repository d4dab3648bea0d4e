//! Delivers a result to a channel that the caller supplied, or reports in the log that it cannot.
//!
//! A result ends in one of three ways: it is in its channel; its receiver is gone, which is the caller's
//! choice and harms nothing; or the channel has no room. Room can be waited for in two places only: on a
//! thread that may block, by [`deliver`]; and on the timer's thread, which waits for many channels at once
//! and blocks in none, by [`Timer::deliver`](super::Timer::deliver). Both give up when their owner's
//! shutdown begins, so neither can hold a shutdown up.

use std::convert::Infallible;

use crossbeam_channel::{Receiver, SendError, Sender, TrySendError, select};

/// A result that is sent to a caller.
pub(crate) trait Answer: Send + 'static {
    /// Describes the result, for the log.
    fn summary(&self) -> String;
}

/// Sends the result if its channel has room. A receiver that is gone is noted.
///
/// # Errors
/// Gives the result back if the channel is full.
pub(crate) fn offer<T: Answer>(results: &Sender<T>, result: T) -> Result<(), T> {
    match results.try_send(result) {
        Ok(()) => Ok(()),
        Err(TrySendError::Full(result)) => Err(result),
        Err(TrySendError::Disconnected(result)) => {
            note_receiver_gone(&result);
            Ok(())
        }
    }
}

/// Sends the result if its channel has room, and drops it with a warning if not.
pub(crate) fn offer_or_drop<T: Answer>(results: &Sender<T>, result: T) {
    if let Err(result) = offer(results, result) {
        log::warn!("a result is dropped, for its channel is full: {}", result.summary());
    }
}

/// Sends the result, and waits while its channel is full, until `closing` is disconnected.
pub(crate) fn deliver<T: Answer>(results: &Sender<T>, result: T, closing: &Receiver<Infallible>) {
    let Err(result) = offer(results, result) else { return };
    select! {
        send(results, result) -> sent => if let Err(SendError(result)) = sent {
            note_receiver_gone(&result);
        },
        recv(closing) -> _ => offer_or_drop(results, result),
    }
}

fn note_receiver_gone<T: Answer>(result: &T) {
    log::debug!("a result is dropped, for its receiver is gone: {}", result.summary());
}

#[cfg(test)]
mod tests {
    use std::thread;
    use std::time::Duration;

    use crossbeam_channel::bounded;

    use super::*;

    impl Answer for u32 {
        fn summary(&self) -> String {
            self.to_string()
        }
    }

    #[test]
    fn a_result_waits_for_room_but_not_for_a_receiver_that_is_gone() {
        let (_open, closing) = bounded(0);
        let (sender, receiver) = bounded(0);
        thread::scope(|scope| {
            scope.spawn(|| deliver(&sender, 1, &closing));
            assert_eq!(receiver.recv(), Ok(1));
        });
        assert_eq!(offer(&sender, 2), Err(2));
        thread::scope(|scope| {
            scope.spawn(|| deliver(&sender, 3, &closing));
            thread::sleep(Duration::from_millis(5));
            drop(receiver);
        });
        assert_eq!(offer(&sender, 4), Ok(()));
    }

    #[test]
    fn a_full_channel_holds_no_shutdown_up() {
        let (open, closing) = bounded(0);
        let (sender, _receiver) = bounded(0);
        thread::scope(|scope| {
            scope.spawn(|| deliver(&sender, 1, &closing));
            drop(open);
        });
    }
}
