//! Connects to a host with several addresses by "Happy Eyeballs"
//! ([RFC 8305](https://www.rfc-editor.org/rfc/rfc8305)): tries the next address when the previous one has failed, or
//! has not answered for 250 ms. Keeps the first connection, and closes the others.
//!
//! The sockets are non-blocking, so that one thread waits for all of them.

use std::collections::VecDeque;
use std::io;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketType, sockopt};

use super::exchange::HttpExchange;
use super::tcp::SHORTEST_WAIT;
use crate::error::{Error, ErrorKind};

/// The "Connection Attempt Delay" of RFC 8305.
const ATTEMPT_DELAY: Duration = Duration::from_millis(250);

/// TCP keep-alive: detects a vanished peer after 30 s and three probes 10 s apart.
const KEEP_ALIVE_IDLE: Duration = Duration::from_secs(30);
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(10);
const KEEP_ALIVE_PROBES: u32 = 3;

/// Connects to the first of `addresses` that answers within `limit`.
///
/// # Errors
/// `Timeout`, `ConnectionFailed`; `Cancelled` if the current exchange is cancelled.
pub(super) fn dial(addresses: &[SocketAddr], limit: Duration) -> Result<(Arc<TcpStream>, SocketAddr), Error> {
    let exchange = HttpExchange::current();
    let limit = exchange.as_ref().and_then(|exchange| exchange.within(Some(limit))).unwrap_or(limit);
    let mut race = Race::new(addresses);
    let (socket, address) = race.run(exchange.as_deref(), Instant::now().checked_add(limit))?;
    prepare(&socket).map_err(|error| failed(address, &error))?;
    Ok((socket, address))
}

/// The attempts of one connection.
struct Race {
    waiting: VecDeque<SocketAddr>,
    running: Vec<(Arc<TcpStream>, SocketAddr)>,
    /// When the next address is tried, unless an attempt fails before.
    next_attempt: Instant,
    failure: Option<(SocketAddr, io::Error)>,
}

impl Race {
    fn new(addresses: &[SocketAddr]) -> Self {
        let waiting = alternating(addresses);
        Race { waiting, running: Vec::new(), next_attempt: Instant::now(), failure: None }
    }

    fn run(
        &mut self,
        exchange: Option<&HttpExchange>,
        end: Option<Instant>,
    ) -> Result<(Arc<TcpStream>, SocketAddr), Error> {
        loop {
            if let Some(exchange) = exchange {
                exchange.cx().check()?;
            }
            if end.is_some_and(|end| Instant::now() >= end) {
                return Err(Error::new(ErrorKind::Timeout, "no connection was made in time"));
            }
            if let Some(connected) = self.start_next() {
                return Ok(connected);
            }
            if self.running.is_empty() {
                if self.waiting.is_empty() {
                    return Err(self.failure());
                }
                continue;
            }
            if let Some(connected) = self.wait(exchange, end)? {
                return Ok(connected);
            }
        }
    }

    /// Starts the next attempt if it is due. Returns a connection that was made at once.
    fn start_next(&mut self) -> Option<(Arc<TcpStream>, SocketAddr)> {
        if !self.running.is_empty() && Instant::now() < self.next_attempt {
            return None;
        }
        let address = self.waiting.pop_front()?;
        match start(address) {
            Ok((socket, true)) => return Some((socket, address)),
            Ok((socket, false)) => {
                self.running.push((socket, address));
                self.next_attempt = Instant::now() + ATTEMPT_DELAY;
            }
            Err(error) => self.note_failure(address, error),
        }
        None
    }

    /// Waits until an attempt ends, or the next one is due.
    fn wait(
        &mut self,
        exchange: Option<&HttpExchange>,
        end: Option<Instant>,
    ) -> Result<Option<(Arc<TcpStream>, SocketAddr)>, Error> {
        let next = (!self.waiting.is_empty()).then_some(self.next_attempt);
        let until = [next, end].into_iter().flatten().min();
        let sockets: Vec<_> = self.running.iter().map(|(socket, _)| Arc::clone(socket)).collect();
        let ready = match exchange {
            Some(exchange) => exchange.wait_on_all(&sockets, || wait_for_any(&sockets, until)),
            None => wait_for_any(&sockets, until),
        };
        for index in ready.map_err(super::error::of_io)?.into_iter().rev() {
            let (socket, address) = self.running.swap_remove(index);
            match sockopt::socket_error(&socket) {
                Ok(Ok(())) => return Ok(Some((socket, address))),
                Ok(Err(error)) | Err(error) => self.note_failure(address, error.into()),
            }
        }
        Ok(None)
    }

    /// Keeps the most useful failure: a missing route to an address family says nothing about the host.
    fn note_failure(&mut self, address: SocketAddr, error: io::Error) {
        self.next_attempt = Instant::now();
        let is_no_route = |error: &io::Error| {
            use io::ErrorKind::{AddrNotAvailable, HostUnreachable, NetworkUnreachable, Unsupported};
            matches!(error.kind(), AddrNotAvailable | HostUnreachable | NetworkUnreachable | Unsupported)
        };
        if self.failure.as_ref().is_none_or(|(_, before)| is_no_route(before) || !is_no_route(&error)) {
            self.failure = Some((address, error));
        }
    }

    fn failure(&mut self) -> Error {
        match self.failure.take() {
            Some((address, error)) => failed(address, &error),
            None => Error::new(ErrorKind::HostNotFound, "the name has no address"),
        }
    }
}

fn failed(address: SocketAddr, error: &io::Error) -> Error {
    Error::new(ErrorKind::ConnectionFailed, format!("{address}: {error}"))
}

/// Returns the addresses in their order, with the families in turn, beginning with that of the first.
fn alternating(addresses: &[SocketAddr]) -> VecDeque<SocketAddr> {
    let Some(first) = addresses.first() else { return VecDeque::new() };
    let (preferred, others): (Vec<SocketAddr>, Vec<SocketAddr>) =
        addresses.iter().copied().partition(|address| address.is_ipv4() == first.is_ipv4());
    let (mut preferred, mut others) = (preferred.into_iter(), others.into_iter());
    let mut ordered = VecDeque::with_capacity(addresses.len());
    while ordered.len() < addresses.len() {
        ordered.extend(preferred.next());
        ordered.extend(others.next());
    }
    ordered
}

/// Starts to connect, and returns whether the connection is made already.
fn start(address: SocketAddr) -> io::Result<(Arc<TcpStream>, bool)> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let socket = Arc::new(TcpStream::from(open(family)?));
    match rustix::net::connect(&socket, &address) {
        Ok(()) => Ok((socket, true)),
        Err(Errno::INPROGRESS) => Ok((socket, false)),
        Err(error) => Err(error.into()),
    }
}

/// Opens a non-blocking socket that no child process inherits.
#[cfg(not(target_vendor = "apple"))]
fn open(family: AddressFamily) -> rustix::io::Result<OwnedFd> {
    use rustix::net::{SocketFlags, socket_with};

    socket_with(family, SocketType::STREAM, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC, None)
}

/// Opens a non-blocking socket that no child process inherits. Apple's systems have no flags for it.
#[cfg(target_vendor = "apple")]
fn open(family: AddressFamily) -> rustix::io::Result<OwnedFd> {
    let socket = rustix::net::socket(family, SocketType::STREAM, None)?;
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
    rustix::io::ioctl_fionbio(&socket, true)?;
    Ok(socket)
}

/// Returns the indexes of the sockets that are connected or have failed; none when `until` comes first.
fn wait_for_any(sockets: &[Arc<TcpStream>], until: Option<Instant>) -> io::Result<Vec<usize>> {
    let mut watched: Vec<_> = sockets.iter().map(|socket| PollFd::new(socket, PollFlags::OUT)).collect();
    loop {
        let left = until.map(|until| until.saturating_duration_since(Instant::now()).max(SHORTEST_WAIT));
        let timeout = left.map(Timespec::try_from).transpose().map_err(io::Error::other)?;
        match poll(&mut watched, timeout.as_ref()) {
            Ok(_) => {
                let is_ready =
                    |(index, fd): (usize, &PollFd<'_>)| (!fd.revents().is_empty()).then_some(index);
                return Ok(watched.iter().enumerate().filter_map(is_ready).collect());
            }
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Makes a connected socket blocking, without delay (Nagle), and with keep-alive.
fn prepare(socket: &TcpStream) -> io::Result<()> {
    socket.set_nonblocking(false)?;
    socket.set_nodelay(true)?;
    sockopt::set_socket_keepalive(socket, true)?;
    sockopt::set_tcp_keepidle(socket, KEEP_ALIVE_IDLE)?;
    sockopt::set_tcp_keepintvl(socket, KEEP_ALIVE_INTERVAL)?;
    sockopt::set_tcp_keepcnt(socket, KEEP_ALIVE_PROBES)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use super::*;

    fn addresses(texts: &[&str]) -> Vec<SocketAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn the_families_take_turns_and_keep_their_order() {
        for (given, expected) in [
            (&[][..], &[][..]),
            (&["10.0.0.1:1", "10.0.0.2:1"], &["10.0.0.1:1", "10.0.0.2:1"]),
            (
                &["[::1]:1", "[::2]:1", "[::3]:1", "10.0.0.1:1", "10.0.0.2:1"],
                &["[::1]:1", "10.0.0.1:1", "[::2]:1", "10.0.0.2:1", "[::3]:1"],
            ),
            (&["10.0.0.1:1", "[::1]:1", "[::2]:1"], &["10.0.0.1:1", "[::1]:1", "[::2]:1"]),
        ] {
            assert_eq!(alternating(&addresses(given)), addresses(expected), "{given:?}");
        }
    }

    /// A listener whose queue is full: a connection to it is neither made nor refused.
    fn silent() -> (TcpListener, Vec<TcpStream>) {
        let listener = TcpListener::from(open(AddressFamily::INET).unwrap());
        rustix::net::bind(&listener, &"127.0.0.1:0".parse::<SocketAddr>().unwrap()).unwrap();
        rustix::net::listen(&listener, 0).unwrap();
        let address = listener.local_addr().unwrap();
        let taken =
            std::iter::from_fn(|| TcpStream::connect_timeout(&address, Duration::from_millis(200)).ok());
        let taken = taken.take(8).collect();
        (listener, taken)
    }

    #[test]
    fn an_address_that_does_not_answer_costs_a_moment_and_one_that_refuses_costs_nothing() {
        let (dead, _taken) = silent();
        let alive = TcpListener::bind("127.0.0.1:0").unwrap();
        let refusing = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let (dead, alive) = (dead.local_addr().unwrap(), alive.local_addr().unwrap());
        let limit = Duration::from_secs(60);
        for (tried, least) in [
            (vec![alive], Duration::ZERO),
            (vec![refusing, refusing, alive], Duration::ZERO),
            (vec![dead, alive], ATTEMPT_DELAY),
            (vec![dead, refusing, dead, alive], ATTEMPT_DELAY * 2),
        ] {
            let began = Instant::now();
            let (_, connected) = dial(&tried, limit).unwrap();
            assert_eq!(connected, alive);
            let took = began.elapsed();
            assert!(took >= least && took < least + Duration::from_secs(10), "{tried:?}: {took:?}");
        }
    }

    #[test]
    fn all_attempts_together_end_within_the_limit() {
        let (dead, _taken) = silent();
        let dead = dead.local_addr().unwrap();
        let error = dial(&[dead; 3], Duration::from_millis(400)).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    }

    #[test]
    fn the_failure_of_the_host_is_told_and_not_that_a_family_is_missing() {
        let refusing = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let unreachable = "[2001:db8::1]:1".parse().unwrap();
        for order in [[refusing, unreachable], [unreachable, refusing]] {
            let error = dial(&order, Duration::from_secs(20)).unwrap_err();
            if error.kind() == ErrorKind::ConnectionFailed {
                assert!(error.to_string().contains("refused"), "{error}");
            }
        }
    }
}
