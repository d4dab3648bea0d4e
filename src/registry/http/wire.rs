//! Sockets for ureq that a cancel and a deadline interrupt.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::net::{AddressFamily, RecvFlags, SocketFlags, SocketType, recv, socket_with, sockopt};
use ureq::unversioned::transport::{Buffers, ConnectionDetails, Connector, Either, NextTimeout, Transport};

use super::room::Room;
use super::tie::Tie;

/// A socket cannot be told to wait for no time at all.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// Connects to the first address that answers, unless a proxy did already.
#[derive(Debug)]
pub(super) struct TcpWire;

impl<In: Transport> Connector<In> for TcpWire {
    type Out = Either<In, Wire>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> Result<Option<Self::Out>, ureq::Error> {
        if let Some(through_proxy) = chained {
            return Ok(Some(Either::A(through_proxy)));
        }
        let socket = connect_to_any(&details.addrs, *details.timeout.after)?;
        let buffers = Room::of(details.config.input_buffer_size());
        Ok(Some(Either::B(Wire { socket, buffers, read_timeout: None, write_timeout: None })))
    }
}

/// Tries the addresses one after the other. Each may take its share of the time that is left.
fn connect_to_any(addresses: &[SocketAddr], limit: Duration) -> Result<Arc<TcpStream>, ureq::Error> {
    let tie = Tie::current();
    let limit = tie.as_ref().and_then(|tie| tie.within(Some(limit))).unwrap_or(limit);
    let end = Instant::now().checked_add(limit);
    let mut failed = io::Error::new(io::ErrorKind::NotFound, "the host has no address");
    for (tried, address) in (0_u32..).zip(addresses) {
        let left = end.map_or(limit, |end| end.saturating_duration_since(Instant::now()));
        let others = u32::try_from(addresses.len()).unwrap_or(u32::MAX).saturating_sub(tried).max(1);
        match connect(*address, left / others, tie.as_deref()) {
            Ok(socket) => return Ok(socket),
            Err(error) => failed = error,
        }
        if let Some(tie) = &tie {
            tie.cx().check().map_err(io::Error::other)?;
        }
    }
    if failed.kind() == io::ErrorKind::TimedOut {
        return Err(ureq::Error::Timeout(ureq::Timeout::Connect));
    }
    Err(failed.into())
}

/// Connects without blocking, and waits where a cancel can interrupt: a shutdown wakes who waits for a
/// connection, too.
fn connect(address: SocketAddr, limit: Duration, tie: Option<&Tie>) -> io::Result<Arc<TcpStream>> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = Arc::new(TcpStream::from(socket_with(family, SocketType::STREAM, flags, None)?));
    let wait = || {
        match rustix::net::connect(&socket, &address) {
            Ok(()) => {}
            Err(rustix::io::Errno::INPROGRESS) => wait_for_connection(&socket, limit)?,
            Err(error) => return Err(error.into()),
        }
        Ok(())
    };
    match tie {
        Some(tie) => tie.wait_on(&socket, wait)?,
        None => wait()?,
    }
    socket.set_nonblocking(false)?;
    socket.set_nodelay(true)?;
    Ok(socket)
}

fn wait_for_connection(socket: &TcpStream, limit: Duration) -> io::Result<()> {
    let end = Instant::now() + limit.max(SHORTEST_WAIT);
    loop {
        let left = end.saturating_duration_since(Instant::now());
        let timeout = Timespec::try_from(left).map_err(io::Error::other)?;
        match poll(&mut [PollFd::new(socket, PollFlags::OUT)], Some(&timeout)) {
            Ok(0) => return Err(io::ErrorKind::TimedOut.into()),
            Ok(_) => return sockopt::socket_error(socket)?.map_err(Into::into),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// A connection that is tied, at each read and write, to the pull that uses it at the moment.
pub(super) struct Wire {
    socket: Arc<TcpStream>,
    buffers: Room,
    /// What the socket was last told, so that it is told only what is new.
    read_timeout: Option<Duration>,
    write_timeout: Option<Duration>,
}

impl Transport for Wire {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> Result<(), ureq::Error> {
        let tie = Tie::current();
        let timeout = timeout.for_write();
        let limit = limit_of(tie.as_deref(), &timeout);
        if limit != self.write_timeout {
            self.socket.set_write_timeout(limit)?;
            self.write_timeout = limit;
        }
        let output = self.buffers.output().get(..amount).unwrap_or_default();
        let socket = &self.socket;
        wait(tie.as_deref(), socket, &timeout, || (&**socket).write_all(output))
    }

    fn await_input(&mut self, timeout: NextTimeout) -> Result<bool, ureq::Error> {
        let tie = Tie::current();
        let timeout = timeout.for_read();
        let limit = limit_of(tie.as_deref(), &timeout);
        if limit != self.read_timeout {
            self.socket.set_read_timeout(limit)?;
            self.read_timeout = limit;
        }
        let input = self.buffers.input_append_buf();
        let socket = &self.socket;
        let read = wait(tie.as_deref(), socket, &timeout, || read_uninterrupted(socket, input))?;
        self.buffers.input_appended(read);
        Ok(read > 0)
    }

    /// An idle connection has nothing to say: bytes, or an end, make it useless.
    fn is_open(&mut self) -> bool {
        let mut byte = [0_u8; 1];
        let probe = recv(&self.socket, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT);
        matches!(probe, Err(rustix::io::Errno::AGAIN))
    }
}

/// What ureq allows, or what is left of the pull's time. Coarse, lest a deadline that comes nearer
/// means a system call for each read.
fn limit_of(tie: Option<&Tie>, timeout: &NextTimeout) -> Option<Duration> {
    const GRAIN: u128 = 50;
    let allowed = timeout.not_zero().map(|allowed| *allowed);
    let limit = tie.map_or(allowed, |tie| tie.within(allowed))?;
    let grains = limit.as_millis().div_ceil(GRAIN).max(1);
    let whole = Duration::from_millis(u64::try_from(grains * GRAIN).unwrap_or(u64::MAX));
    Some(if limit < Duration::from_secs(1) { limit.max(SHORTEST_WAIT) } else { whole })
}

fn wait<T>(
    tie: Option<&Tie>,
    socket: &Arc<TcpStream>,
    timeout: &NextTimeout,
    operation: impl FnOnce() -> io::Result<T>,
) -> Result<T, ureq::Error> {
    let done = match tie {
        Some(tie) => tie.wait_on(socket, operation),
        None => operation(),
    };
    done.map_err(|error| match error.kind() {
        io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut => ureq::Error::Timeout(timeout.reason),
        _ => error.into(),
    })
}

/// Linux does not restart a read that has a time limit, so a signal must not end it.
fn read_uninterrupted(socket: &TcpStream, buffer: &mut [u8]) -> io::Result<usize> {
    let mut socket = socket;
    loop {
        match socket.read(buffer) {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

impl fmt::Debug for Wire {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wire").field("peer", &self.socket.peer_addr().ok()).finish()
    }
}
