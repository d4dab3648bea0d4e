//! Runs work again after each period until it is stopped, as Kubernetes' `wait.Until` does.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, TryRecvError, select};

use crate::clock::{Clock, SystemClock};

/// Runs `work`, and again `period` after it ended, until `stop` carries a message or is
/// disconnected.
///
/// The period counts from the end of `work`, whether it returned or panicked (a panic is logged), and
/// does not grow. The wait ends at once when stopped; work that runs is not interrupted. If `stop` is
/// ready already, `work` does not run at all.
///
/// ```
/// use std::time::Duration;
///
/// let (stop, stopped) = crossbeam_channel::bounded::<()>(1);
/// let mut rounds = 0;
/// oci_puller::puller::until(&stopped, Duration::from_millis(1), || {
///     rounds += 1;
///     if rounds == 3 {
///         stop.send(()).unwrap();
///     }
///     panic!("it goes on after a panic");
/// });
/// assert_eq!(rounds, 3);
/// ```
pub fn until<T>(stop: &Receiver<T>, period: Duration, work: impl FnMut()) {
    until_by(&SystemClock, stop, period, work);
}

/// [`until`], by a clock of the caller's.
pub fn until_by<T>(clock: &dyn Clock, stop: &Receiver<T>, period: Duration, mut work: impl FnMut()) {
    while matches!(stop.try_recv(), Err(TryRecvError::Empty)) {
        if catch_unwind(AssertUnwindSafe(&mut work)).is_err() {
            log::error!("work that is run every {period:?} panicked; it is run again after that time");
        }
        select! {
            recv(stop) -> _ => return,
            recv(period_by(clock, period)) -> _ => {}
        }
    }
}

/// Fires after the period by the caller's clock; by the machine's, should that one panic.
fn period_by(clock: &dyn Clock, period: Duration) -> Receiver<Instant> {
    catch_unwind(AssertUnwindSafe(|| clock.after(period))).unwrap_or_else(|_| SystemClock.after(period))
}
