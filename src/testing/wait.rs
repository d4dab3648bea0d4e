//! Waits that the server's end, or the client's, interrupts.

use std::io;
use std::net::TcpStream;
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

/// Why a wait ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Woken {
    /// The time is up.
    Elapsed,
    /// The gate was opened.
    Opened,
    /// The client closed its side.
    PeerGone,
    /// The server ends.
    Stopped,
}

/// Something that happens once, and that a `poll` can wait for: the other end of a socket pair is
/// dropped.
#[derive(Debug)]
pub(super) struct Signal {
    seen: UnixStream,
    kept: Mutex<Option<UnixStream>>,
}

impl Signal {
    pub(super) fn new() -> io::Result<Self> {
        let (seen, kept) = UnixStream::pair()?;
        Ok(Signal { seen, kept: Mutex::new(Some(kept)) })
    }

    pub(super) fn raise(&self) {
        self.kept.lock().take();
    }

    pub(super) fn is_raised(&self) -> bool {
        self.kept.lock().is_none()
    }

    /// Waits for `source` to become readable; false if this signal was raised first.
    pub(super) fn wait_readable(&self, source: &impl AsFd) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.seen, PollFlags::IN), PollFd::new(source, PollFlags::IN)];
        poll_until(&mut fds, None)?;
        Ok(!self.is_raised())
    }

    /// Waits for `timeout`; false if this signal was raised first.
    pub(super) fn sleep(&self, timeout: Duration) -> io::Result<bool> {
        let mut fds = [PollFd::new(&self.seen, PollFlags::IN)];
        poll_until(&mut fds, Some(timeout))?;
        Ok(!self.is_raised())
    }
}

/// Holds threads back until it is opened, once and for all.
#[derive(Debug, Default)]
pub(super) struct Gate(Mutex<GateState>);

#[derive(Debug, Default)]
enum GateState {
    /// The gate is closed, and no thread waits.
    #[default]
    Unused,
    Closed(Arc<Signal>),
    Open,
}

impl Gate {
    pub(super) fn open(&self) {
        if let GateState::Closed(signal) = std::mem::replace(&mut *self.0.lock(), GateState::Open) {
            signal.raise();
        }
    }

    /// What is raised when the gate opens; `None` if it is open.
    fn closed(&self) -> io::Result<Option<Arc<Signal>>> {
        let mut state = self.0.lock();
        if let GateState::Unused = *state {
            *state = GateState::Closed(Arc::new(Signal::new()?));
        }
        Ok(match &*state {
            GateState::Closed(signal) => Some(signal.clone()),
            _ => None,
        })
    }
}

/// The waits of one connection.
#[derive(Debug)]
pub(super) struct ConnectionWaits<'a> {
    pub(super) stop: &'a Signal,
    pub(super) peer: &'a TcpStream,
}

impl ConnectionWaits<'_> {
    pub(super) fn sleep(&self, delay: Duration) -> io::Result<Woken> {
        self.wait(None, Some(delay))
    }

    pub(super) fn hold(&self, gate: &Gate) -> io::Result<Woken> {
        match gate.closed()? {
            Some(opened) => self.wait(Some(&opened.seen), None),
            None => Ok(Woken::Opened),
        }
    }

    fn wait(&self, gate: Option<&UnixStream>, timeout: Option<Duration>) -> io::Result<Woken> {
        let mut fds = vec![PollFd::new(&self.stop.seen, PollFlags::IN), PollFd::new(self.peer, HUNG_UP)];
        fds.extend(gate.map(|gate| PollFd::new(gate, PollFlags::IN)));
        poll_until(&mut fds, timeout)?;
        let fired = |at: usize| fds.get(at).is_some_and(|fd| !fd.revents().is_empty());
        Ok(match () {
            () if fired(0) => Woken::Stopped,
            () if fired(1) => Woken::PeerGone,
            () if fired(2) => Woken::Opened,
            () => Woken::Elapsed,
        })
    }
}

/// Elsewhere a client that closed is noticed by the next write.
#[cfg(any(target_os = "linux", target_os = "android"))]
const HUNG_UP: PollFlags = PollFlags::RDHUP;
#[cfg(not(any(target_os = "linux", target_os = "android")))]
const HUNG_UP: PollFlags = PollFlags::empty();

fn poll_until(fds: &mut [PollFd<'_>], timeout: Option<Duration>) -> io::Result<()> {
    // A time too long for the kernel is as good as none.
    let timeout = timeout.and_then(|timeout| Timespec::try_from(timeout).ok());
    loop {
        match poll(fds, timeout.as_ref()) {
            Err(rustix::io::Errno::INTR) => continue,
            other => return other.map(drop).map_err(Into::into),
        }
    }
}
