//! A few threads for calls that cannot be interrupted: a name look-up, a flush to the disk, a helper
//! program.
//!
//! # States
//!
//! [`Pool`] is the state: a queue of jobs, the numbers of the threads that run, and how many of those are
//! idle. A thread is *busy*, *idle* (it waits for a job) or *ended* (its number is free).
//!
//! | step | effect |
//! |---|---|
//! | run | the job enters the queue. If fewer threads are idle than jobs wait, a thread starts, up to the limit; else an idle one is woken |
//! | a thread has done its job | takes the next one from the queue, or becomes idle |
//! | an idle thread is woken | takes a job, or, if another thread was faster, stays idle |
//! | an idle thread's time is over | ends, unless a job came meanwhile |
//!
//! No wake-up is lost: a job is added and a thread becomes idle under the same lock, so an idle thread
//! either sees the job before it sleeps or is woken after. A thread that ends looks at the queue under
//! the lock that frees its number: a job that comes later finds it gone. No deadlock: the lock is held for
//! bookkeeping only; a job runs, and is dropped, outside of it.

use std::collections::VecDeque;
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::panics::panic_text;

/// How long a thread waits for more work before it ends.
const IDLE: Duration = Duration::from_secs(10);

type Job = Box<dyn FnOnce() + Send>;

/// At most so many threads; a job that finds none free waits in order.
pub(crate) struct BlockingPool {
    name: &'static str,
    state: Mutex<Pool<Job>>,
    job_added: Condvar,
}

impl BlockingPool {
    /// Makes a pool of threads `NAME-0` up to `limit`, which start when they are needed.
    pub(crate) const fn new(name: &'static str, limit: usize) -> Self {
        BlockingPool { name, state: Mutex::new(Pool::new(limit)), job_added: Condvar::new() }
    }

    /// Runs `job` on one of the threads, as soon as one is free.
    ///
    /// # Errors
    /// When no thread could be started and none runs; the job is dropped.
    pub(crate) fn run(&'static self, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let call = self.state.lock().push(Box::new(job));
        match call {
            Call::Nothing => Ok(()),
            Call::Wake => {
                self.job_added.notify_one();
                Ok(())
            }
            Call::Start(number) => self.start_thread(number),
        }
    }

    fn start_thread(&'static self, number: usize) -> io::Result<()> {
        let name = format!("{}-{number}", self.name);
        let Err(error) = thread::Builder::new().name(name).spawn(move || self.work(number)) else {
            return Ok(());
        };
        let left = self.state.lock().not_started(number);
        // Without a new thread, one of those that run takes the jobs later.
        if left.is_empty() { Ok(()) } else { Err(error) }
    }

    fn work(&self, number: usize) {
        while let Some(job) = self.next_job(number) {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(job)) {
                log::error!("a job of {}-{number} panicked: {}", self.name, panic_text(&*panic));
            }
        }
    }

    /// Returns the next job; `None` when the thread was idle for long enough, and is counted no more.
    fn next_job(&self, number: usize) -> Option<Job> {
        let mut state = self.state.lock();
        loop {
            if let Some(job) = state.take() {
                return Some(job);
            }
            state.idle += 1;
            let waited = self.job_added.wait_for(&mut state, IDLE);
            state.idle -= 1;
            if waited.timed_out() && state.end_if_unneeded(number) {
                return None;
            }
        }
    }
}

/// The state of a pool of jobs `J`.
struct Pool<J> {
    limit: usize,
    queue: VecDeque<J>,
    /// Which of the numbers are in use.
    running: Vec<bool>,
    idle: usize,
}

/// What follows from a job, for the thread that brought it.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Call {
    Nothing,
    Wake,
    /// To start the thread of that number.
    Start(usize),
}

impl<J> Pool<J> {
    const fn new(limit: usize) -> Self {
        Pool { limit, queue: VecDeque::new(), running: Vec::new(), idle: 0 }
    }

    fn push(&mut self, job: J) -> Call {
        self.queue.push_back(job);
        if self.idle >= self.queue.len() {
            return Call::Wake;
        }
        let free = self.running.iter().position(|running| !running).unwrap_or(self.running.len());
        if free == self.limit {
            return Call::Nothing;
        }
        if free == self.running.len() {
            self.running.push(false);
        }
        self.running[free] = true;
        Call::Start(free)
    }

    /// The thread does not exist. Returns the jobs that no thread is left for.
    fn not_started(&mut self, number: usize) -> VecDeque<J> {
        self.running[number] = false;
        if self.running.contains(&true) { VecDeque::new() } else { std::mem::take(&mut self.queue) }
    }

    fn take(&mut self) -> Option<J> {
        self.queue.pop_front()
    }

    fn end_if_unneeded(&mut self, number: usize) -> bool {
        let is_unneeded = self.queue.is_empty();
        if is_unneeded {
            self.running[number] = false;
        }
        is_unneeded
    }
}

#[cfg(test)]
mod tests {
    use crossbeam_channel::unbounded;

    use super::*;

    #[test]
    fn all_work_is_done_by_no_more_threads_than_allowed_and_a_panic_costs_none() {
        static POOL: BlockingPool = BlockingPool::new("test-pool", 2);
        let (sender, names) = unbounded();
        for n in 0..50 {
            let sender = sender.clone();
            let job = move || {
                sender.send(thread::current().name().map(str::to_owned)).unwrap();
                assert_ne!(n % 10, 0, "a panic that is meant");
            };
            POOL.run(job).unwrap();
        }
        drop(sender);
        let names: Vec<String> = names.iter().flatten().collect();
        assert_eq!(names.len(), 50);
        assert!(names.iter().all(|name| name == "test-pool-0" || name == "test-pool-1"), "{names:?}");
    }

    #[test]
    fn a_job_without_a_thread_is_an_error_only_if_none_runs() {
        let mut pool = Pool::new(2);
        assert_eq!(pool.push(1), Call::Start(0));
        assert_eq!(pool.not_started(0), [1]);
        assert_eq!(pool.push(2), Call::Start(0));
        assert_eq!(pool.push(3), Call::Start(1));
        assert!(pool.not_started(1).is_empty(), "thread 0 runs, and takes it");
        assert_eq!((pool.take(), pool.take()), (Some(2), Some(3)));
    }

    /// Jobs that are added while threads fall idle, wake and end: each is done, by at most two threads.
    #[test]
    fn model_no_interleaving_leaves_a_job_beside_an_idle_thread() {
        use shuttle::sync::atomic::{AtomicUsize, Ordering};
        use shuttle::sync::{Arc, Condvar, Mutex};
        use shuttle::thread;

        type State = (Mutex<Pool<u32>>, Condvar, AtomicUsize);

        fn work(state: &State, number: usize, done: &AtomicUsize) {
            assert!(state.2.fetch_add(1, Ordering::SeqCst) < 2, "two threads at most");
            let mut pool = state.0.lock().unwrap();
            loop {
                if pool.take().is_some() {
                    drop(pool);
                    done.fetch_add(1, Ordering::SeqCst);
                    thread::yield_now();
                    pool = state.0.lock().unwrap();
                    continue;
                }
                // The time of an idle thread is over when all jobs are done.
                pool.idle += 1;
                if done.load(Ordering::SeqCst) < 4 {
                    pool = state.1.wait(pool).unwrap();
                }
                pool.idle -= 1;
                if done.load(Ordering::SeqCst) == 4 && pool.end_if_unneeded(number) {
                    state.2.fetch_sub(1, Ordering::SeqCst);
                    return;
                }
            }
        }

        let model = || {
            let state: Arc<State> = Arc::new((Mutex::new(Pool::new(2)), Condvar::new(), AtomicUsize::new(0)));
            let done = Arc::new(AtomicUsize::new(0));
            let askers = (0..2).map(|_| {
                let (state, done) = (Arc::clone(&state), Arc::clone(&done));
                thread::spawn(move || {
                    for job in 0..2 {
                        let call = state.0.lock().unwrap().push(job);
                        match call {
                            Call::Nothing => {}
                            Call::Wake => state.1.notify_one(),
                            Call::Start(number) => {
                                let (state, done) = (Arc::clone(&state), Arc::clone(&done));
                                drop(thread::spawn(move || work(&state, number, &done)));
                            }
                        }
                    }
                })
            });
            askers.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
            while done.load(Ordering::SeqCst) < 4 {
                thread::yield_now();
            }
            let _pool = state.0.lock().unwrap();
            state.1.notify_all();
        };
        shuttle::check_random(model, 1_000);
    }
}
