//! One call over a connection of its own: I/O, deadlines, cancellation.

use std::io::{self, Read, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::{Duration, Instant};

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketType, connect};
use zeroize::Zeroizing;

use super::http2::{Http2Error, Http2Exchange, Http2Response};
use crate::context::PullContext;
use crate::error::{Error, ErrorKind};

/// Bytes of the read buffer.
const READ: usize = 16 << 10;
/// The time between attempts to connect to a runtime whose backlog is full. No event tells when there is room, and a
/// cancel does not end a blocked `connect`.
const BACKLOG_SLICE: Duration = Duration::from_millis(50);

/// The limits on a call's time besides its context.
#[derive(Clone, Copy, Debug)]
pub(super) struct CallLimits {
    pub(super) connect: Duration,
    /// From the connection to the end of the response; `None` for a pull, which only the context limits.
    pub(super) call: Option<Duration>,
}

/// Connects to the socket at `path`, runs the exchange and returns the response.
///
/// A cancel shuts the socket down, which ends a blocked read or write. Deadlines are timeouts of the socket.
pub(super) fn call(
    path: &Path,
    cx: &PullContext,
    limits: CallLimits,
    exchange: Http2Exchange,
) -> Result<Http2Response, Error> {
    let stream = open(path, cx, limits.connect)?;
    let for_cancel = stream.try_clone().map_err(|error| failed(cx, &error))?;
    let _hook = cx.cancel_token().map(|token| {
        token.on_cancel(move || {
            // Fails only where the peer has closed the socket already.
            let _ = for_cancel.shutdown(Shutdown::Both);
        })
    });
    let mut connection = CallConnection { stream, cx, end: CallEnd::new(cx, limits.call) };
    connection.run(exchange)
}

struct CallConnection<'a> {
    stream: UnixStream,
    cx: &'a PullContext,
    end: CallEnd,
}

impl CallConnection<'_> {
    fn run(&mut self, mut exchange: Http2Exchange) -> Result<Http2Response, Error> {
        let mut buffer = Zeroizing::new(vec![0; READ]);
        loop {
            let output = exchange.take_output();
            if !output.is_empty() {
                self.write(&output)?;
            }
            let count = self.read(&mut buffer)?;
            if count == 0 {
                self.cx.check()?;
                return Err(Error::new(ErrorKind::ConnectionFailed, "the runtime closed the connection"));
            }
            exchange.receive(buffer.get(..count).unwrap_or_default()).map_err(broken)?;
            if exchange.is_done() {
                let incomplete = || Error::new(ErrorKind::Protocol, "the answer has no headers");
                return exchange.into_response().ok_or_else(incomplete);
            }
        }
    }

    fn write(&mut self, mut bytes: &[u8]) -> Result<(), Error> {
        while !bytes.is_empty() {
            let left = self.end.remaining(self.cx)?;
            self.stream.set_write_timeout(left).map_err(|error| failed(self.cx, &error))?;
            match self.stream.write(bytes) {
                Ok(count) => bytes = bytes.get(count..).unwrap_or_default(),
                // The peer may have answered before it closed: the read decides.
                Err(error) if error.kind() == io::ErrorKind::BrokenPipe => return Ok(()),
                Err(error) if is_passing(&error) => {}
                Err(error) => return Err(failed(self.cx, &error)),
            }
        }
        Ok(())
    }

    fn read(&mut self, buffer: &mut [u8]) -> Result<usize, Error> {
        loop {
            let left = self.end.remaining(self.cx)?;
            self.stream.set_read_timeout(left).map_err(|error| failed(self.cx, &error))?;
            match self.stream.read(buffer) {
                Err(error) if is_passing(&error) => {}
                read => return read.map_err(|error| failed(self.cx, &error)),
            }
        }
    }
}

/// The end of a call's time, and the limit that set it.
#[derive(Clone, Copy)]
struct CallEnd {
    at: Option<Instant>,
    limit: Option<Duration>,
}

impl CallEnd {
    fn new(cx: &PullContext, limit: Option<Duration>) -> Self {
        let own = limit.and_then(|limit| Instant::now().checked_add(limit));
        CallEnd { at: own.into_iter().chain(cx.deadline()).min(), limit }
    }

    /// Returns the time left, which is more than zero; `None` without a limit.
    fn remaining(&self, cx: &PullContext) -> Result<Option<Duration>, Error> {
        cx.check()?;
        let Some(at) = self.at else { return Ok(None) };
        let left = at.saturating_duration_since(Instant::now());
        if left.is_zero() {
            let limit = self.limit.unwrap_or_default();
            let text = format!("the runtime did not answer within {} s", limit.as_secs_f32());
            return Err(Error::new(ErrorKind::Timeout, text));
        }
        Ok(Some(left))
    }
}

/// Reports whether the call can be made again.
fn is_passing(error: &io::Error) -> bool {
    use io::ErrorKind::{Interrupted, TimedOut, WouldBlock};
    matches!(error.kind(), Interrupted | TimedOut | WouldBlock)
}

/// Returns the end of the context, which shuts the socket down, or the error of the socket.
fn failed(cx: &PullContext, error: &io::Error) -> Error {
    cx.check().err().unwrap_or_else(|| Error::new(ErrorKind::ConnectionFailed, error.to_string()))
}

/// Returns the error for a broken exchange. A peer that speaks another protocol will do so next time, too.
fn broken(error: Http2Error) -> Error {
    let is_refusal = error.is_refusal();
    let kind = if is_refusal { ErrorKind::Unavailable } else { ErrorKind::Protocol };
    Error::new(kind, error.to_string()).with_retryable(is_refusal)
}

/// Connects, and tries again while the backlog is full.
fn open(path: &Path, cx: &PullContext, limit: Duration) -> Result<UnixStream, Error> {
    let invalid = |error: io::Error| Error::new(ErrorKind::InvalidConfig, error.to_string());
    let address = SocketAddrUnix::new(path).map_err(|error| invalid(error.into()))?;
    let end = CallEnd::new(cx, Some(limit));
    loop {
        let left = end.remaining(cx)?.unwrap_or(limit).min(BACKLOG_SLICE);
        match open_once(&address, left) {
            Ok(stream) => return Ok(stream),
            Err(error) if is_passing(&error) => {}
            Err(error) => return Err(refused(&error)),
        }
    }
}

/// Connects; waits at most `limit` while the backlog is full.
fn open_once(address: &SocketAddrUnix, limit: Duration) -> io::Result<UnixStream> {
    let socket = open_socket()?;
    set_socket_timeout(&socket, Timeout::Send, Some(limit))?;
    connect(&socket, address)?;
    Ok(UnixStream::from(socket))
}

/// Opens a socket that no child process inherits.
#[cfg(not(target_vendor = "apple"))]
fn open_socket() -> rustix::io::Result<OwnedFd> {
    use rustix::net::{SocketFlags, socket_with};

    socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)
}

/// Opens a socket that no child process inherits. Apple's systems have no flag for it.
#[cfg(target_vendor = "apple")]
fn open_socket() -> rustix::io::Result<OwnedFd> {
    let socket = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None)?;
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::CLOEXEC)?;
    Ok(socket)
}

/// Returns the error for a connection that the kernel refused.
fn refused(error: &io::Error) -> Error {
    match error.kind() {
        io::ErrorKind::PermissionDenied => {
            Error::new(ErrorKind::Denied, "this user has no permission to use the socket")
                .with_retryable(false)
        }
        io::ErrorKind::NotFound => Error::new(ErrorKind::ConnectionFailed, "the socket does not exist")
            .with_advice("check the path of the socket, and that the container runtime runs"),
        _ => Error::new(ErrorKind::ConnectionFailed, error.to_string()),
    }
}
