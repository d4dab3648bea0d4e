//! A clock that a test moves.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use oci_puller::clock::Clock;

pub struct ManualClock {
    /// Each wait that began, by its length.
    pub waits: Receiver<Duration>,
    began: Sender<Duration>,
    state: Mutex<State>,
}

struct State {
    now: Instant,
    alarms: Vec<(Instant, Sender<Instant>)>,
}

impl ManualClock {
    pub fn new() -> Self {
        let (began, waits) = unbounded();
        ManualClock { waits, began, state: Mutex::new(State { now: Instant::now(), alarms: Vec::new() }) }
    }

    /// Lets time pass.
    pub fn advance(&self, by: Duration) {
        let mut state = self.state.lock().unwrap();
        state.now += by;
        let now = state.now;
        state.alarms.retain(|(at, alarm)| {
            if *at <= now {
                let _ = alarm.try_send(now);
            }
            *at > now
        });
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        self.state.lock().unwrap().now
    }

    fn after(&self, delay: Duration) -> Receiver<Instant> {
        let (alarm, rings) = bounded(1);
        let mut state = self.state.lock().unwrap();
        let at = state.now + delay;
        state.alarms.push((at, alarm));
        self.began.send(delay).unwrap();
        rings
    }
}
