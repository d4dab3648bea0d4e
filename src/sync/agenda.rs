//! The entries of a [`Timer`](super::Timer): its state, apart from its channels.
//!
//! # States
//!
//! [`Agenda`] is the state: jobs by time, results not yet seen by the thread, whether the owner has
//! closed it, and how the thread sleeps: it is *awake*, or *asleep* until the nearest time (or without a
//! time).
//!
//! | step | awake | asleep until t |
//! |---|---|---|
//! | a job is added | enters | enters; if it is due before t, the thread is woken |
//! | a job is taken back | leaves | leaves; if it was the last one, the thread is woken |
//! | a result comes | enters | enters; the thread is woken |
//! | close | noted | noted; the thread is woken |
//!
//! The thread starts with the first job or result. Between two sleeps it takes all that is due, and all
//! results, under the lock; then, outside of the lock, runs the jobs and offers the results. If there was
//! nothing, it falls asleep under the same lock.
//!
//! No wake-up is lost: the step that wakes sets the state to awake under the lock, so each sleep is ended
//! by at most one message, and that message stays in its channel until the thread receives it. A message
//! sent before the thread waits ends that wait at once.

use std::collections::BTreeMap;
use std::time::Instant;

/// By time, and by the order added at the same time.
pub(super) type JobKey = (Instant, u64);

/// The state: jobs `J`, parcels `P`.
pub(super) struct Agenda<J, P> {
    pub(super) jobs: BTreeMap<JobKey, J>,
    parcels: Vec<P>,
    next_number: u64,
    pub(super) thread: Thread,
    is_closed: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Thread {
    /// There is none yet.
    None,
    /// It looks at the agenda before it sleeps.
    Awake,
    /// It sleeps to that time, if there is one.
    Asleep(Option<Instant>),
}

/// What follows from a change of the agenda, for the thread that made it.
#[must_use]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Step {
    Nothing,
    Start,
    Wake,
}

/// What the timer's thread does next.
pub(super) enum Next<J, P> {
    Work { jobs: Vec<J>, parcels: Vec<P> },
    Sleep(Option<Instant>),
    End,
}

impl<J, P> Agenda<J, P> {
    pub(super) fn new() -> Self {
        Agenda {
            jobs: BTreeMap::new(),
            parcels: Vec::new(),
            next_number: 0,
            thread: Thread::None,
            is_closed: false,
        }
    }

    /// The thread has to look at the agenda.
    fn call_thread(&mut self) -> Step {
        match std::mem::replace(&mut self.thread, Thread::Awake) {
            Thread::None => Step::Start,
            Thread::Awake => Step::Nothing,
            Thread::Asleep(_) => Step::Wake,
        }
    }

    /// Adds a job; gives it back after the close.
    pub(super) fn add(&mut self, time: Instant, job: J) -> Result<(JobKey, Step), J> {
        if self.is_closed {
            return Err(job);
        }
        let key = (time, self.next_number);
        self.next_number += 1;
        self.jobs.insert(key, job);
        let step = match self.thread {
            Thread::Asleep(Some(until)) if until <= time => Step::Nothing,
            _ => self.call_thread(),
        };
        Ok((key, step))
    }

    /// Takes a job back, if it has not begun. A thread that has none left sleeps without a time.
    pub(super) fn remove(&mut self, key: JobKey) -> (Option<J>, Step) {
        let job = self.jobs.remove(&key);
        let sleeps_for_nothing = self.jobs.is_empty() && matches!(self.thread, Thread::Asleep(Some(_)));
        let step = if sleeps_for_nothing { self.call_thread() } else { Step::Nothing };
        (job, step)
    }

    /// Adds a parcel; gives it back after the close.
    pub(super) fn push(&mut self, parcel: P) -> Result<Step, P> {
        if self.is_closed {
            return Err(parcel);
        }
        self.parcels.push(parcel);
        Ok(self.call_thread())
    }

    /// Ends the agenda; returns the entries that the thread has not taken.
    pub(super) fn close(&mut self) -> (Step, BTreeMap<JobKey, J>, Vec<P>) {
        self.is_closed = true;
        let step = if self.thread == Thread::None { Step::Nothing } else { self.call_thread() };
        (step, std::mem::take(&mut self.jobs), std::mem::take(&mut self.parcels))
    }

    /// Takes all due entries; without one, the thread falls asleep.
    pub(super) fn next(&mut self, now: Instant) -> Next<J, P> {
        if self.is_closed {
            return Next::End;
        }
        let mut jobs = Vec::new();
        while let Some(first) = self.jobs.first_entry().filter(|first| first.key().0 <= now) {
            jobs.push(first.remove());
        }
        let parcels = std::mem::take(&mut self.parcels);
        if !jobs.is_empty() || !parcels.is_empty() {
            self.thread = Thread::Awake;
            return Next::Work { jobs, parcels };
        }
        let until = self.jobs.first_key_value().map(|((time, _), _)| *time);
        self.thread = Thread::Asleep(until);
        Next::Sleep(until)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Threads that add and take back jobs while the timer's thread sleeps and wakes: it never sleeps
    /// past the nearest job, nor on a parcel, and it ends.
    #[test]
    fn model_no_interleaving_sleeps_past_a_job_or_a_parcel() {
        use shuttle::sync::{Arc, Mutex, mpsc};
        use shuttle::thread;

        let model = || {
            let start = Instant::now();
            let agenda = Arc::new(Mutex::new(Agenda::<u32, u32>::new()));
            agenda.lock().unwrap().thread = Thread::Awake;
            let (wake, woken) = mpsc::channel();
            let sleeper = thread::spawn({
                let agenda = Arc::clone(&agenda);
                move || {
                    let mut taken = Vec::new();
                    loop {
                        let next = agenda.lock().unwrap().next(start);
                        match next {
                            Next::Work { jobs, parcels } => taken.extend(jobs.into_iter().chain(parcels)),
                            // Time stands still: only a wake-up ends a sleep.
                            Next::Sleep(_) => woken.recv().unwrap(),
                            Next::End => return taken,
                        }
                    }
                }
            });
            let others = (1..=3_u32).map(|n| {
                let (agenda, wake) = (Arc::clone(&agenda), wake.clone());
                thread::spawn(move || {
                    let take = |step| match step {
                        Step::Nothing => {}
                        Step::Wake => wake.send(()).unwrap(),
                        Step::Start => panic!("the thread runs"),
                    };
                    let later = start + Duration::from_secs(n.into());
                    let (key, step) = agenda.lock().unwrap().add(later, 10 * n).unwrap();
                    take(step);
                    let due = agenda.lock().unwrap().add(start, n).unwrap().1;
                    take(due);
                    let parcel = agenda.lock().unwrap().push(100 * n).unwrap();
                    take(parcel);
                    if n == 1 {
                        let (job, step) = agenda.lock().unwrap().remove(key);
                        assert_eq!(job, Some(10));
                        take(step);
                    }
                })
            });
            others.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
            loop {
                let mut state = agenda.lock().unwrap();
                match state.thread {
                    Thread::Asleep(until) if state.parcels.is_empty() => {
                        // It may wake early for the job that was taken back, for another is left.
                        let nearest = start + Duration::from_secs(2);
                        assert!(until.is_some_and(|until| until <= nearest), "it sleeps past a job");
                        let (step, ..) = state.close();
                        drop(state);
                        assert_eq!(step, Step::Wake);
                        wake.send(()).unwrap();
                        break;
                    }
                    _ => drop(state),
                }
                thread::yield_now();
            }
            let mut taken = sleeper.join().unwrap();
            taken.sort_unstable();
            assert_eq!(taken, [1, 2, 3, 100, 200, 300]);
        };
        shuttle::check_random(model, 1_000);
    }
}
