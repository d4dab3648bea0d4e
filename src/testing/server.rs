//! Accepts connections, a bounded number at once, each on a thread of its own; ends at once.

use std::collections::HashMap;
use std::io;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::Duration;

use crossbeam_channel::bounded;
use parking_lot::Mutex;

use super::wait::Signal;

/// Enough for a TLS handshake and a caller's own predicates.
const STACK_SIZE: usize = 512 * 1024;

/// What is between two tries to accept when the process has no file left: that gives no event.
const ACCEPT_AGAIN: Duration = Duration::from_millis(50);

/// Serves one connection, from its first byte to its last.
pub(super) trait Serve: Send + Sync + 'static {
    fn serve(&self, id: u64, stream: TcpStream, stop: &Signal);

    /// A connection that was served is closed.
    fn closed(&self);
}

#[derive(Debug)]
pub(super) struct Server {
    open: Arc<OpenConnections>,
    accepting: Mutex<Option<JoinHandle<()>>>,
}

impl Server {
    pub(super) fn start(
        listener: TcpListener,
        max_connections: usize,
        service: Arc<impl Serve>,
    ) -> io::Result<Self> {
        // A connection that is gone again before `accept` must not block it.
        listener.set_nonblocking(true)?;
        let open = Arc::new(OpenConnections { stop: Signal::new()?, streams: Mutex::default() });
        let accepting =
            thread::Builder::new().name("registry-accept".into()).stack_size(STACK_SIZE).spawn({
                let open = open.clone();
                move || accept_all(&listener, max_connections, &open, &*service)
            })?;
        Ok(Server { open, accepting: Mutex::new(Some(accepting)) })
    }

    /// Closes the connections that are open.
    pub(super) fn close_connections(&self) {
        self.open.shut_down_all();
    }

    /// Ends every wait, closes every socket, and joins every thread.
    pub(super) fn stop(&self) {
        self.open.stop.raise();
        self.open.shut_down_all();
        if let Some(accepting) = self.accepting.lock().take()
            && accepting.join().is_err()
        {
            log::error!("the test registry's accepting thread panicked");
        }
    }
}

/// The connections that are open, so that their threads can be woken.
#[derive(Debug)]
struct OpenConnections {
    stop: Signal,
    streams: Mutex<HashMap<u64, TcpStream>>,
}

impl OpenConnections {
    /// Returns false if the server ends.
    fn add(&self, id: u64, stream: &TcpStream) -> io::Result<bool> {
        let waker = stream.try_clone()?;
        self.streams.lock().insert(id, waker);
        // Asked after it was added: either `stop` shuts it down, or it is seen here.
        Ok(!self.stop.is_raised())
    }

    fn remove(&self, id: u64) {
        self.streams.lock().remove(&id);
    }

    fn shut_down_all(&self) {
        for stream in self.streams.lock().values() {
            // The client may have closed the socket already.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }
}

/// The scope joins the connections' threads.
fn accept_all(listener: &TcpListener, max_connections: usize, open: &OpenConnections, service: &impl Serve) {
    let (take_slot, give_slot) = bounded(max_connections.max(1));
    thread::scope(|scope| {
        for id in 0.. {
            if take_slot.send(()).is_err() {
                return;
            }
            let Some(stream) = next_connection(listener, &open.stop) else { return };
            let give_slot = &give_slot;
            let started = thread::Builder::new()
                .name(format!("registry-{id}"))
                .stack_size(STACK_SIZE)
                .spawn_scoped(scope, move || {
                    serve_one(id, stream, open, service);
                    let _ = give_slot.recv();
                });
            if let Err(error) = started {
                log::warn!("the test registry drops a connection: no thread for it: {error}");
                let _ = give_slot.recv();
            }
        }
    });
}

/// Returns `None` when the server ends.
fn next_connection(listener: &TcpListener, stop: &Signal) -> Option<TcpStream> {
    loop {
        let wanted = stop.wait_readable(listener).unwrap_or(false);
        if !wanted {
            return None;
        }
        match listener.accept() {
            Ok((stream, _)) => return Some(stream),
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => {
                log::warn!("the test registry cannot accept: {error}");
                stop.sleep(ACCEPT_AGAIN).ok()?;
            }
        }
    }
}

fn serve_one(id: u64, stream: TcpStream, open: &OpenConnections, service: &impl Serve) {
    if matches!(open.add(id, &stream), Ok(true)) {
        let served = catch_unwind(AssertUnwindSafe(|| service.serve(id, stream, &open.stop)));
        if served.is_err() {
            log::error!("the test registry drops connection {id}: its handler panicked");
        }
        open.remove(id);
        service.closed();
    } else {
        open.remove(id);
    }
}
