//! The thread that shows progress.

use std::convert::Infallible;
use std::thread::{self, JoinHandle};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

/// The thread, until it is stopped.
pub(super) struct Ticker(Mutex<Option<(Sender<Infallible>, JoinHandle<()>)>>);

impl Ticker {
    /// Runs `show`, which returns when the channel is disconnected; `None` if no thread can be started.
    pub(super) fn start(show: impl FnOnce(&Receiver<Infallible>) + Send + 'static) -> Option<Self> {
        let (stop, stopped) = bounded(0);
        let thread = thread::Builder::new().name("progress".into()).spawn(move || show(&stopped)).ok()?;
        Some(Ticker(Mutex::new(Some((stop, thread)))))
    }

    /// Stops the thread and waits for its end.
    pub(super) fn end(&self) {
        if let Some((stop, thread)) = self.0.lock().take() {
            drop(stop);
            // A panic of the thread ends the display only.
            drop(thread.join());
        }
    }
}

impl Drop for Ticker {
    fn drop(&mut self) {
        self.end();
    }
}
