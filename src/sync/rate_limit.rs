//! A rate that many threads keep together, and that may change while they wait.
//!
//! # States
//!
//! [`Account`] is the state: a [`TokenBucket`] while there is a limit, and the sum of all charges. A thread
//! charges what it has transferred and remembers the sum at that moment, its *place*. It may go on when the
//! bucket is no longer in debt for the charges up to that place. So threads go on in the order of their
//! charges, and a thread that gives up changes nothing for the others.
//!
//! | step | while there is a limit | without one |
//! |---|---|---|
//! | charge | spends the tokens, and gives out a place | nothing |
//! | due | tells how long the place still has to wait, with the channel that a change disconnects | now |
//! | change | changes the bucket's rate, and disconnects the channel | the same; the new bucket is empty |
//!
//! No wake-up is lost: time and channel are read under one lock, and a change replaces both under that lock
//! before it disconnects the old channel. So a thread either sees the new rate or is woken.
//!
//! Nothing deadlocks here: a thread waits for time and channel without the lock.

use std::convert::Infallible;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use parking_lot::Mutex;

use super::token_bucket::TokenBucket;

/// How much may be made up for: what was not used in this part of a second is used later.
const BURST: f64 = 0.1;

/// A rate, units per second, or no limit.
pub(crate) struct RateLimit {
    /// The rate; 0 for no limit. Read before the lock is taken: without a limit this read is all there is.
    rate: AtomicU64,
    account: Mutex<Account<Sender<Infallible>, Receiver<Infallible>>>,
}

/// A place among the charges.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Charge(u64);

/// When a charge is covered.
pub(crate) struct Due {
    pub(crate) after: Duration,
    /// Disconnected when the rate changes: the time is another one then.
    pub(crate) changed: Receiver<Infallible>,
}

impl RateLimit {
    /// Returns a limit of `rate` units per second; 0 for no limit.
    pub(crate) fn new(rate: u64) -> Self {
        let (sender, receiver) = bounded(0);
        let limit =
            RateLimit { rate: AtomicU64::new(0), account: Mutex::new(Account::new(sender, receiver)) };
        limit.set(rate);
        limit
    }

    /// Changes the rate from now on, also for threads that wait; 0 for no limit.
    pub(crate) fn set(&self, rate: u64) {
        let (sender, receiver) = bounded(0);
        let old = {
            let mut account = self.account.lock();
            self.rate.store(rate, Ordering::Relaxed);
            account.change(rate, (sender, receiver), Instant::now())
        };
        drop(old);
    }

    /// Returns the rate; 0 for no limit.
    pub(crate) fn rate(&self) -> u64 {
        self.rate.load(Ordering::Relaxed)
    }

    /// Charges units that were transferred. Returns `None` without a limit.
    pub(crate) fn charge(&self, units: u64) -> Option<Charge> {
        if self.rate() == 0 {
            return None;
        }
        self.account.lock().charge(units, Instant::now()).map(Charge)
    }

    /// Returns when the charge is covered; `None` if it is now.
    pub(crate) fn due(&self, charge: Charge) -> Option<Due> {
        let (after, changed) = self.account.lock().due(charge.0, Instant::now())?;
        Some(Due { after, changed })
    }
}

impl fmt::Debug for RateLimit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RateLimit").field("rate", &self.rate()).finish_non_exhaustive()
    }
}

/// The state. A waiter waits on a `C`, until its `N` is dropped.
struct Account<N, C> {
    bucket: Option<TokenBucket>,
    /// The sum of all charges.
    charged: u64,
    notifier: N,
    changed: C,
}

impl<N, C: Clone> Account<N, C> {
    fn new(notifier: N, changed: C) -> Self {
        Account { bucket: None, charged: 0, notifier, changed }
    }

    /// Returns what is to be dropped without the lock: that wakes the waiters.
    fn change(&mut self, rate: u64, (notifier, changed): (N, C), now: Instant) -> N {
        let (per_second, size) = (rate as f64, rate as f64 * BURST);
        match (&mut self.bucket, rate) {
            (_, 0) => self.bucket = None,
            (Some(bucket), _) => bucket.change(per_second, size, now),
            (None, _) => self.bucket = Some(TokenBucket::empty(per_second, size, now)),
        }
        self.changed = changed;
        std::mem::replace(&mut self.notifier, notifier)
    }

    fn charge(&mut self, units: u64, now: Instant) -> Option<u64> {
        self.bucket.as_mut()?.spend(units as f64, now);
        self.charged = self.charged.wrapping_add(units);
        Some(self.charged)
    }

    fn due(&mut self, place: u64, now: Instant) -> Option<(Duration, C)> {
        let later = self.charged.wrapping_sub(place);
        let after = self.bucket.as_mut()?.time_to(-(later as f64), now);
        (!after.is_zero()).then(|| (after, self.changed.clone()))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn account(rate: u64, now: Instant) -> Account<(), ()> {
        let mut account = Account::new((), ());
        account.change(rate, ((), ()), now);
        account
    }

    #[test]
    fn charges_are_covered_in_their_order() {
        let now = Instant::now();
        let mut account = account(1000, now);
        let (first, second) = (account.charge(500, now).unwrap(), account.charge(1500, now).unwrap());
        let due = |account: &mut Account<(), ()>, place, after: u64| {
            account.due(place, now + Duration::from_millis(after)).map(|(due, ())| due.as_millis())
        };
        assert_eq!(due(&mut account, first, 0), Some(500));
        assert_eq!(due(&mut account, second, 0), Some(2000));
        assert_eq!(due(&mut account, first, 500), None);
        assert_eq!(due(&mut account, second, 500), Some(1500));
        assert_eq!(due(&mut account, second, 2000), None);
    }

    #[test]
    fn a_change_counts_for_charges_that_wait() {
        let now = Instant::now();
        let mut account = account(10, now);
        let place = account.charge(1000, now).unwrap();
        assert_eq!(account.due(place, now).unwrap().0, Duration::from_secs(100));
        account.change(1000, ((), ()), now);
        assert_eq!(account.due(place, now).unwrap().0, Duration::from_secs(1));
        account.change(0, ((), ()), now);
        assert_eq!(account.due(place, now), None);
        account.change(10, ((), ()), now);
        assert_eq!(account.due(place, now), None, "what was let through is not owed again");
    }

    #[test]
    fn a_change_wakes_waiters() {
        let limit = RateLimit::new(1);
        let charge = limit.charge(1000).unwrap();
        let due = limit.due(charge).unwrap();
        assert!(due.after > Duration::from_secs(900));
        limit.set(0);
        assert!(due.changed.recv().is_err());
        assert!(limit.due(charge).is_none());
        assert!(limit.charge(1000).is_none(), "without a limit nothing is counted");
    }

    proptest! {
        /// Threads that charge a part and wait for it, as readers do.
        #[test]
        fn the_sum_keeps_to_the_rate_and_uses_it(
            rate in 1_000_u64..10_000_000,
            readers in 1_usize..17,
            late in 0_u64..40,
        ) {
            let begin = Instant::now();
            let mut account = account(rate, begin);
            let part = (rate / 40).max(1);
            let mut next: Vec<_> = (0..readers).map(|_| begin).collect();
            let mut sum = 0;
            while let Some(reader) = (0..readers).min_by_key(|reader| next[*reader]) {
                let now = next[reader];
                if now > begin + Duration::from_secs(10) {
                    break;
                }
                let place = account.charge(part, now).unwrap();
                sum += part;
                let wait = account.due(place, now).map_or(Duration::ZERO, |(wait, ())| wait);
                // A thread wakes late by some milliseconds.
                next[reader] = now + wait + Duration::from_millis(late);
            }
            let expected = 10 * rate;
            // Each reader has received a part that it waits for.
            prop_assert!(sum <= expected + expected / 100 + readers as u64 * part, "{sum} of {expected}");
            prop_assert!(sum >= expected * 98 / 100 || readers == 1, "{sum} of {expected}");
        }
    }

    /// A thread whose charge is never covered, unless the rate changes: each interleaving of the change with its
    /// look at the account lets it go on.
    #[test]
    fn model_no_interleaving_sleeps_through_a_change() {
        use shuttle::sync::{Arc, Condvar, Mutex};
        use shuttle::thread;

        type Flag = Arc<(Mutex<bool>, Condvar)>;

        /// As the sender of a channel: its drop wakes the receivers.
        struct Notifier(Flag);

        impl Drop for Notifier {
            fn drop(&mut self) {
                *self.0.0.lock().unwrap() = true;
                self.0.1.notify_all();
            }
        }

        fn channel() -> (Notifier, Flag) {
            let flag = Flag::default();
            (Notifier(Arc::clone(&flag)), flag)
        }

        let model = || {
            // Time stands still.
            let now = Instant::now();
            let (notifier, flag) = channel();
            let mut account = Account::new(notifier, flag);
            drop(account.change(1, channel(), now));
            let account = Arc::new(Mutex::new(account));
            let waiters = (0..3).map(|_| {
                let account = Arc::clone(&account);
                thread::spawn(move || {
                    let Some(place) = account.lock().unwrap().charge(100, now) else { return };
                    loop {
                        let due = account.lock().unwrap().due(place, now);
                        let Some((_, flag)) = due else { return };
                        let mut is_changed = flag.0.lock().unwrap();
                        while !*is_changed {
                            is_changed = flag.1.wait(is_changed).unwrap();
                        }
                    }
                })
            });
            let waiters: Vec<_> = waiters.collect();
            for rate in [2, 0] {
                let old = account.lock().unwrap().change(rate, channel(), now);
                drop(old);
            }
            waiters.into_iter().for_each(|waiter| waiter.join().unwrap());
        };
        shuttle::check_random(model, 1_000);
    }
}
