//! Reads and writes that the end of a context interrupts.

use std::fmt;
use std::io::{self, Read, Write};
use std::os::fd::AsFd;
use std::os::unix::net::UnixStream;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{FileType, fstat};
use rustix::io::Errno;

use crate::context::{CancelHook, PullContext};

/// How much a pipe that is ready takes without blocking, bytes: `PIPE_BUF` of Linux.
const PIPE_BUF: usize = 4096;

/// A file, pipe or socket whose reads and writes end with a context: also those of a pipe at whose other
/// end nothing happens. They fail with [`io::ErrorKind::Other`] then.
///
/// It waits with `poll`, without a thread. Nothing else should read from or write to the same pipe.
pub struct Cancellable<F> {
    file: F,
    cx: PullContext,
    /// Becomes readable when the context is cancelled.
    cancelled: Option<UnixStream>,
    _hook: Option<CancelHook>,
    /// How much is written at once.
    most: usize,
}

impl<F: AsFd> Cancellable<F> {
    /// Wraps `file`; its reads and writes end with `cx`.
    ///
    /// # Errors
    /// What the system says, if there is no file descriptor left.
    pub fn new(cx: &PullContext, file: F) -> io::Result<Self> {
        let most = match FileType::from_raw_mode(fstat(&file)?.st_mode) {
            FileType::RegularFile => usize::MAX,
            _ => PIPE_BUF,
        };
        let (mut cancelled, mut hook) = (None, None);
        if let Some(token) = cx.cancel_token() {
            let (reader, writer) = UnixStream::pair()?;
            hook = Some(token.on_cancel(move || drop(writer)));
            cancelled = Some(reader);
        }
        Ok(Cancellable { file, cx: cx.clone(), cancelled, _hook: hook, most })
    }

    /// Waits until the file is ready, or the context ends.
    fn wait(&self, ready: PollFlags) -> io::Result<()> {
        loop {
            self.cx.check().map_err(io::Error::other)?;
            let mut polled = vec![PollFd::new(&self.file, ready)];
            polled.extend(self.cancelled.as_ref().map(|cancelled| PollFd::new(cancelled, PollFlags::IN)));
            let timeout = self.cx.remaining().and_then(|left| Timespec::try_from(left).ok());
            match poll(&mut polled, timeout.as_ref()) {
                Err(Errno::INTR) => {}
                Err(error) => return Err(error.into()),
                Ok(_) if polled.first().is_some_and(|file| !file.revents().is_empty()) => {
                    return self.cx.check().map_err(io::Error::other);
                }
                Ok(_) => {}
            }
        }
    }
}

impl<F: AsFd + Read> Read for Cancellable<F> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        loop {
            self.wait(PollFlags::IN)?;
            match self.file.read(buffer) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return outcome,
            }
        }
    }
}

impl<F: AsFd + Write> Write for Cancellable<F> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let part = bytes.get(..self.most.min(bytes.len())).unwrap_or_default();
        loop {
            self.wait(PollFlags::OUT)?;
            match self.file.write(part) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                outcome => return outcome,
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl<F> fmt::Debug for Cancellable<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Cancellable").field("cx", &self.cx).finish_non_exhaustive()
    }
}
