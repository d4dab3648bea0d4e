//! One thread that runs jobs at their times, and delivers results whose channels are full for a moment.
//!
//! [`agenda`](super::agenda) has the states, and why no wake-up is lost.
//!
//! Nothing deadlocks here: the thread waits with a `Select` for its wake-up, for its next time, and for
//! room in every full channel, and blocks in none of them. Jobs must not block. After the owner closes
//! it, the thread offers the remaining answers once more, and ends.
//!
//! Without a job the thread sleeps without a time, so at rest it is never woken.

use std::collections::VecDeque;
use std::fmt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::Instant;

use crossbeam_channel::{Receiver, Select, Sender, bounded};
use parking_lot::Mutex;

use super::agenda::{Agenda, JobKey, Next, Step, Thread};
use super::delivery::{Answer, offer, offer_or_drop};
use super::panics::panic_text;
use super::thread_group::ThreadGroup;

type TimerJob = Box<dyn FnOnce() + Send>;

/// Runs jobs at their times and delivers results, on one thread of its owner's group. A clone is the
/// same timer.
pub(crate) struct Timer<T>(Arc<TimerShared<T>>);

struct TimerShared<T> {
    agenda: Mutex<Agenda<TimerJob, Parcel<T>>>,
    wake: Sender<()>,
    woken: Receiver<()>,
    threads: ThreadGroup,
    name: &'static str,
}

/// A result and where it goes.
type Parcel<T> = (Sender<T>, T);

/// A job of a [`Timer`], taken back when this is dropped. A job that runs is not waited for.
#[must_use = "dropping it takes the job back"]
pub(crate) struct Alarm<T>(Option<(Arc<TimerShared<T>>, JobKey)>);

impl<T: Answer> Timer<T> {
    /// Makes a timer whose thread, of that name, starts in `threads` with the first job or result.
    pub(crate) fn new(name: &'static str, threads: ThreadGroup) -> Self {
        let (wake, woken) = bounded(1);
        Timer(Arc::new(TimerShared { agenda: Mutex::new(Agenda::new()), wake, woken, threads, name }))
    }

    /// Runs `job` at `time`, on the timer's thread. The job must not block. A timer that was closed runs
    /// nothing any more.
    pub(crate) fn at(&self, time: Instant, job: impl FnOnce() + Send + 'static) -> Alarm<T> {
        let added = self.0.agenda.lock().add(time, Box::new(job));
        match added {
            Ok((key, step)) => {
                self.take(step);
                Alarm(Some((Arc::clone(&self.0), key)))
            }
            Err(_job) => Alarm(None),
        }
    }

    /// Sends the result if its channel has room; if not, has the timer's thread wait for room. Never
    /// blocks. Once the timer is closed, a result without room is dropped with a warning.
    pub(crate) fn deliver(&self, results: &Sender<T>, result: T) {
        let Err(result) = offer(results, result) else { return };
        let pushed = self.0.agenda.lock().push((results.clone(), result));
        match pushed {
            Ok(step) => self.take(step),
            Err((results, result)) => offer_or_drop(&results, result),
        }
    }

    /// Ends the timer: jobs are dropped, results are offered once more.
    pub(crate) fn close(&self) {
        let (step, jobs, parcels) = self.0.agenda.lock().close();
        self.take(step);
        drop(jobs);
        for (results, result) in parcels {
            offer_or_drop(&results, result);
        }
    }

    fn take(&self, step: Step) {
        match step {
            Step::Nothing => {}
            Step::Wake => self.0.wake(),
            Step::Start => {
                let shared = Arc::clone(&self.0);
                let started = self.0.threads.spawn(self.0.name.to_owned(), move || shared.run());
                if let Err(error) = started {
                    // The next job or result tries again.
                    self.0.agenda.lock().thread = Thread::None;
                    log::warn!("{}: no thread could be started: {error}", self.0.name);
                }
            }
        }
    }
}

impl<T> TimerShared<T> {
    fn wake(&self) {
        // If it is full, a wake-up is on its way.
        let _ = self.wake.try_send(());
    }
}

impl<T: Answer> TimerShared<T> {
    fn run(&self) {
        let mut full = FullChannels::new();
        loop {
            let next = self.agenda.lock().next(Instant::now());
            match next {
                Next::Work { jobs, parcels } => {
                    jobs.into_iter().for_each(run_job);
                    for (results, result) in parcels {
                        full.offer(results, result);
                    }
                }
                Next::Sleep(until) => full.wait_for_room(&self.woken, until),
                Next::End => return full.give_up(),
            }
        }
    }
}

fn run_job(job: TimerJob) {
    if let Err(panic) = catch_unwind(AssertUnwindSafe(job)) {
        log::error!("a job of a timer panicked: {}", panic_text(&*panic));
    }
}

/// Channels without room, and the results that wait for it, in order.
struct FullChannels<T> {
    channels: Vec<Sender<T>>,
    /// For each channel, never empty.
    results: Vec<VecDeque<T>>,
}

impl<T: Answer> FullChannels<T> {
    fn new() -> Self {
        FullChannels { channels: Vec::new(), results: Vec::new() }
    }

    /// Sends the result, unless others wait for its channel or it has no room.
    fn offer(&mut self, results: Sender<T>, result: T) {
        if let Some(at) = self.channels.iter().position(|channel| channel.same_channel(&results)) {
            self.results[at].push_back(result);
        } else if let Err(result) = offer(&results, result) {
            self.channels.push(results);
            self.results.push(VecDeque::from([result]));
        }
    }

    /// Sleeps until it is woken, the time has come, or a channel has room, and uses that room.
    fn wait_for_room(&mut self, woken: &Receiver<()>, until: Option<Instant>) {
        let mut select = Select::new();
        let wake_up = select.recv(woken);
        for channel in &self.channels {
            select.send(channel);
        }
        let ready = match until {
            Some(until) => select.ready_deadline(until),
            None => Ok(select.ready()),
        };
        match ready {
            Ok(index) if index == wake_up => drop(woken.try_recv()),
            Ok(index) => self.use_room(index - wake_up - 1),
            Err(_) => {}
        }
    }

    /// Sends to a channel that had room, as long as it has.
    fn use_room(&mut self, at: usize) {
        let (channel, waiting) = (&self.channels[at], &mut self.results[at]);
        while let Some(result) = waiting.pop_front() {
            if let Err(result) = offer(channel, result) {
                return waiting.push_front(result);
            }
        }
        self.channels.swap_remove(at);
        self.results.swap_remove(at);
    }

    /// Offers the remaining answers once more.
    fn give_up(self) {
        for (channel, waiting) in self.channels.iter().zip(self.results) {
            waiting.into_iter().for_each(|result| offer_or_drop(channel, result));
        }
    }
}

impl<T> Drop for Alarm<T> {
    fn drop(&mut self) {
        let Some((shared, key)) = self.0.take() else { return };
        let (job, step) = shared.agenda.lock().remove(key);
        if step == Step::Wake {
            shared.wake();
        }
        drop(job);
    }
}

impl<T> Clone for Timer<T> {
    fn clone(&self) -> Self {
        Timer(Arc::clone(&self.0))
    }
}

impl<T> fmt::Debug for Timer<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Timer").field("jobs", &self.0.agenda.lock().jobs.len()).finish_non_exhaustive()
    }
}

impl<T> fmt::Debug for Alarm<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Alarm")
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crossbeam_channel::unbounded;

    use super::*;

    const SOON: Duration = Duration::from_secs(30);

    struct Owner {
        threads: ThreadGroup,
        timer: Timer<u32>,
    }

    fn owner() -> Owner {
        let threads = ThreadGroup::new(64 * 1024);
        Owner { timer: Timer::new("timer", threads.clone()), threads }
    }

    impl Drop for Owner {
        fn drop(&mut self) {
            self.timer.close();
            self.threads.join(SOON);
            assert_eq!(self.threads.alive(), 0);
        }
    }

    #[test]
    fn jobs_run_at_their_times_and_a_nearer_one_wakes_the_thread() {
        let owner = owner();
        let (sender, ran) = unbounded();
        let alarms = [(3, 90), (1, 30), (2, 60)].map(|(n, millis)| {
            let sender = sender.clone();
            let time = Instant::now() + Duration::from_millis(millis);
            owner.timer.at(time, move || {
                sender.send((n, Instant::now() >= time)).unwrap();
                assert_ne!(n, 1, "a panic that is meant");
            })
        });
        let order: Vec<_> = (0..3).map(|_| ran.recv_timeout(SOON).unwrap()).collect();
        assert_eq!(order, [(1, true), (2, true), (3, true)]);
        drop(alarms);
    }

    #[test]
    fn a_job_that_is_taken_back_never_runs() {
        let owner = owner();
        let (sender, ran) = unbounded();
        let taken_back = owner.timer.at(Instant::now() + SOON * 100, {
            let sender = sender.clone();
            move || sender.send(1).unwrap()
        });
        drop(taken_back);
        let _alarm =
            owner.timer.at(Instant::now() + Duration::from_millis(20), move || sender.send(2).unwrap());
        assert_eq!(ran.recv_timeout(SOON), Ok(2));
        assert!(ran.recv().is_err(), "the other was dropped");
    }

    #[test]
    fn results_wait_for_room_in_many_channels_at_once() {
        let owner = owner();
        let (first, first_answers) = bounded(1);
        let (second, second_answers) = bounded(0);
        let (gone, _) = bounded(0);
        for n in 0..20 {
            owner.timer.deliver(&first, n);
            owner.timer.deliver(&gone, n);
            owner.timer.deliver(&second, 100 + n);
        }
        // The channel that is read later does not delay the other.
        let second: Vec<u32> = (0..20).map(|_| second_answers.recv_timeout(SOON).unwrap()).collect();
        let first: Vec<u32> = (0..20).map(|_| first_answers.recv_timeout(SOON).unwrap()).collect();
        assert!(first.into_iter().eq(0..20));
        assert!(second.into_iter().eq(100..120));
    }

    #[test]
    fn a_close_drops_what_has_no_room_and_nothing_else() {
        let owner = owner();
        let (sender, answers) = bounded(1);
        (0..3).for_each(|n| owner.timer.deliver(&sender, n));
        owner.timer.close();
        owner.threads.join(SOON);
        owner.timer.deliver(&sender, 3);
        let alarm = owner.timer.at(Instant::now(), || panic!("it is closed"));
        drop((alarm, sender));
        assert_eq!(answers.iter().count(), 1);
    }
}
