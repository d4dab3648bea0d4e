//! A TCP socket whose reads and writes end with a cancel or a deadline.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::net::sockopt::set_socket_recv_buffer_size;
use rustix::net::{RecvFlags, recv};

use super::exchange::HttpExchange;
use super::stream::ByteStream;

/// The shortest timeout of a socket, which cannot be zero.
pub(super) const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// A connected socket. Each read and write belongs to the current exchange of the thread.
pub(super) struct TcpSocket {
    socket: Arc<TcpStream>,
    /// The deadline of reads and writes.
    until: Option<Instant>,
    /// The timeouts that are set, so that only changes cost a system call.
    read_timeout: Option<Duration>,
    write_timeout: Option<Duration>,
    /// Set by the bandwidth limit; the system no longer chooses it then.
    receive_buffer: Option<usize>,
}

impl TcpSocket {
    /// Wraps a blocking socket without timeouts.
    pub(super) fn new(socket: Arc<TcpStream>) -> Self {
        TcpSocket { socket, until: None, read_timeout: None, write_timeout: None, receive_buffer: None }
    }

    /// Returns the timeout of a read or write. It is coarse, so that an approaching deadline does not cost a system call
    /// for each read.
    ///
    /// # Errors
    /// `TimedOut` if there is no time left.
    fn timeout(&self, exchange: Option<&HttpExchange>) -> io::Result<Option<Duration>> {
        const GRAIN: u128 = 50;
        let left = self.until.map(|until| until.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        let Some(left) = exchange.map_or(left, |exchange| exchange.within(left)) else { return Ok(None) };
        if left < Duration::from_secs(1) {
            return Ok(Some(left.max(SHORTEST_WAIT)));
        }
        let grains = left.as_millis().div_ceil(GRAIN);
        Ok(Some(Duration::from_millis(u64::try_from(grains * GRAIN).unwrap_or(u64::MAX))))
    }

    /// Sets the receive buffer to what the bandwidth limit wants.
    fn fit_receive_buffer(&mut self, exchange: Option<&HttpExchange>) {
        let Some(pace) = exchange.map(|exchange| &exchange.pace) else { return };
        if !pace.is_limited() && self.receive_buffer.is_none() {
            return;
        }
        let size = pace.receive_buffer();
        if self.receive_buffer != Some(size) {
            // An error means that the buffer stays as it is.
            let _ = set_socket_recv_buffer_size(&*self.socket, size);
            self.receive_buffer = Some(size);
        }
    }

    fn wait<T>(
        &self,
        exchange: Option<&HttpExchange>,
        operation: impl FnOnce() -> io::Result<T>,
    ) -> io::Result<T> {
        match exchange {
            Some(exchange) => exchange.wait_on(&self.socket, operation),
            None => operation(),
        }
    }
}

impl Read for TcpSocket {
    /// Reads again after a signal: Linux does not restart a read with a timeout.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let exchange = HttpExchange::current();
        let timeout = self.timeout(exchange.as_deref())?;
        if timeout != self.read_timeout {
            self.socket.set_read_timeout(timeout)?;
            self.read_timeout = timeout;
        }
        self.fit_receive_buffer(exchange.as_deref());
        self.wait(exchange.as_deref(), || uninterrupted(|| (&*self.socket).read(buffer)))
    }
}

impl Write for TcpSocket {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let exchange = HttpExchange::current();
        let timeout = self.timeout(exchange.as_deref())?;
        if timeout != self.write_timeout {
            self.socket.set_write_timeout(timeout)?;
            self.write_timeout = timeout;
        }
        let written = self.wait(exchange.as_deref(), || uninterrupted(|| (&*self.socket).write(bytes)))?;
        if let Some(exchange) = exchange {
            exchange.note_sent(written);
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl ByteStream for TcpSocket {
    fn set_limit(&mut self, limit: Option<Duration>) {
        self.until = limit.and_then(|limit| Instant::now().checked_add(limit));
    }

    fn is_idle(&mut self) -> bool {
        // Without a limit, a new connection is faster: the system chooses its buffer.
        let is_limited = || HttpExchange::current().is_none_or(|exchange| exchange.pace.is_limited());
        if self.receive_buffer.is_some() && !is_limited() {
            return false;
        }
        let mut byte = [0_u8; 1];
        let probe = recv(&self.socket, &mut byte, RecvFlags::PEEK | RecvFlags::DONTWAIT);
        matches!(probe, Err(rustix::io::Errno::AGAIN))
    }
}

fn uninterrupted<T>(mut operation: impl FnMut() -> io::Result<T>) -> io::Result<T> {
    loop {
        match operation() {
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            done => return done,
        }
    }
}

impl fmt::Debug for TcpSocket {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("TcpSocket").field("peer", &self.socket.peer_addr().ok()).finish()
    }
}
