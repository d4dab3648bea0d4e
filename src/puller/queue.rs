//! The requests that wait, in the order asked.

use std::collections::{BTreeSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use crossbeam_channel::Sender;
use crossbeam_utils::CachePadded;

use super::PullResult;
use crate::context::{CancelHook, PullContext};
use crate::service::PullRequest;

/// How many requests are kept in one piece of memory: enough that it is seldom asked for, few enough
/// that little is left unused.
const BLOCK: usize = 32;

/// A request, and all that is needed to answer it. Whoever holds it owes the one result.
pub(super) struct Pending {
    pub(super) cx: PullContext,
    pub(super) request: PullRequest,
    pub(super) results: Sender<PullResult>,
    pub(super) asked_at: Instant,
    /// Takes the request out of the queue on a cancel; gone with the request.
    pub(super) hook: Option<CancelHook>,
    /// Dropped when the caller need not wait any more: there is room for the request, or it is answered.
    pub(super) standing: Option<Sender<Infallible>>,
}

impl Pending {
    pub(super) fn new(cx: PullContext, request: PullRequest, results: Sender<PullResult>) -> Self {
        Pending { cx, request, results, asked_at: Instant::now(), hook: None, standing: None }
    }
}

struct Entry {
    number: u64,
    pending: Pending,
}

/// First in, first out; and whoever removes a request by its number, be it worker, canceller, timer
/// or shutdown, is the only one who does.
#[derive(Default)]
pub(super) struct Queue {
    /// Sorted by number; no block is empty.
    blocks: VecDeque<VecDeque<Entry>>,
    /// A block that was emptied last, for the next one.
    spare: Option<VecDeque<Entry>>,
    next_number: u64,
    /// How many wait; read without the queue's lock by those who look out for a change.
    waiting: Arc<CachePadded<AtomicUsize>>,
    deadlines: BTreeSet<(Instant, u64)>,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn len(&self) -> usize {
        self.waiting.load(Ordering::Relaxed)
    }

    /// [`len`](Self::len), for those who do not hold the lock.
    pub(super) fn waiting(&self) -> Arc<CachePadded<AtomicUsize>> {
        Arc::clone(&self.waiting)
    }

    fn set_len(&self, waiting: usize) {
        self.waiting.store(waiting, Ordering::Relaxed);
    }

    /// Appends, and tells the number by which the request can be taken.
    pub(super) fn push(&mut self, pending: Pending) -> u64 {
        let number = self.next_number;
        self.next_number += 1;
        self.set_len(self.len() + 1);
        if let Some(deadline) = pending.cx.deadline() {
            self.deadlines.insert((deadline, number));
        }
        let entry = Entry { number, pending };
        match self.blocks.back_mut() {
            Some(block) if block.len() < BLOCK => block.push_back(entry),
            _ => {
                let mut block = self.spare.take().unwrap_or_else(|| VecDeque::with_capacity(BLOCK));
                block.push_back(entry);
                self.blocks.push_back(block);
            }
        }
        number
    }

    /// Takes the one that has waited longest.
    pub(super) fn take_first(&mut self) -> Option<Pending> {
        let block = self.blocks.front_mut()?;
        let Entry { number, pending } = block.pop_front()?;
        if block.is_empty() {
            self.spare = self.blocks.pop_front();
        }
        self.forget(number, &pending);
        Some(pending)
    }

    /// Takes the one with this number, if it still waits.
    pub(super) fn take(&mut self, number: u64) -> Option<Pending> {
        let (at, within) = self.place(number)?;
        let block = self.blocks.get_mut(at)?;
        let Entry { pending, .. } = block.remove(within)?;
        if block.is_empty() {
            self.blocks.remove(at);
        } else if block.len() < block.capacity() / 2 {
            block.shrink_to_fit();
        }
        self.forget(number, &pending);
        Some(pending)
    }

    /// Gives a waiting request its hook; hands the hook back if the request does not wait any more.
    pub(super) fn attach(&mut self, number: u64, hook: CancelHook) -> Result<(), CancelHook> {
        let place = self.place(number);
        match place.and_then(|(at, within)| self.blocks.get_mut(at)?.get_mut(within)) {
            Some(entry) => {
                entry.pending.hook = Some(hook);
                Ok(())
            }
            None => Err(hook),
        }
    }

    /// The numbers of all whose deadline has passed.
    pub(super) fn expired(&self, now: Instant) -> Vec<u64> {
        self.deadlines
            .iter()
            .take_while(|(deadline, _)| *deadline <= now)
            .map(|&(_, number)| number)
            .collect()
    }

    /// Takes all.
    pub(super) fn drain(&mut self) -> impl Iterator<Item = Pending> + use<> {
        self.set_len(0);
        self.deadlines.clear();
        std::mem::take(&mut self.blocks).into_iter().flatten().map(|entry| entry.pending)
    }

    /// Lets the caller go who waits until there is room for the request at this place, counted from 0.
    pub(super) fn let_go(&mut self, mut place: usize) -> Option<Sender<Infallible>> {
        if place >= self.len() {
            return None;
        }
        for block in &mut self.blocks {
            match block.get_mut(place) {
                Some(entry) => return entry.pending.standing.take(),
                None => place -= block.len(),
            }
        }
        None
    }

    /// The deadline that passes first.
    pub(super) fn nearest_deadline(&self) -> Option<Instant> {
        self.deadlines.first().map(|&(deadline, _)| deadline)
    }

    /// The block that a number is in, and where in it.
    fn place(&self, number: u64) -> Option<(usize, usize)> {
        let ends_before = |block: &VecDeque<Entry>| block.back().is_some_and(|last| last.number < number);
        let at = self.blocks.partition_point(ends_before);
        let within = self.blocks.get(at)?.binary_search_by_key(&number, |entry| entry.number).ok()?;
        Some((at, within))
    }

    fn forget(&mut self, number: u64, pending: &Pending) {
        self.set_len(self.len() - 1);
        if let Some(deadline) = pending.cx.deadline() {
            self.deadlines.remove(&(deadline, number));
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pending(id: u64, deadline: Option<Instant>) -> Pending {
        let cx = deadline.map_or_else(PullContext::new, |at| PullContext::new().with_deadline(at));
        Pending::new(cx, PullRequest::new(id, "alpine"), crossbeam_channel::unbounded().0)
    }

    proptest! {
        /// Beside a list that is searched from its beginning: the same requests, in the same order, and
        /// less than half of the memory unused once there is more than a block at each end.
        #[test]
        fn requests_are_taken_from_everywhere_and_stay_in_order(
            steps in prop::collection::vec((0..10_u8, any::<prop::sample::Index>()), 1..600),
        ) {
            let far = Instant::now() + std::time::Duration::from_secs(60);
            let mut queue = Queue::default();
            let mut model: VecDeque<u64> = VecDeque::new();
            for (step, which) in steps {
                match step {
                    0..5 => {
                        let deadline = (step == 0).then_some(far);
                        let number = queue.push(pending(queue.next_number, deadline));
                        model.push_back(number);
                    }
                    5..7 => prop_assert_eq!(queue.take_first().map(|first| first.request.id), model.pop_front()),
                    _ if model.is_empty() => prop_assert!(queue.take(0).is_none()),
                    _ => {
                        let number = model.remove(which.index(model.len())).unwrap();
                        prop_assert_eq!(queue.take(number).map(|taken| taken.request.id), Some(number));
                        prop_assert!(queue.take(number).is_none(), "only once");
                    }
                }
                prop_assert_eq!(queue.len(), model.len());
                let room: usize = queue.blocks.iter().map(VecDeque::capacity).sum();
                prop_assert!(room <= 2 * model.len() + 3 * BLOCK, "{room} places for {}", model.len());
            }
            let with_deadline = queue.expired(far).len();
            prop_assert!(with_deadline <= model.len());
            let rest: Vec<u64> = queue.drain().map(|pending| pending.request.id).collect();
            prop_assert!(rest.into_iter().eq(model));
            prop_assert_eq!((queue.len(), queue.nearest_deadline()), (0, None));
        }
    }
}
