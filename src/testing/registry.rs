//! The registry's handle and its builder.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::auth::{Access, RegistryUser, TokenServer};
use super::connection::{Acceptor, Plain};
use super::content::RegistryContent;
use super::exchange::Exchange;
use super::fault::{Fault, FaultHandle, Rule};
use super::images::{Image, Part};
use super::link::Link;
use super::record::{Record, RegistryStats, SeenRequest};
use super::server::Server;
use crate::image::digest::Digest;

const MAX_CONNECTIONS: usize = 64;

/// Builds a [`Registry`].
#[derive(Clone, Debug)]
#[must_use = "nothing is started before `start`"]
pub struct RegistryBuilder {
    addr: SocketAddr,
    max_connections: usize,
    api_root: String,
    acceptor: Arc<dyn Acceptor>,
}

impl RegistryBuilder {
    /// Sets the address to listen on. Default: a free port of 127.0.0.1.
    pub fn addr(mut self, addr: SocketAddr) -> Self {
        self.addr = addr;
        self
    }

    /// Sets how many connections are served at once, each by a thread; further ones wait to be accepted.
    /// Default: 64.
    pub fn max_connections(mut self, count: usize) -> Self {
        self.max_connections = count;
        self
    }

    /// Sets the root path of the API. Default: `/v2`.
    pub fn api_root(mut self, path: impl Into<String>) -> Self {
        self.api_root = path.into();
        self
    }

    /// Sets the acceptor, which turns accepted sockets into connections, with TLS for example. Default: plain TCP.
    pub fn acceptor(mut self, acceptor: impl Acceptor + 'static) -> Self {
        self.acceptor = Arc::new(acceptor);
        self
    }

    /// Starts the registry, empty and open to all.
    ///
    /// # Errors
    /// If the address is in use, or no thread or socket is available.
    pub fn start(self) -> io::Result<Registry> {
        let listener = TcpListener::bind(self.addr)?;
        let addr = listener.local_addr()?;
        let exchange = Arc::new(Exchange {
            own_realm: format!("{}://{addr}/token", self.acceptor.scheme()),
            api_root: self.api_root.trim_end_matches('/').to_owned(),
            acceptor: self.acceptor,
            content: RegistryContent::default(),
            access: Mutex::default(),
            rules: Mutex::default(),
            record: Record::default(),
            link: Link::default(),
        });
        let server = Server::start(listener, self.max_connections, exchange.clone())?;
        Ok(Registry { addr, exchange, server })
    }
}

/// A registry in this process, on 127.0.0.1, that misbehaves on demand. See the
/// [module](super) for an example.
///
/// Dropping it ends it, as [`shutdown`](Self::shutdown) does.
pub struct Registry {
    addr: SocketAddr,
    exchange: Arc<Exchange>,
    server: Server,
}

impl Registry {
    /// Starts a registry with the defaults.
    ///
    /// # Errors
    /// If no thread or socket is available.
    pub fn start() -> io::Result<Registry> {
        Registry::builder().start()
    }

    /// Returns a builder for a registry with other settings.
    pub fn builder() -> RegistryBuilder {
        RegistryBuilder {
            addr: (Ipv4Addr::LOCALHOST, 0).into(),
            max_connections: MAX_CONNECTIONS,
            api_root: "/v2".into(),
            acceptor: Arc::new(Plain),
        }
    }

    /// Returns the address that it listens on.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Returns its name in image references: `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.addr.to_string()
    }

    /// Returns its URL, without a path: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("{}://{}", self.exchange.acceptor.scheme(), self.addr)
    }

    /// Puts an image into the image's repository, under `tag`. Returns the reference to pull it by.
    pub fn push(&self, image: &Image, tag: &str) -> String {
        let repository = image.repository();
        for blob in image.blobs() {
            self.exchange.content.put_blob(repository, blob.digest.as_str(), blob.data.clone());
        }
        for part in image.documents() {
            self.put_document(repository, part.digest.as_str(), part);
        }
        self.put_document(repository, tag, image.root());
        format!("{}/{repository}:{tag}", self.host())
    }

    fn put_document(&self, repository: &str, reference: &str, part: &Part) {
        let (digest, data) = (part.digest.clone(), part.data.clone());
        self.exchange.content.put_manifest(repository, reference, &part.media_type, digest, data);
    }

    /// Puts a blob into a repository, under its SHA-256.
    pub fn put_blob(&self, repository: &str, data: impl Into<Arc<[u8]>>) -> Digest {
        let data = data.into();
        let digest = Digest::sha256(&data);
        self.exchange.content.put_blob(repository, digest.as_str(), data);
        digest
    }

    /// Puts a manifest into a repository, under `reference` and its SHA-256. The bytes need not be a
    /// manifest, nor the media type theirs.
    pub fn put_manifest(
        &self,
        repository: &str,
        reference: &str,
        media_type: &str,
        data: impl Into<Arc<[u8]>>,
    ) -> Digest {
        let data = data.into();
        let digest = Digest::sha256(&data);
        self.exchange.content.put_manifest(repository, reference, media_type, digest.clone(), data);
        digest
    }

    /// Puts a file at a path outside the API: the target of a redirect.
    pub fn put_file(&self, path: &str, data: impl Into<Arc<[u8]>>) {
        self.exchange.content.put_file(path, data.into());
    }

    /// Requires Basic authentication; each call adds a user.
    pub fn require_basic(&self, user: impl Into<String>, password: impl Into<String>) {
        let user = RegistryUser { name: user.into(), password: password.into() };
        let mut access = self.exchange.access.lock();
        match &mut *access {
            Access::Basic(users) => users.push(user),
            other => *other = Access::Basic(vec![user]),
        }
    }

    /// Requires bearer tokens of this server, and serves them at `/token`.
    pub fn require_token(&self, tokens: &TokenServer) {
        *self.exchange.access.lock() = Access::Token(tokens.clone());
    }

    /// Expires all tokens that were granted so far; later requests get a challenge.
    pub fn expire_tokens(&self) {
        if let Access::Token(tokens) = &*self.exchange.access.lock() {
            tokens.expire_all();
        }
    }

    /// Adds a fault, which hits requests from now on. Faults act in the order they were added.
    pub fn fault(&self, fault: Fault) -> FaultHandle {
        let rule = Arc::new(Rule::new(fault));
        self.exchange.rules.lock().push(rule.clone());
        FaultHandle(rule)
    }

    /// Removes all faults.
    pub fn clear_faults(&self) {
        self.exchange.rules.lock().clear();
    }

    /// Returns the received requests, in order.
    pub fn requests(&self) -> Vec<SeenRequest> {
        self.exchange.record.requests()
    }

    /// Forgets the received requests; [`stats`](Self::stats) continues to count.
    pub fn forget_requests(&self) {
        self.exchange.record.forget_requests();
    }

    /// Returns the counters.
    pub fn stats(&self) -> RegistryStats {
        self.exchange.record.stats()
    }

    /// Waits until `reached` is true for the counters. Returns false after `timeout`.
    pub fn wait_until(&self, reached: impl FnMut(&RegistryStats) -> bool, timeout: Duration) -> bool {
        self.exchange.record.wait_until(reached, timeout)
    }

    /// Sends the bodies of all responses together at this rate from now on, bytes per second, as over one slow
    /// link; 0 lifts the limit. Default: no limit.
    pub fn limit_rate(&self, bytes_per_second: u64) {
        self.exchange.link.set_rate(bytes_per_second);
    }

    /// Closes all connections, busy or idle, and continues to serve.
    pub fn close_connections(&self) {
        self.server.close_connections();
    }

    /// Ends the registry at once: closes every socket and joins every thread. From then
    /// on connections to it are refused.
    pub fn shutdown(&self) {
        self.server.stop();
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.shutdown();
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry")
            .field("url", &self.url())
            .field("stats", &self.stats())
            .finish_non_exhaustive()
    }
}
