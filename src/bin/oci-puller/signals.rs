//! Ctrl-C: the first cancels what runs, in good order; the second ends the process at once.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI32, Ordering};
use std::thread;

use oci_puller::CancelToken;
use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::{flag, iterator};

use crate::exit::Exit;

/// A signal that asks for an end, if one came.
pub(crate) struct Signals {
    cancel: CancelToken,
    came: Arc<AtomicI32>,
}

impl Signals {
    /// From now on SIGINT, SIGTERM and SIGHUP cancel the token.
    pub(crate) fn watch() -> Result<Self, Exit> {
        let failed = |error| Exit::Own(format!("signals cannot be watched: {error}"));
        let signals = Signals { cancel: CancelToken::new(), came: Arc::default() };
        signals.cancel_on(&[SIGINT, SIGTERM, SIGHUP]).map_err(failed)?;
        Ok(signals)
    }

    fn cancel_on(&self, watched: &[i32]) -> std::io::Result<()> {
        for signal in watched {
            let is_second = Arc::new(AtomicBool::new(false));
            flag::register_conditional_default(*signal, Arc::clone(&is_second))?;
            flag::register(*signal, is_second)?;
        }
        let mut incoming = iterator::Signals::new(watched)?;
        let (cancel, came) = (self.cancel.clone(), Arc::clone(&self.came));
        // Waits for as long as the process lives.
        thread::Builder::new().name("signals".into()).stack_size(128 * 1024).spawn(move || {
            if let Some(signal) = incoming.forever().next() {
                came.store(signal, Ordering::Release);
                cancel.cancel();
            }
        })?;
        Ok(())
    }

    /// Cancelled by the first signal.
    pub(crate) fn token(&self) -> &CancelToken {
        &self.cancel
    }

    /// Whether a signal came.
    pub(crate) fn came(&self) -> bool {
        self.came.load(Ordering::Acquire) != 0
    }

    /// Ends the command as the signal would have, if one came.
    pub(crate) fn check(&self) -> Result<(), Exit> {
        match self.came.load(Ordering::Acquire) {
            0 => Ok(()),
            signal => Err(Exit::Signal(signal)),
        }
    }
}
