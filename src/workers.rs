//! A few threads for work that cannot be interrupted.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

/// How long a thread waits for more work before it ends.
const IDLE: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

/// At most so many threads; work that finds none free waits in order.
pub(crate) struct Workers {
    name: &'static str,
    limit: usize,
    state: Mutex<State>,
    work: Condvar,
}

struct State {
    queue: VecDeque<Job>,
    /// Which of the names `NAME-N` are in use.
    running: Vec<bool>,
    /// How many threads wait for work.
    idle: usize,
}

impl Workers {
    /// Threads `NAME-0` up to `limit`, which start when they are needed.
    pub(crate) const fn new(name: &'static str, limit: usize) -> Self {
        let state = State { queue: VecDeque::new(), running: Vec::new(), idle: 0 };
        Workers { name, limit, state: Mutex::new(state), work: Condvar::new() }
    }

    /// Does `job` on one of the threads, as soon as one is free.
    ///
    /// # Errors
    /// When no thread could be started and none is there; the job is dropped.
    pub(crate) fn run(&'static self, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let mut state = self.state.lock();
        state.queue.push_back(Box::new(job));
        if state.idle >= state.queue.len() {
            self.work.notify_one();
            return Ok(());
        }
        match self.start_thread(&mut state) {
            Err(e) if !state.running.contains(&true) => {
                state.queue.pop_back();
                Err(e)
            }
            // Without a new thread, one of those that run takes it later.
            _ => Ok(()),
        }
    }

    /// Whether work waits that no thread is free for.
    pub(crate) fn has_waiting(&self) -> bool {
        let state = self.state.lock();
        state.queue.len() > state.idle
    }

    fn start_thread(&'static self, state: &mut State) -> io::Result<()> {
        let free = state.running.iter().position(|running| !running).unwrap_or(state.running.len());
        if free == self.limit {
            return Ok(());
        }
        thread::Builder::new().name(format!("{}-{free}", self.name)).spawn(move || self.work(free))?;
        if free == state.running.len() {
            state.running.push(false);
        }
        state.running[free] = true;
        Ok(())
    }

    fn work(&self, number: usize) {
        while let Some(job) = self.next_job(number) {
            if catch_unwind(AssertUnwindSafe(job)).is_err() {
                log::error!("a job of {}-{number} panicked", self.name);
            }
        }
    }

    /// The next job; `None` when the thread was idle for long enough, and is counted no more.
    fn next_job(&self, number: usize) -> Option<Job> {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.queue.pop_front() {
                return Some(job);
            }
            state.idle += 1;
            let waited = self.work.wait_for(&mut state, IDLE);
            state.idle -= 1;
            if waited.timed_out() && state.queue.is_empty() {
                state.running[number] = false;
                return None;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::unbounded;

    use super::*;

    #[test]
    fn all_work_is_done_by_no_more_threads_than_allowed_and_a_panic_costs_none() {
        static WORKERS: Workers = Workers::new("test-worker", 2);
        let (sender, names) = unbounded();
        for n in 0..50 {
            let sender = sender.clone();
            let job = move || {
                sender.send(thread::current().name().map(str::to_owned)).unwrap();
                assert_ne!(n % 10, 0, "a panic that is meant");
            };
            WORKERS.run(job).unwrap();
        }
        drop(sender);
        let names: Vec<String> = names.iter().flatten().collect();
        assert_eq!(names.len(), 50);
        assert!(names.iter().all(|name| name == "test-worker-0" || name == "test-worker-1"), "{names:?}");
    }
}
