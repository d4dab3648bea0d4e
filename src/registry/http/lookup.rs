//! Looking up names without waiting for one that hangs.

use std::fmt;
use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::bounded;
use ureq::config::Config;
use ureq::http::Uri;
use ureq::unversioned::resolver::{ResolvedSocketAddrs, Resolver as UreqResolver};
use ureq::unversioned::transport::NextTimeout;

use super::tie::Tie;
use crate::error::{Error, ErrorKind};
use crate::sync::BlockingPool;

/// Addresses that ureq takes of one name.
const MAX_ADDRESSES: usize = 16;

/// The threads of this process that may hang in a look-up.
static LOOKUPS: BlockingPool = BlockingPool::new("dns", 4);

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
    let job = move || drop(answer.send(resolver.resolve(&name, port)));
    LOOKUPS.run(job).map_err(|error| {
        Error::new(ErrorKind::ResourceExhausted, "no thread could be started to look a name up")
            .with_source(error)
    })?;
    let cx = Tie::current().map(|tie| tie.cx().clone()).unwrap_or_default();
    let deadline = cx.remaining().map_or(limit, |left| left.min(limit));
    match cx.clone().with_timeout(deadline).wait_for(&answered) {
        Ok(Some(Ok(addresses))) => Ok(addresses),
        Ok(Some(Err(error))) => Err(not_found(host, error)),
        Ok(None) => Err(Error::new(ErrorKind::HostNotFound, format!("{host}: the look-up panicked"))),
        Err(ended) => {
            cx.check()?;
            Err(Error::new(ended.kind(), format!("the name {host} was not looked up in time")))
        }
    }
}

/// A name that does not exist will not exist in a second; a name server that is out of reach may be back.
fn not_found(host: &str, error: io::Error) -> Error {
    let text = error.to_string();
    let is_passing = text.contains("Temporary failure") || text.contains("ry again");
    Error::new(ErrorKind::HostNotFound, format!("{host}: {text}"))
        .with_retryable(is_passing)
        .with_source(error)
}
