//! Connections of the registry: plain TCP, or those of an acceptor.

use std::fmt;
use std::io::{self, Read, Write};
use std::net::TcpStream;

/// A connection that was accepted: a byte stream both ways.
pub trait Connection: Read + Write + Send {}

impl<T: Read + Write + Send> Connection for T {}

/// Turns an accepted socket into a connection. The default is the socket itself; one that does the
/// TLS handshake makes the registry an HTTPS one.
pub trait Acceptor: Send + Sync + fmt::Debug {
    /// Runs on the connection's own thread and may block: the socket is shut down when the registry
    /// ends.
    ///
    /// # Errors
    /// Whatever the handshake fails with; the socket is then closed.
    fn accept(&self, stream: TcpStream) -> io::Result<Box<dyn Connection>>;

    /// The scheme of the registry's URL. Default: `http`.
    fn scheme(&self) -> &'static str {
        "http"
    }
}

/// Plain TCP.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Plain;

impl Acceptor for Plain {
    fn accept(&self, stream: TcpStream) -> io::Result<Box<dyn Connection>> {
        Ok(Box::new(stream))
    }
}
