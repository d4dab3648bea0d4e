//! The state of a [`BlockingPool`](super::BlockingPool): its jobs, threads and users.
//!
//! # States
//!
//! [`JobQueue`] is the state: a queue of jobs, the state of each thread, the number of idle threads and of
//! users, and the pool's *generation*, which the last user to leave raises. A thread is *starting*,
//! *running* a job or looking for one, *idle* (it waits for a job), or ended (its number is *free*).
//!
//! | step | effect |
//! |---|---|
//! | run | the job enters the queue. If fewer threads are idle than jobs wait, a thread starts, up to the limit; else an idle one is woken. If all threads are only starting, the caller waits for one to run or to fail |
//! | a thread cannot be started | its number is free. If no other thread starts or runs, the caller takes its own job back; the callers of other jobs, which wait, try themselves |
//! | a thread has done its job | takes the next one from the queue; else ends, if it is unneeded; else becomes idle |
//! | an idle thread is woken | takes a job, or ends if it is unneeded, or stays idle |
//! | an idle thread's time is over | ends, unless a job came meanwhile |
//! | the last user leaves | raises the generation, wakes all idle threads, and joins those of the generation before |
//!
//! A thread is unneeded if the pool has no user, or if its generation is over.
//!
//! No wake-up is lost: a job is added and a thread becomes idle under the same lock, so an idle thread
//! either sees the job before it sleeps or is woken after; the same holds for the end of a generation.
//! A thread that ends looks at the queue under the lock that frees its number: a job that comes later
//! finds it gone. A job is accepted only when a thread runs, which takes it before it ends. No
//! deadlock: the lock is held for bookkeeping only; a job runs, and is dropped, outside of it; a thread
//! that is the last user joins the others and not itself.

use std::collections::VecDeque;

/// The jobs `J` of a pool, and its threads.
pub(super) struct JobQueue<J> {
    limit: usize,
    queue: VecDeque<(u64, J)>,
    next_job_number: u64,
    /// By number.
    threads: Vec<ThreadState>,
    pub(super) idle: usize,
    pub(super) users: usize,
    generation: u64,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum ThreadState {
    Free,
    Starting,
    Running,
}

/// What the caller that brought a job does next.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum SubmitStep<J> {
    Accepted,
    /// Wakes an idle thread; the job is accepted.
    Wake,
    /// Waits until a thread has started, or could not be.
    Wait,
    Start {
        number: usize,
        generation: u64,
    },
    /// No thread can be had; the job comes back.
    Refused(J),
}

/// What a thread does next.
#[must_use]
pub(super) enum WorkerStep<J> {
    Job(J),
    Idle,
    End,
}

impl<J> JobQueue<J> {
    pub(super) const fn new(limit: usize) -> Self {
        JobQueue {
            limit,
            queue: VecDeque::new(),
            next_job_number: 0,
            threads: Vec::new(),
            idle: 0,
            users: 0,
            generation: 0,
        }
    }

    /// Adds a job; returns the number it is known by.
    pub(super) fn push(&mut self, job: J) -> u64 {
        self.next_job_number += 1;
        self.queue.push_back((self.next_job_number, job));
        self.next_job_number
    }

    /// `has_failed` is whether the caller could not start a thread.
    pub(super) fn next_step(&mut self, job_number: u64, has_failed: bool) -> SubmitStep<J> {
        let Some(place) = self.queue.iter().position(|(queued, _)| *queued == job_number) else {
            return SubmitStep::Accepted;
        };
        if self.idle >= self.queue.len() {
            return SubmitStep::Wake;
        }
        if !has_failed && let Some(number) = self.free_number() {
            self.threads[number] = ThreadState::Starting;
            return SubmitStep::Start { number, generation: self.generation };
        }
        if self.threads.contains(&ThreadState::Running) {
            return SubmitStep::Accepted;
        }
        if self.threads.contains(&ThreadState::Starting) {
            return SubmitStep::Wait;
        }
        self.queue.remove(place).map_or(SubmitStep::Accepted, |(_, job)| SubmitStep::Refused(job))
    }

    fn free_number(&mut self) -> Option<usize> {
        let free = self.threads.iter().position(|thread| *thread == ThreadState::Free);
        if free.is_none() && self.threads.len() < self.limit {
            self.threads.push(ThreadState::Free);
            return Some(self.threads.len() - 1);
        }
        free
    }

    pub(super) fn begin(&mut self, number: usize) {
        self.threads[number] = ThreadState::Running;
    }

    pub(super) fn not_started(&mut self, number: usize) {
        self.threads[number] = ThreadState::Free;
    }

    /// Returns what the thread does next; `is_over` is whether it was idle for long enough.
    pub(super) fn take(&mut self, number: usize, generation: u64, is_over: bool) -> WorkerStep<J> {
        if let Some((_, job)) = self.queue.pop_front() {
            return WorkerStep::Job(job);
        }
        if is_over || self.users == 0 || generation != self.generation {
            self.threads[number] = ThreadState::Free;
            return WorkerStep::End;
        }
        WorkerStep::Idle
    }

    /// Returns how many threads start or run.
    #[cfg(test)]
    pub(super) fn alive(&self) -> usize {
        self.threads.iter().filter(|thread| **thread != ThreadState::Free).count()
    }

    /// Returns whether the last user has left.
    pub(super) fn leave(&mut self) -> bool {
        self.users -= 1;
        if self.users == 0 {
            self.generation += 1;
        }
        self.users == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_thread_that_cannot_be_started_costs_only_the_job_that_wanted_it() {
        let mut pool = JobQueue::new(1);
        let first = pool.push("first");
        assert_eq!(pool.next_step(first, false), SubmitStep::Start { number: 0, generation: 0 });
        let second = pool.push("second");
        assert_eq!(pool.next_step(second, false), SubmitStep::Wait, "whether the thread starts is not known");
        pool.not_started(0);
        assert_eq!(pool.next_step(first, true), SubmitStep::Refused("first"));
        assert_eq!(pool.next_step(second, false), SubmitStep::Start { number: 0, generation: 0 });
        pool.begin(0);
        let third = pool.push("third");
        assert_eq!(pool.next_step(third, false), SubmitStep::Accepted);
        assert!(matches!(pool.take(0, 0, false), WorkerStep::Job("second")));
        assert!(matches!(pool.take(0, 0, false), WorkerStep::Job("third")));
        assert!(matches!(pool.take(0, 0, false), WorkerStep::End), "the pool has no user");
    }

    #[test]
    fn a_caller_without_a_thread_leaves_its_job_to_one_that_runs_or_starts() {
        let mut pool = JobQueue::new(2);
        let (first, second) = (pool.push(1), pool.push(2));
        assert_eq!(pool.next_step(first, false), SubmitStep::Start { number: 0, generation: 0 });
        assert_eq!(pool.next_step(second, false), SubmitStep::Start { number: 1, generation: 0 });
        pool.not_started(1);
        assert_eq!(pool.next_step(second, true), SubmitStep::Wait);
        pool.begin(0);
        assert_eq!(pool.next_step(second, true), SubmitStep::Accepted);
    }

    mod model {
        use shuttle::sync::atomic::{AtomicUsize, Ordering};
        use shuttle::sync::{Arc, Condvar, Mutex};
        use shuttle::thread;

        use super::super::{JobQueue, SubmitStep, WorkerStep};

        /// A pool as `BlockingPool` is, on shuttle's threads. The time of an
        /// idle thread is never over: only the end of a generation ends it.
        #[derive(Clone)]
        struct Model {
            pool: Arc<Mutex<JobQueue<u32>>>,
            job_added: Arc<Condvar>,
            start_ended: Arc<Condvar>,
            done: Arc<AtomicUsize>,
            alive: Arc<AtomicUsize>,
            /// How many threads can be started.
            startable: Arc<AtomicUsize>,
        }

        impl Model {
            fn new(startable: usize) -> Self {
                Model {
                    pool: Arc::new(Mutex::new(JobQueue::new(2))),
                    job_added: Arc::default(),
                    start_ended: Arc::default(),
                    done: Arc::default(),
                    alive: Arc::default(),
                    startable: Arc::new(AtomicUsize::new(startable)),
                }
            }

            /// Returns whether the job was accepted.
            fn run(&self, job: u32) -> bool {
                let mut pool = self.pool.lock().unwrap();
                let job_number = pool.push(job);
                let mut has_failed = false;
                loop {
                    match pool.next_step(job_number, has_failed) {
                        SubmitStep::Accepted => return true,
                        SubmitStep::Wake => {
                            drop(pool);
                            self.job_added.notify_one();
                            return true;
                        }
                        SubmitStep::Wait => pool = self.start_ended.wait(pool).unwrap(),
                        SubmitStep::Refused(own) => {
                            assert_eq!(own, job, "no other caller's job is refused");
                            return false;
                        }
                        SubmitStep::Start { number, generation } => {
                            drop(pool);
                            let take = |left: usize| left.checked_sub(1);
                            if self.startable.fetch_update(Ordering::SeqCst, Ordering::SeqCst, take).is_ok() {
                                let model = self.clone();
                                drop(thread::spawn(move || model.work(number, generation)));
                                return true;
                            }
                            has_failed = true;
                            pool = self.pool.lock().unwrap();
                            pool.not_started(number);
                            self.start_ended.notify_all();
                        }
                    }
                }
            }

            fn work(&self, number: usize, generation: u64) {
                assert!(self.alive.fetch_add(1, Ordering::SeqCst) < 2, "two threads at most");
                self.pool.lock().unwrap().begin(number);
                self.start_ended.notify_all();
                let mut pool = self.pool.lock().unwrap();
                loop {
                    match pool.take(number, generation, false) {
                        WorkerStep::Job(_) => {
                            drop(pool);
                            self.done.fetch_add(1, Ordering::SeqCst);
                            thread::yield_now();
                            pool = self.pool.lock().unwrap();
                        }
                        WorkerStep::Idle => {
                            pool.idle += 1;
                            pool = self.job_added.wait(pool).unwrap();
                            pool.idle -= 1;
                        }
                        WorkerStep::End => {
                            // Under the lock: the next thread of that number starts after it.
                            self.alive.fetch_sub(1, Ordering::SeqCst);
                            return;
                        }
                    }
                }
            }

            /// A user that runs two jobs and leaves; returns how many were accepted.
            fn use_pool(&self) -> usize {
                self.pool.lock().unwrap().users += 1;
                let accepted = (0..2).filter(|job| self.run(*job)).count();
                if self.pool.lock().unwrap().leave() {
                    self.job_added.notify_all();
                }
                accepted
            }
        }

        fn check(startable: usize) {
            let model = Model::new(startable);
            let users: Vec<_> = (0..3)
                .map(|_| {
                    let model = model.clone();
                    thread::spawn(move || model.use_pool())
                })
                .collect();
            let accepted: usize = users.into_iter().map(|user| user.join().unwrap()).sum();
            // All users have left: each thread does the remaining jobs and ends.
            while model.done.load(Ordering::SeqCst) < accepted || model.alive.load(Ordering::SeqCst) > 0 {
                thread::yield_now();
            }
            let pool = model.pool.lock().unwrap();
            assert_eq!((model.done.load(Ordering::SeqCst), pool.queue.len()), (accepted, 0));
        }

        #[test]
        fn no_interleaving_leaves_a_job_beside_an_idle_thread_or_a_thread_without_users() {
            shuttle::check_random(|| check(100), 2_000);
        }

        #[test]
        fn no_interleaving_drops_an_accepted_job_when_threads_cannot_be_started() {
            for startable in 0..3 {
                shuttle::check_random(move || check(startable), 1_000);
            }
        }
    }
}
