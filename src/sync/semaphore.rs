//! A counting semaphore that grants its permits in the order asked.
//!
//! # States
//!
//! [`Permits`] is the state: the number of free permits, and a queue of waiters by number. A permit is
//! free only while the queue is empty.
//!
//! | step | free permits | no free permit |
//! |---|---|---|
//! | acquire | takes one | enters the queue |
//! | release | (queue is empty) frees the permit | hands the permit to the first waiter, if there is one |
//! | leave | nothing | removes the waiter, if it is still in the queue |
//!
//! No wake-up is lost: the permit itself is the message. It is sent into the waiter's own channel, which
//! has room for exactly one. If the waiter gives up at that moment, the permit is dropped with the
//! channel, and its drop releases it to the next waiter.
//!
//! Nothing deadlocks here: a step holds the lock for its bookkeeping only. No channel is sent to, and no
//! permit is dropped, under the lock.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use crossbeam_channel::{Receiver, SendError, Sender, bounded};
use parking_lot::Mutex;

/// Hands out a fixed number of permits. A clone is the same semaphore.
#[derive(Clone)]
pub(crate) struct Semaphore(Arc<Mutex<Permits<Sender<Permit>>>>);

/// The right to one of the places of a [`Semaphore`], until dropped.
pub(crate) struct Permit(Option<Semaphore>);

/// A place in the queue for a permit, until dropped.
pub(crate) struct PermitWaiter {
    semaphore: Semaphore,
    /// `None` if the permit was free.
    number: Option<u64>,
    granted: Receiver<Permit>,
}

impl Semaphore {
    pub(crate) fn new(permits: usize) -> Self {
        Semaphore(Arc::new(Mutex::new(Permits::new(permits))))
    }

    /// Takes a permit if one is free; never overtakes a waiter.
    pub(crate) fn try_acquire(&self) -> Option<Permit> {
        self.0.lock().try_acquire().then(|| Permit(Some(self.clone())))
    }

    /// Enters the queue for a permit. The permit arrives in [`PermitWaiter::granted`].
    pub(crate) fn acquire(&self) -> PermitWaiter {
        let (sender, granted) = bounded(1);
        let number = {
            let mut permits = self.0.lock();
            if permits.try_acquire() { None } else { Some(permits.wait(sender.clone())) }
        };
        if number.is_none() {
            let _ = sender.send(Permit(Some(self.clone())));
        }
        PermitWaiter { semaphore: self.clone(), number, granted }
    }
}

impl PermitWaiter {
    /// Returns the channel that carries the permit, as its only message, once it is granted.
    pub(crate) fn granted(&self) -> &Receiver<Permit> {
        &self.granted
    }
}

impl Drop for PermitWaiter {
    fn drop(&mut self) {
        let sender = self.number.and_then(|number| self.semaphore.0.lock().leave(number));
        drop(sender);
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        let Some(semaphore) = self.0.take() else { return };
        // A loop, not a recursion: any number of waiters may have given up.
        loop {
            let next = semaphore.0.lock().release();
            let Some(waiter) = next else { return };
            match waiter.send(Permit(Some(semaphore.clone()))) {
                Ok(()) => return,
                Err(SendError(mut unsent)) => unsent.0 = None,
            }
        }
    }
}

impl fmt::Debug for Semaphore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let permits = self.0.lock();
        let (free, waiting) = (permits.free, permits.waiters.len());
        f.debug_struct("Semaphore").field("free", &free).field("waiting", &waiting).finish()
    }
}

impl fmt::Debug for Permit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Permit")
    }
}

/// The state. `W` is the channel to a waiter.
struct Permits<W> {
    free: usize,
    waiters: BTreeMap<u64, W>,
    next_number: u64,
}

impl<W> Permits<W> {
    fn new(free: usize) -> Self {
        Permits { free, waiters: BTreeMap::new(), next_number: 0 }
    }

    fn try_acquire(&mut self) -> bool {
        let is_free = self.free > 0;
        self.free -= usize::from(is_free);
        is_free
    }

    /// Enters the queue; returns the number to leave it by.
    fn wait(&mut self, waiter: W) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        self.waiters.insert(number, waiter);
        number
    }

    fn leave(&mut self, number: u64) -> Option<W> {
        self.waiters.remove(&number)
    }

    /// Gives a permit back. Returns the waiter that it now belongs to, if there is one.
    fn release(&mut self) -> Option<W> {
        let next = self.waiters.pop_first();
        if next.is_none() {
            self.free += 1;
        }
        next.map(|(_, waiter)| waiter)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn permits_are_granted_in_the_order_asked_and_none_is_lost() {
        let semaphore = Semaphore::new(1);
        let first = semaphore.try_acquire().unwrap();
        let waiters: Vec<PermitWaiter> = (0..4).map(|_| semaphore.acquire()).collect();
        assert!(semaphore.try_acquire().is_none());
        drop(first);
        for waiter in &waiters {
            assert!(semaphore.try_acquire().is_none(), "nobody overtakes a waiter");
            drop(waiter.granted().try_recv().expect("its turn"));
        }
        assert!(semaphore.try_acquire().is_some());
    }

    #[test]
    fn a_waiter_that_gives_up_loses_no_permit() {
        let semaphore = Semaphore::new(1);
        let permit = semaphore.try_acquire().unwrap();
        let (queued, granted, last) = (semaphore.acquire(), semaphore.acquire(), semaphore.acquire());
        drop(queued);
        drop(permit);
        drop(granted);
        drop(last.granted().try_recv().expect("the others gave up"));
        assert!(semaphore.try_acquire().is_some());
    }

    #[test]
    fn a_hundred_thousand_waiters_may_give_up_at_once() {
        let semaphore = Semaphore::new(1);
        let permit = semaphore.try_acquire().unwrap();
        let waiters: Vec<PermitWaiter> = (0..100_000).map(|_| semaphore.acquire()).collect();
        drop(permit);
        drop(waiters);
        assert!(semaphore.try_acquire().is_some());
    }

    /// Threads that acquire, wait or give up, and release: never more than `PERMITS` at a time, and all
    /// are free in the end.
    #[test]
    fn model_no_interleaving_loses_or_doubles_a_permit() {
        use shuttle::sync::atomic::{AtomicUsize, Ordering};
        use shuttle::sync::{Arc, Mutex, mpsc};
        use shuttle::thread;

        const PERMITS: usize = 2;

        fn release(permits: &Mutex<Permits<mpsc::Sender<()>>>) {
            loop {
                let next = permits.lock().unwrap().release();
                // As when a permit is dropped: a waiter that is gone passes it on.
                if next.is_none_or(|waiter| waiter.send(()).is_ok()) {
                    return;
                }
            }
        }

        let model = || {
            let permits = Arc::new(Mutex::new(Permits::new(PERMITS)));
            let held = Arc::new(AtomicUsize::new(0));
            let threads = (0..4).map(|n| {
                let (permits, held) = (Arc::clone(&permits), Arc::clone(&held));
                thread::spawn(move || {
                    let (sender, granted) = mpsc::channel();
                    let number = {
                        let mut permits = permits.lock().unwrap();
                        if permits.try_acquire() { None } else { Some(permits.wait(sender)) }
                    };
                    if let Some(number) = number {
                        let gives_up = n == 3;
                        if gives_up {
                            let left = permits.lock().unwrap().leave(number);
                            if left.is_some() {
                                return;
                            }
                        }
                        granted.recv().expect("a waiter in the queue is told");
                    }
                    assert!(held.fetch_add(1, Ordering::SeqCst) < PERMITS);
                    held.fetch_sub(1, Ordering::SeqCst);
                    release(&permits);
                })
            });
            threads.collect::<Vec<_>>().into_iter().for_each(|thread| thread.join().unwrap());
            let permits = permits.lock().unwrap();
            assert_eq!((permits.free, permits.waiters.len()), (PERMITS, 0));
        };
        shuttle::check_random(model, 2_000);
    }
}
