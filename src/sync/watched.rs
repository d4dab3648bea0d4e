//! A value that threads wait on.
//!
//! A thread that does not find what it waits for registers under the same lock that it looked under, so
//! it misses no change. Each registration gets one message, for the next change, and ends with it.

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

/// A value, and the threads that wait for it to change.
#[derive(Debug, Default)]
pub(crate) struct Watched<T>(Mutex<WatchedState<T, Sender<()>>>);

#[derive(Debug)]
struct WatchedState<T, W> {
    value: T,
    waiting: Vec<W>,
}

impl<T: Default, W> Default for WatchedState<T, W> {
    fn default() -> Self {
        WatchedState { value: T::default(), waiting: Vec::new() }
    }
}

impl<T> Watched<T> {
    /// Returns what `look` finds in the value, or a receiver that gets a message at the next change.
    pub(crate) fn look_or_wait<R>(&self, look: impl FnOnce(&T) -> Option<R>) -> Result<R, Receiver<()>> {
        let (sender, changed) = bounded(1);
        self.0.lock().look_or_wait(look, sender).ok_or(changed)
    }

    /// Changes the value, and wakes the threads that wait.
    pub(crate) fn change(&self, change: impl FnOnce(&mut T)) {
        let waiting = self.0.lock().change(change);
        for waiting in waiting {
            // A thread that has given up needs no message.
            let _ = waiting.try_send(());
        }
    }
}

impl<T, W> WatchedState<T, W> {
    fn look_or_wait<R>(&mut self, look: impl FnOnce(&T) -> Option<R>, waiting: W) -> Option<R> {
        let found = look(&self.value);
        if found.is_none() {
            self.waiting.push(waiting);
        }
        found
    }

    fn change(&mut self, change: impl FnOnce(&mut T)) -> Vec<W> {
        change(&mut self.value);
        std::mem::take(&mut self.waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_wakes_each_thread_that_waits_once() {
        let watched = Watched::<u32>::default();
        let first = watched.look_or_wait(|value| (*value > 0).then_some(*value)).unwrap_err();
        let second = watched.look_or_wait(|value| (*value > 0).then_some(*value)).unwrap_err();
        watched.change(|value| *value = 7);
        assert_eq!((first.recv(), second.recv()), (Ok(()), Ok(())));
        assert!(watched.look_or_wait(|value| Some(*value)).is_ok_and(|value| value == 7));
        watched.change(|value| *value = 8);
        assert!(first.try_recv().is_err());
    }

    /// A thread that counts and one that waits for the last number: the second one always ends.
    #[test]
    fn model_no_interleaving_loses_a_change() {
        use shuttle::sync::{Arc, Mutex, mpsc};
        use shuttle::thread;

        let model = || {
            let state = Arc::new(Mutex::new(WatchedState::<u32, _>::default()));
            let counter = Arc::clone(&state);
            let counting = thread::spawn(move || {
                for _ in 0..3 {
                    let waiting: Vec<mpsc::Sender<()>> = counter.lock().unwrap().change(|value| *value += 1);
                    for waiting in waiting {
                        let _ = waiting.send(());
                    }
                }
            });
            loop {
                let (sender, changed) = mpsc::channel();
                let found = state.lock().unwrap().look_or_wait(|value| (*value == 3).then_some(()), sender);
                match found {
                    Some(()) => break,
                    None => changed.recv().unwrap(),
                }
            }
            counting.join().unwrap();
        };
        shuttle::check_random(model, 1_000);
    }
}
