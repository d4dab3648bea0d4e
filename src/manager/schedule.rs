//! Selects the next pull: by priority and age, within the limits.

use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// The place of a pull in the order. The lowest starts first.
///
/// A pull that waits gains one level of priority in each step of age. All waiting pulls gain at the
/// same pace, so the order of two of them never changes: it is that of their requests' times, each set
/// back by its priority. So nothing is sorted again as time passes, and a pull is
/// overtaken only by pulls that were requested within a bounded time after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Rank {
    /// Nanoseconds since the schedule was made.
    asked_at: i128,
    /// The pull's number. Among equals, the first request goes first.
    pub(super) pull: u64,
}

/// How many pulls may run.
#[derive(Clone, Copy, Debug)]
pub(super) struct PullLimits {
    pub(super) in_all: usize,
    pub(super) per_registry: usize,
}

/// The pulls that wait, and the number of those that run.
#[derive(Debug)]
pub(super) struct Schedule {
    limits: PullLimits,
    /// How long a wait counts as much as one level of priority.
    aging: Duration,
    begin: Instant,
    queues: HashMap<Arc<str>, RegistryQueue>,
    waiting: usize,
    running: usize,
}

/// The pulls from one registry.
#[derive(Debug, Default)]
struct RegistryQueue {
    waiting: BTreeSet<Rank>,
    running: usize,
}

impl Schedule {
    pub(super) fn new(limits: PullLimits, aging: Duration, begin: Instant) -> Self {
        Schedule { limits, aging, begin, queues: HashMap::new(), waiting: 0, running: 0 }
    }

    pub(super) fn rank(&self, asked_at: Instant, priority: i8, pull: u64) -> Rank {
        let since = |from: Instant, to: Instant| to.saturating_duration_since(from).as_nanos() as i128;
        let asked_at = since(self.begin, asked_at) - since(asked_at, self.begin);
        let head_start = i128::from(priority) * self.aging.as_nanos() as i128;
        Rank { asked_at: asked_at - head_start, pull }
    }

    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    pub(super) fn running(&self) -> usize {
        self.running
    }

    /// Returns the number of registries with pulls that run or wait.
    pub(super) fn registries(&self) -> usize {
        self.queues.len()
    }

    pub(super) fn enqueue(&mut self, registry: &Arc<str>, rank: Rank) {
        self.queues.entry(Arc::clone(registry)).or_default().waiting.insert(rank);
        self.waiting += 1;
    }

    /// Removes a pull that waits. Returns whether it was there.
    pub(super) fn remove(&mut self, registry: &Arc<str>, rank: Rank) -> bool {
        let Some(queue) = self.queues.get_mut(registry) else { return false };
        let did_wait = queue.waiting.remove(&rank);
        if did_wait {
            self.waiting -= 1;
        }
        self.drop_if_idle(registry);
        did_wait
    }

    /// Returns the pull that may start now.
    pub(super) fn first(&self) -> Option<(Arc<str>, Rank)> {
        if self.running >= self.limits.in_all {
            return None;
        }
        let open = self.queues.iter().filter(|(_, queue)| queue.running < self.limits.per_registry);
        let heads = open.filter_map(|(registry, queue)| Some((registry, *queue.waiting.first()?)));
        heads.min_by_key(|(_, rank)| *rank).map(|(registry, rank)| (Arc::clone(registry), rank))
    }

    /// Moves a pull from waiting to running.
    pub(super) fn start(&mut self, registry: &Arc<str>, rank: Rank) {
        let Some(queue) = self.queues.get_mut(registry) else { return };
        if queue.waiting.remove(&rank) {
            self.waiting -= 1;
            queue.running += 1;
            self.running += 1;
        }
    }

    /// Counts a running pull as ended.
    pub(super) fn finish(&mut self, registry: &Arc<str>) {
        if let Some(queue) = self.queues.get_mut(registry) {
            queue.running = queue.running.saturating_sub(1);
            self.running = self.running.saturating_sub(1);
        }
        self.drop_if_idle(registry);
    }

    fn drop_if_idle(&mut self, registry: &Arc<str>) {
        if self.queues.get(registry).is_some_and(|queue| queue.waiting.is_empty() && queue.running == 0) {
            self.queues.remove(registry);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const AGING: Duration = Duration::from_secs(10);

    fn schedule(in_all: usize, per_registry: usize, begin: Instant) -> Schedule {
        Schedule::new(PullLimits { in_all, per_registry }, AGING, begin)
    }

    /// Starts all pulls that may start; returns their numbers.
    fn start_all(schedule: &mut Schedule) -> Vec<u64> {
        let next = std::iter::from_fn(|| {
            let (registry, rank) = schedule.first()?;
            schedule.start(&registry, rank);
            Some(rank.pull)
        });
        next.collect()
    }

    #[test]
    fn higher_priorities_go_first_and_equals_in_the_order_asked() {
        let begin = Instant::now();
        let mut schedule = schedule(10, 10, begin);
        let registry: Arc<str> = "r.io".into();
        for (pull, priority) in [(1, 0), (2, 5), (3, 0), (4, -3), (5, 5)] {
            let rank = schedule.rank(begin, priority, pull);
            schedule.enqueue(&registry, rank);
        }
        assert_eq!(start_all(&mut schedule), [2, 5, 1, 3, 4]);
    }

    #[test]
    fn age_raises_a_pull_by_one_level_a_step() {
        let begin = Instant::now();
        let mut schedule = schedule(10, 10, begin);
        let registry: Arc<str> = "r.io".into();
        let later = begin + 3 * AGING;
        for (pull, asked_at, priority) in [(1, begin, 0), (2, later, 2), (3, later, 4)] {
            let rank = schedule.rank(asked_at, priority, pull);
            schedule.enqueue(&registry, rank);
        }
        assert_eq!(start_all(&mut schedule), [3, 1, 2]);
    }

    #[test]
    fn a_slow_registry_leaves_room_for_the_others() {
        let begin = Instant::now();
        let mut schedule = schedule(4, 2, begin);
        let (slow, other): (Arc<str>, Arc<str>) = ("slow.io".into(), "other.io".into());
        for pull in 0..8 {
            let registry = if pull < 5 { &slow } else { &other };
            let rank = schedule.rank(begin, 0, pull);
            schedule.enqueue(registry, rank);
        }
        assert_eq!(start_all(&mut schedule), [0, 1, 5, 6]);
        schedule.finish(&other);
        assert_eq!(start_all(&mut schedule), [7]);
    }

    /// A schedule, and the same state in plain lists.
    struct Model {
        schedule: Schedule,
        running: Vec<(u64, Arc<str>)>,
        waiting: HashMap<u64, (Instant, i8, Arc<str>)>,
    }

    impl Model {
        fn ask(&mut self, pull: u64, registry: u8, priority: i8, now: Instant) {
            let registry: Arc<str> = format!("r{registry}.io").into();
            let rank = self.schedule.rank(now, priority, pull);
            self.schedule.enqueue(&registry, rank);
            self.waiting.insert(pull, (now, priority, registry));
        }

        fn start_all(&mut self) {
            while let Some((registry, rank)) = self.schedule.first() {
                self.schedule.start(&registry, rank);
                let (asked_at, priority, registry) = self.waiting.remove(&rank.pull).unwrap();
                self.check_overtaken(asked_at, priority);
                self.running.push((rank.pull, registry));
                self.check_limits();
            }
        }

        /// A pull that could start instead came no earlier than its lower priority allows.
        fn check_overtaken(&self, asked_at: Instant, priority: i8) {
            for (waits_since, level, registry) in self.waiting.values() {
                let levels = u32::try_from(i32::from(priority) - i32::from(*level)).unwrap_or(0);
                let is_held = self.running_at(registry) >= self.schedule.limits.per_registry;
                assert!(is_held || asked_at <= *waits_since + AGING * levels);
            }
        }

        fn check_limits(&self) {
            assert!(self.running.len() <= self.schedule.limits.in_all);
            for (_, registry) in &self.running {
                assert!(self.running_at(registry) <= self.schedule.limits.per_registry);
            }
        }

        fn running_at(&self, registry: &Arc<str>) -> usize {
            self.running.iter().filter(|(_, other)| other == registry).count()
        }

        fn end_first(&mut self) {
            let (_, registry) = self.running.remove(0);
            self.schedule.finish(&registry);
        }
    }

    proptest! {
        /// For any requests, and any order of ends: the limits hold, no pull is overtaken by one that
        /// came later than its priority allows, and in the end all have run and nothing is left.
        #[test]
        fn limits_hold_and_nobody_starves(
            in_all in 1_usize..5,
            per_registry in 1_usize..5,
            asks in prop::collection::vec((0_u8..4, any::<i8>(), 0_u64..60, any::<bool>()), 1..80),
        ) {
            let mut now = Instant::now();
            let schedule = schedule(in_all, per_registry, now);
            let mut model = Model { schedule, running: Vec::new(), waiting: HashMap::new() };
            for (pull, (registry, priority, pause, one_ends)) in asks.into_iter().enumerate() {
                now += Duration::from_secs(pause);
                model.ask(pull as u64, registry, priority, now);
                model.start_all();
                if one_ends {
                    model.end_first();
                    model.start_all();
                }
            }
            while !model.running.is_empty() {
                model.end_first();
                model.start_all();
            }
            prop_assert!(model.waiting.is_empty());
            let schedule = &model.schedule;
            prop_assert_eq!((schedule.waiting(), schedule.running(), schedule.registries()), (0, 0, 0));
        }
    }
}
