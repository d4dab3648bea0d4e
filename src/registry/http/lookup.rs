//! Looking up names without waiting for one that hangs.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::{Arc, LazyLock};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use parking_lot::Mutex;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver as UreqResolver};
use ureq::unversioned::transport::NextTimeout;

use super::tie::Tie;
use crate::error::{Error, ErrorKind};

/// Addresses that ureq takes of one name.
const MAX_ADDRESSES: usize = 16;

/// Threads of this process that may hang in a look-up at a time.
const MAX_LOOKUPS: usize = 4;

/// How long a thread waits for another name before it ends.
const IDLE_TIME: Duration = Duration::from_secs(5);

/// Finds the addresses of a host. May block: it is called on a thread of its own, and nobody waits
/// for it longer than they have time.
pub trait Resolver: Send + Sync + 'static {
    /// The addresses of `host`, in the order to try, with `port`.
    ///
    /// # Errors
    /// Whatever the look-up failed with.
    fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;
}

/// The system's own look-up, `getaddrinfo`.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

impl Resolver for SystemResolver {
    fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok((host, port).to_socket_addrs()?.collect())
    }
}

/// A [`Resolver`], as ureq wants one.
pub(super) struct Lookup(Arc<dyn Resolver>);

impl Lookup {
    pub(super) fn new(resolver: Arc<dyn Resolver>) -> Self {
        Lookup(resolver)
    }
}

impl UreqResolver for Lookup {
    fn resolve(
        &self,
        uri: &Uri,
        _: &Config,
        timeout: NextTimeout,
    ) -> Result<ResolvedSocketAddrs, ureq::Error> {
        let host = uri.host().unwrap_or_default();
        let port = uri.port_u16().unwrap_or(if uri.scheme_str() == Some("http") { 80 } else { 443 });
        let mut resolved = self.empty();
        if let Ok(address) = host.trim_matches(['[', ']']).parse::<IpAddr>() {
            resolved.push(SocketAddr::new(address, port));
            return Ok(resolved);
        }
        let found = look_up(&self.0, host, port, *timeout.after).map_err(io::Error::other)?;
        found.into_iter().take(MAX_ADDRESSES).for_each(|address| resolved.push(address));
        if resolved.is_empty() { Err(ureq::Error::HostNotFound) } else { Ok(resolved) }
    }
}

impl fmt::Debug for Lookup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Lookup")
    }
}

type Answer = io::Result<Vec<SocketAddr>>;

/// Has the name looked up on a `dns-N` thread, and waits for it no longer than the pull lasts.
fn look_up(
    resolver: &Arc<dyn Resolver>,
    host: &str,
    port: u16,
    limit: Duration,
) -> Result<Vec<SocketAddr>, Error> {
    let (answer, answered) = bounded::<Answer>(1);
    let (resolver, name) = (Arc::clone(resolver), host.to_owned());
    CREW.run(Box::new(move || {
        let _ = answer.send(resolver.resolve(&name, port));
    }))?;
    let cx = Tie::current().map(|tie| tie.cx().clone()).unwrap_or_default();
    let deadline = cx.remaining().map_or(limit, |left| left.min(limit));
    match cx.clone().with_timeout(deadline).wait_for(&answered) {
        Ok(Some(Ok(addresses))) => Ok(addresses),
        Ok(Some(Err(error))) => {
            Err(Error::new(ErrorKind::HostNotFound, format!("{host}: {error}")).with_source(error))
        }
        Ok(None) => Err(Error::new(ErrorKind::HostNotFound, format!("{host}: the look-up panicked"))),
        Err(ended) => {
            cx.check()?;
            Err(Error::new(ended.kind(), format!("the name {host} was not looked up in time")))
        }
    }
}

type Job = Box<dyn FnOnce() + Send>;

static CREW: LazyLock<Crew> = LazyLock::new(Crew::new);

/// A few threads for what cannot be interrupted; they end when they have had nothing to do for a while.
struct Crew {
    jobs: (Sender<Job>, Receiver<Job>),
    state: Mutex<CrewState>,
}

#[derive(Default)]
struct CrewState {
    threads: usize,
    /// Jobs that were handed in and are not done.
    jobs: usize,
    started: u64,
}

impl Crew {
    fn new() -> Self {
        Crew { jobs: unbounded(), state: Mutex::default() }
    }

    /// # Errors
    /// `ResourceExhausted` if there is no thread, and none could be started.
    fn run(&'static self, job: Job) -> Result<(), Error> {
        let new_thread = {
            let mut state = self.state.lock();
            state.jobs += 1;
            let wanted = state.jobs > state.threads && state.threads < MAX_LOOKUPS;
            wanted.then(|| {
                state.threads += 1;
                state.started += 1;
                state.started
            })
        };
        if let Some(number) = new_thread {
            let thread = std::thread::Builder::new().name(format!("dns-{number}"));
            if let Err(error) = thread.spawn(|| self.work()) {
                let mut state = self.state.lock();
                state.threads -= 1;
                if state.threads == 0 {
                    state.jobs -= 1;
                    return Err(Error::new(ErrorKind::ResourceExhausted, "no thread could be started")
                        .with_source(error));
                }
            }
        }
        let _ = self.jobs.0.send(job);
        Ok(())
    }

    fn work(&self) {
        loop {
            match self.jobs.1.recv_timeout(IDLE_TIME) {
                Ok(job) => {
                    // A resolver of the caller's may panic; its asker sees the answer's sender gone.
                    let _ = std::panic::catch_unwind(std::panic::AssertUnwindSafe(job));
                    self.state.lock().jobs -= 1;
                }
                Err(_) => {
                    let mut state = self.state.lock();
                    if state.jobs < state.threads {
                        state.threads -= 1;
                        return;
                    }
                }
            }
        }
    }
}
