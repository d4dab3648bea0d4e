//! What HTTP goes over: a socket, or TLS on top of another stream.

use std::fmt;
use std::io::{Read, Write};
use std::time::Duration;

/// A connection's byte stream in both directions.
pub(super) trait ByteStream: Read + Write + fmt::Debug + Send + Sync {
    /// Limits all that is read and written until the next call together; `None` leaves only the pull's
    /// deadline. TLS may read several records, and write some, before a read has something to return.
    fn set_limit(&mut self, limit: Option<Duration>);

    /// Tells whether an idle connection can serve another exchange: it is open, and nothing waits to be
    /// read.
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
