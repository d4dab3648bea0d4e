//! Name lookups, with limits for their time and their threads.

use std::io;
use std::net::{IpAddr, SocketAddr, ToSocketAddrs};
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::bounded;

use super::exchange::HttpExchange;
use crate::error::{Error, ErrorKind};
use crate::registry::address::{AddressRule, written_address};
use crate::sync::{BlockingPool, PoolUser};

/// Maximum number of addresses of one name that are tried.
const MAX_ADDRESSES: usize = 16;

/// The threads of this process for lookups, which may block.
static LOOKUPS: BlockingPool = BlockingPool::new("dns", 4);

/// Keeps the lookup threads, until dropped.
pub(crate) fn use_threads() -> PoolUser {
    LOOKUPS.enter()
}

/// Finds the addresses of a host. It may block: it is called on a thread of a small pool, and the pull waits no
/// longer than its connect timeout and its deadline allow.
pub trait Resolver: Send + Sync + 'static {
    /// Returns the addresses of `host`, in the order to try, with `port`.
    ///
    /// # Errors
    /// The error of the lookup.
    fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>>;
}

impl<R: Resolver + ?Sized> Resolver for Arc<R> {
    fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        (**self).resolve(host, port)
    }
}

/// The system's resolver, `getaddrinfo`.
#[derive(Clone, Copy, Debug, Default)]
pub struct SystemResolver;

impl Resolver for SystemResolver {
    fn resolve(&self, host: &str, port: u16) -> io::Result<Vec<SocketAddr>> {
        Ok((host, port).to_socket_addrs()?.collect())
    }
}

/// Returns the addresses of the host of a URL, within `limit`. Each of them obeys `rule`. The connection is made to
/// one of these, so that a name whose addresses change in between cannot evade the rule.
///
/// # Errors
/// `HostNotFound`, `Timeout`, `Cancelled`, `ResourceExhausted`; `Protocol` for an address that the rule
/// forbids.
pub(super) fn addresses(
    resolver: &Arc<dyn Resolver>,
    host: &str,
    port: u16,
    limit: Duration,
    rule: AddressRule,
    is_verified: bool,
) -> Result<Vec<SocketAddr>, Error> {
    let name = host.trim_matches(['[', ']']);
    let found = match name.parse::<IpAddr>() {
        Ok(address) => vec![SocketAddr::new(address, port)],
        Err(_) => look_up(resolver, name, port, limit)?,
    };
    if found.is_empty() {
        return Err(Error::new(ErrorKind::HostNotFound, format!("{name}: the name has no address")));
    }
    let is_written = written_address(host).is_some();
    for address in &found {
        rule.check(address.ip(), is_written, is_verified).map_err(|refusal| {
            let message = format!("{host} is not asked: {refusal} ({})", address.ip());
            Error::new(ErrorKind::Protocol, message).with_retryable(false)
        })?;
    }
    Ok(found)
}

type LookupResult = io::Result<Vec<SocketAddr>>;

/// Looks the name up on a `dns-N` thread.
fn look_up(
    resolver: &Arc<dyn Resolver>,
    host: &str,
    port: u16,
    limit: Duration,
) -> Result<Vec<SocketAddr>, Error> {
    let (answer, answered) = bounded::<LookupResult>(1);
    let (resolver, name) = (Arc::clone(resolver), host.to_owned());
    let job = move || drop(answer.send(resolver.resolve(&name, port)));
    LOOKUPS.run(job).map_err(|error| {
        Error::new(ErrorKind::ResourceExhausted, "no thread could be started for a name lookup")
            .with_source(error)
    })?;
    let cx = HttpExchange::current().map(|exchange| exchange.cx().clone()).unwrap_or_default();
    let limit = cx.remaining().map_or(limit, |left| left.min(limit));
    match cx.clone().with_timeout(limit).wait_for(&answered) {
        Ok(Some(Ok(mut addresses))) => {
            addresses.truncate(MAX_ADDRESSES);
            Ok(addresses)
        }
        Ok(Some(Err(error))) => Err(not_found(host, error)),
        Ok(None) => Err(Error::new(ErrorKind::HostNotFound, format!("{host}: the lookup panicked"))),
        Err(ended) => {
            cx.check()?;
            Err(Error::new(ended.kind(), format!("the lookup of the name {host} timed out")))
        }
    }
}

/// Returns the error of a failed lookup. It is retryable only if the name server failed, and not if the name does
/// not exist.
fn not_found(host: &str, error: io::Error) -> Error {
    let text = error.to_string();
    let is_passing = text.contains("Temporary failure") || text.contains("ry again");
    Error::new(ErrorKind::HostNotFound, format!("{host}: {text}"))
        .with_retryable(is_passing)
        .with_source(error)
}
