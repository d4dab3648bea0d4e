//! A few threads for calls that cannot be interrupted: a name look-up, a flush to the disk, a helper
//! program.
//!
//! A pool is a static of the process, so that its limit holds for all services and stores together. Its
//! users, [`PoolUser`], keep its idle threads; the last one to leave joins them.
//!
//! The states, and why no job and no wake-up is lost, stand in [`job_queue`](super::job_queue).

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use parking_lot::{Condvar, Mutex};

use super::job_queue::{JobQueue, SubmitStep, WorkerStep};
use super::panics::panic_text;
use super::thread_group::{LISTENING_TIME, ThreadGroup};

/// How long a thread waits for more work before it ends.
const IDLE: Duration = Duration::from_secs(10);

/// The stack of a thread, bytes.
const STACK_SIZE: usize = 2 * 1024 * 1024;

/// The threads of all pools.
static ALIVE: AtomicUsize = AtomicUsize::new(0);

type Job = Box<dyn FnOnce() + Send>;

/// A bounded number of threads. A job that finds no free thread waits in order.
pub(crate) struct BlockingPool {
    name: &'static str,
    state: Mutex<BlockingPoolState>,
    /// A job was added, or a generation ended. Idle threads wait for it.
    job_added: Condvar,
    /// A thread runs, or could not be started. Callers wait for it.
    start_ended: Condvar,
}

struct BlockingPoolState {
    jobs: JobQueue<Job>,
    /// Those of this generation; `None` before the first.
    threads: Option<ThreadGroup>,
}

/// Keeps the idle threads of a pool. The last user that is dropped joins them, for at most
/// [`LISTENING_TIME`]; a thread in a call that hangs is left behind, and named in the log.
pub(crate) struct PoolUser(&'static BlockingPool);

impl BlockingPool {
    /// Makes a pool of threads `NAME-0` up to `limit`, which start when they are needed.
    pub(crate) const fn new(name: &'static str, limit: usize) -> Self {
        BlockingPool {
            name,
            state: Mutex::new(BlockingPoolState { jobs: JobQueue::new(limit), threads: None }),
            job_added: Condvar::new(),
            start_ended: Condvar::new(),
        }
    }

    /// Returns how many threads all pools of the process have.
    pub(crate) fn alive() -> usize {
        ALIVE.load(Ordering::SeqCst)
    }

    /// Adds a user. Without one the pool works, too, but keeps no idle thread.
    pub(crate) fn enter(&'static self) -> PoolUser {
        self.state.lock().jobs.users += 1;
        PoolUser(self)
    }

    /// Runs `job` on one of the threads, as soon as one is free.
    ///
    /// # Errors
    /// When no thread could be started and none runs; the job is dropped.
    pub(crate) fn run(&'static self, job: impl FnOnce() + Send + 'static) -> io::Result<()> {
        let mut state = self.state.lock();
        let job_number = state.jobs.push(Box::new(job));
        let mut refused = None;
        loop {
            match state.jobs.next_step(job_number, refused.is_some()) {
                SubmitStep::Accepted => return Ok(()),
                SubmitStep::Wake => {
                    drop(state);
                    self.job_added.notify_one();
                    return Ok(());
                }
                SubmitStep::Wait => self.start_ended.wait(&mut state),
                SubmitStep::Refused(job) => {
                    drop(state);
                    drop(job);
                    return Err(refused.unwrap_or_else(|| io::Error::other("no thread runs")));
                }
                SubmitStep::Start { number, generation } => {
                    let threads = state.threads.get_or_insert_with(|| ThreadGroup::new(STACK_SIZE)).clone();
                    drop(state);
                    let Err(error) = self.start_thread(&threads, number, generation) else {
                        return Ok(());
                    };
                    refused = Some(error);
                    state = self.state.lock();
                    state.jobs.not_started(number);
                    self.start_ended.notify_all();
                }
            }
        }
    }

    fn start_thread(&'static self, threads: &ThreadGroup, number: usize, generation: u64) -> io::Result<()> {
        let alive = Alive::new();
        threads.spawn(format!("{}-{number}", self.name), move || {
            self.work(number, generation);
            drop(alive);
        })
    }

    fn work(&self, number: usize, generation: u64) {
        self.state.lock().jobs.begin(number);
        self.start_ended.notify_all();
        while let Some(job) = self.next_job(number, generation) {
            if let Err(panic) = catch_unwind(AssertUnwindSafe(job)) {
                log::error!("a job of {}-{number} panicked: {}", self.name, panic_text(&*panic));
            }
        }
    }

    /// Returns the next job; `None` when the thread has ended, and is counted no more.
    fn next_job(&self, number: usize, generation: u64) -> Option<Job> {
        let mut state = self.state.lock();
        let mut is_over = false;
        loop {
            match state.jobs.take(number, generation, is_over) {
                WorkerStep::Job(job) => return Some(job),
                WorkerStep::End => return None,
                WorkerStep::Idle => {}
            }
            state.jobs.idle += 1;
            is_over = self.job_added.wait_for(&mut state, IDLE).timed_out();
            state.jobs.idle -= 1;
        }
    }
}

impl Drop for PoolUser {
    fn drop(&mut self) {
        let pool = self.0;
        let threads = {
            let mut state = pool.state.lock();
            if !state.jobs.leave() {
                return;
            }
            state.threads.take()
        };
        pool.job_added.notify_all();
        if let Some(threads) = threads {
            threads.join(LISTENING_TIME);
        }
    }
}

impl std::fmt::Debug for PoolUser {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_tuple("PoolUser").field(&self.0.name).finish()
    }
}

/// Counts a thread from before its start until its end.
struct Alive;

impl Alive {
    fn new() -> Self {
        ALIVE.fetch_add(1, Ordering::SeqCst);
        Alive
    }
}

impl Drop for Alive {
    fn drop(&mut self) {
        ALIVE.fetch_sub(1, Ordering::SeqCst);
    }
}

#[cfg(test)]
mod tests {
    use std::thread;

    use crossbeam_channel::{bounded, unbounded};

    use super::*;

    const SOON: Duration = Duration::from_secs(30);

    #[test]
    fn all_work_is_done_by_no_more_threads_than_allowed_and_a_panic_costs_none() {
        static POOL: BlockingPool = BlockingPool::new("test-pool", 2);
        let _user = POOL.enter();
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
    fn the_last_user_ends_the_threads_and_a_later_one_starts_others() {
        static POOL: BlockingPool = BlockingPool::new("users", 3);
        let running = || POOL.state.lock().jobs.alive();
        for _ in 0..20 {
            let (first, last) = (POOL.enter(), POOL.enter());
            let (sender, done) = bounded(3);
            for _ in 0..3 {
                let sender = sender.clone();
                POOL.run(move || sender.send(()).unwrap()).unwrap();
            }
            (0..3).for_each(|_| done.recv_timeout(SOON).unwrap());
            drop(first);
            assert!(running() > 0, "the other user keeps them");
            drop(last);
            assert_eq!(running(), 0);
        }
    }

    #[test]
    fn a_job_without_a_user_is_done_by_a_thread_that_ends_after_it() {
        static POOL: BlockingPool = BlockingPool::new("no-user", 1);
        let (sender, done) = bounded(1);
        POOL.run(move || sender.send(()).unwrap()).unwrap();
        done.recv_timeout(SOON).unwrap();
        drop(POOL.enter());
        assert_eq!(POOL.state.lock().jobs.alive(), 0);
    }

    #[test]
    fn a_user_that_is_dropped_on_a_thread_of_the_pool_waits_not_for_itself() {
        static POOL: BlockingPool = BlockingPool::new("self-join", 1);
        let user = POOL.enter();
        let (sender, done) = bounded(1);
        POOL.run(move || {
            drop(user);
            sender.send(()).unwrap();
        })
        .unwrap();
        done.recv_timeout(SOON).unwrap();
    }
}
