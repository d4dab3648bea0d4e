//! The stream below HTTP: a socket, or TLS over another stream.

use std::fmt;
use std::io::{Read, Write};
use std::time::Duration;

/// A connection's byte stream in both directions.
pub(super) trait ByteStream: Read + Write + fmt::Debug + Send + Sync {
    /// Limits the total time of reads and writes until the next call; `None` leaves only the pull's deadline. TLS may
    /// read and write several records before a read returns.
    fn set_limit(&mut self, limit: Option<Duration>);

    /// Returns whether an idle connection can serve another exchange: it is open, and has no bytes to read.
    fn is_idle(&mut self) -> bool;
}

impl ByteStream for Box<dyn ByteStream> {
    fn set_limit(&mut self, limit: Option<Duration>) {
        (**self).set_limit(limit);
    }

    fn is_idle(&mut self) -> bool {
        (**self).is_idle()
    }
}
