//! The manager's own threads, and how they end.

use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use parking_lot::{Condvar, Mutex};

use super::core::Core;
use crate::error::{Error, ErrorKind};

/// How many threads look into the store, write records and call the puller.
const WORKERS: usize = 4;

/// The stack of each, bytes.
const STACK_SIZE: usize = 256 * 1024;

/// How long pulls that are cancelled may take to end, and the threads after them.
pub(super) const LISTENING_TIME: Duration = Duration::from_millis(900);

/// The threads, and how they end.
#[derive(Debug)]
pub(super) struct Crew {
    threads: Mutex<Vec<JoinHandle<()>>>,
    alive: Arc<Alive>,
}

#[derive(Debug, Default)]
struct Alive {
    count: Mutex<usize>,
    one_less: Condvar,
}

/// Counts a thread as long as it runs.
struct Running(Arc<Alive>);

impl Running {
    fn begin(alive: &Arc<Alive>) -> Self {
        *alive.count.lock() += 1;
        Running(Arc::clone(alive))
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        *self.0.count.lock() -= 1;
        self.0.one_less.notify_all();
    }
}

impl Crew {
    /// # Errors
    /// `ResourceExhausted`.
    pub(super) fn start(core: &Arc<Core>) -> Result<Self, Error> {
        let crew = Crew { threads: Mutex::default(), alive: Arc::default() };
        for number in 1..=WORKERS {
            let worker = Arc::clone(core);
            crew.start_thread(core, format!("manager-{number}"), move || worker.work())?;
        }
        let timer = Arc::clone(core);
        crew.start_thread(core, "manager-timer".to_owned(), move || timer.keep_time())?;
        Ok(crew)
    }

    fn start_thread(
        &self,
        core: &Core,
        name: String,
        body: impl FnOnce() + Send + 'static,
    ) -> Result<(), Error> {
        let running = Running::begin(&self.alive);
        let started = thread::Builder::new().name(name).stack_size(STACK_SIZE).spawn(move || {
            let _running = running;
            body();
        });
        match started {
            Ok(handle) => {
                self.threads.lock().push(handle);
                Ok(())
            }
            Err(error) => {
                core.close();
                self.join();
                Err(Error::new(ErrorKind::ResourceExhausted, format!("no thread could be started: {error}"))
                    .with_source(error))
            }
        }
    }

    /// Joins the threads, but not this one should it be one of them; one that does not end soon is left
    /// behind, and named.
    pub(super) fn join(&self) {
        let me = thread::current().id();
        let threads = std::mem::take(&mut *self.threads.lock());
        let (mine, others): (Vec<_>, Vec<_>) =
            threads.into_iter().partition(|handle| handle.thread().id() == me);
        let have_ended = self.alive.wait_until_only(mine.len());
        for handle in others {
            if have_ended || handle.is_finished() {
                let _ = handle.join();
            } else {
                let name = handle.thread().name().unwrap_or("a thread");
                log::warn!("{name}: something that it calls does not return; the thread is left behind");
            }
        }
    }
}

impl Alive {
    /// Whether no more than so many threads are left, soon.
    fn wait_until_only(&self, threads: usize) -> bool {
        let deadline = Instant::now() + LISTENING_TIME;
        let mut count = self.count.lock();
        while *count > threads {
            if self.one_less.wait_until(&mut count, deadline).timed_out() {
                return *count <= threads;
            }
        }
        true
    }
}
