//! The registry: what users of it hold, and the way of one request through it.

use std::fmt;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::auth::{Access, TokenServer, User};
use super::connection::{Acceptor, Plain};
use super::content::{Content, Route};
use super::deliver::{Broken, Delivery, Ending, Line};
use super::fault::{Action, Fault, FaultHandle, Rule};
use super::http::{Request, RequestReader, percent_decode};
use super::images::Image;
use super::record::{Record, RegistryStats, SeenRequest};
use super::reply::Reply;
use super::server::{Serve, Server};
use super::wait::Signal;
use crate::image::digest::Digest;

const MAX_CONNECTIONS: usize = 64;

/// How a [`Registry`] is to be.
#[derive(Clone, Debug)]
#[must_use = "nothing is started before `start`"]
pub struct RegistryBuilder {
    addr: SocketAddr,
    max_connections: usize,
    api_root: String,
    acceptor: Arc<dyn Acceptor>,
}

impl RegistryBuilder {
    /// Where to listen. Default: a free port of 127.0.0.1.
    pub fn addr(mut self, addr: SocketAddr) -> Self {
        self.addr = addr;
        self
    }

    /// How many connections are served at once, each by a thread; more wait to be accepted.
    /// Default: 64.
    pub fn max_connections(mut self, count: usize) -> Self {
        self.max_connections = count;
        self
    }

    /// The path that the API stands under. Default: `/v2`.
    pub fn api_root(mut self, path: impl Into<String>) -> Self {
        self.api_root = path.into();
        self
    }

    /// Makes connections of the accepted sockets, with TLS for example. Default: plain TCP.
    pub fn acceptor(mut self, acceptor: impl Acceptor + 'static) -> Self {
        self.acceptor = Arc::new(acceptor);
        self
    }

    /// Starts the registry, empty and open to all.
    ///
    /// # Errors
    /// When the address is taken, or no thread or socket is to be had.
    pub fn start(self) -> io::Result<Registry> {
        let listener = TcpListener::bind(self.addr)?;
        let addr = listener.local_addr()?;
        let shared = Arc::new(Shared {
            own_realm: format!("{}://{addr}/token", self.acceptor.scheme()),
            api_root: self.api_root.trim_end_matches('/').to_owned(),
            acceptor: self.acceptor,
            content: Content::default(),
            access: Mutex::default(),
            rules: Mutex::default(),
            record: Record::default(),
        });
        let server = Server::start(listener, self.max_connections, shared.clone())?;
        Ok(Registry { addr, shared, server })
    }
}

/// A registry in this process, on 127.0.0.1, that can be told to misbehave. See the
/// [module](super) for an example.
///
/// Dropping it ends it, as [`shutdown`](Self::shutdown) does.
pub struct Registry {
    addr: SocketAddr,
    shared: Arc<Shared>,
    server: Server,
}

impl Registry {
    /// Starts a registry with the defaults.
    ///
    /// # Errors
    /// When no thread or socket is to be had.
    pub fn start() -> io::Result<Registry> {
        Registry::builder().start()
    }

    /// Starts a registry that differs from the defaults.
    pub fn builder() -> RegistryBuilder {
        RegistryBuilder {
            addr: (Ipv4Addr::LOCALHOST, 0).into(),
            max_connections: MAX_CONNECTIONS,
            api_root: "/v2".into(),
            acceptor: Arc::new(Plain),
        }
    }

    /// Where it listens.
    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Its name in image references: `127.0.0.1:PORT`.
    pub fn host(&self) -> String {
        self.addr.to_string()
    }

    /// Its URL, without a path: `http://127.0.0.1:PORT`.
    pub fn url(&self) -> String {
        format!("{}://{}", self.shared.acceptor.scheme(), self.addr)
    }

    /// Puts an image into the image's repository, under `tag`. Returns the reference to pull it by.
    pub fn push(&self, image: &Image, tag: &str) -> String {
        let content = &self.shared.content;
        let repository = image.repository();
        for blob in image.blobs() {
            content.put_blob(repository, blob.digest.as_str(), blob.data.clone());
        }
        for part in image.documents().chain([image.root()]) {
            let reference = if part == image.root() { tag } else { part.digest.as_str() };
            content.put_manifest(
                repository,
                reference,
                &part.media_type,
                part.digest.clone(),
                part.data.clone(),
            );
        }
        format!("{}/{repository}:{tag}", self.host())
    }

    /// Puts a blob into a repository, under its SHA-256.
    pub fn put_blob(&self, repository: &str, data: impl Into<Arc<[u8]>>) -> Digest {
        let data = data.into();
        let digest = Digest::sha256(&data);
        self.shared.content.put_blob(repository, digest.as_str(), data);
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
        self.shared.content.put_manifest(repository, reference, media_type, digest.clone(), data);
        digest
    }

    /// Puts a file at a path outside the API: the target of a redirect.
    pub fn put_file(&self, path: &str, data: impl Into<Arc<[u8]>>) {
        self.shared.content.put_file(path, data.into());
    }

    /// Demands Basic authentication; each call adds a user.
    pub fn require_basic(&self, user: impl Into<String>, password: impl Into<String>) {
        let user = User { name: user.into(), password: password.into() };
        let mut access = self.shared.access.lock();
        match &mut *access {
            Access::Basic(users) => users.push(user),
            other => *other = Access::Basic(vec![user]),
        }
    }

    /// Demands bearer tokens of this server, and serves them at `/token`.
    pub fn require_token(&self, tokens: &TokenServer) {
        *self.shared.access.lock() = Access::Token(tokens.clone());
    }

    /// Makes every token given out so far bad; later requests get a challenge.
    pub fn expire_tokens(&self) {
        if let Access::Token(tokens) = &*self.shared.access.lock() {
            tokens.expire_all();
        }
    }

    /// Has requests go wrong from now on. Faults act in the order they were given.
    pub fn fault(&self, fault: Fault) -> FaultHandle {
        let rule = Arc::new(Rule::new(fault));
        self.shared.rules.lock().push(rule.clone());
        FaultHandle(rule)
    }

    /// Takes back every fault.
    pub fn clear_faults(&self) {
        self.shared.rules.lock().clear();
    }

    /// The requests it got, in order.
    pub fn requests(&self) -> Vec<SeenRequest> {
        self.shared.record.requests()
    }

    /// Forgets the requests it got; [`stats`](Self::stats) goes on counting.
    pub fn forget_requests(&self) {
        self.shared.record.forget_requests();
    }

    /// What was counted so far.
    pub fn stats(&self) -> RegistryStats {
        self.shared.record.stats()
    }

    /// Waits until `reached` holds of the counters; false if it does not within `timeout`.
    pub fn wait_until(&self, reached: impl FnMut(&RegistryStats) -> bool, timeout: Duration) -> bool {
        self.shared.record.wait_until(reached, timeout)
    }

    /// Closes every connection that is open, busy or idle; goes on serving.
    pub fn close_connections(&self) {
        self.server.close_connections();
    }

    /// Ends it at once, whatever it is doing: closes every socket and joins every thread. From then
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

/// What the connections share. Each lock is held for a look only, never while bytes are sent.
#[derive(Debug)]
struct Shared {
    own_realm: String,
    api_root: String,
    acceptor: Arc<dyn Acceptor>,
    content: Content,
    access: Mutex<Access>,
    rules: Mutex<Vec<Arc<Rule>>>,
    record: Record,
}

impl Serve for Shared {
    fn serve(&self, id: u64, stream: TcpStream, stop: &Signal) {
        self.record.connection_opened();
        match self.converse(id, stream, stop) {
            Ok(()) | Err(Broken::Ended(_)) => {}
            Err(Broken::Io(error)) => log::debug!("the test registry's connection {id} ended: {error}"),
        }
    }

    fn closed(&self, _id: u64) {
        self.record.connection_closed();
    }
}

impl Shared {
    fn converse(&self, id: u64, stream: TcpStream, stop: &Signal) -> Result<(), Broken> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        let socket = stream.try_clone()?;
        let mut connection = self.acceptor.accept(stream)?;
        let mut line = Line { connection: &mut *connection, socket: &socket, stop, record: &self.record };
        let conversation = self.answer_all(id, &mut line);
        if let Err(Broken::Ended(Ending::Reset)) = conversation {
            // Closing with unsent data and no time to linger is what sends a reset.
            rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO))
                .map_err(io::Error::from)?;
        }
        conversation
    }

    fn answer_all(&self, id: u64, line: &mut Line<'_>) -> Result<(), Broken> {
        let mut reader = RequestReader::default();
        loop {
            match reader.next(&mut line.connection) {
                Ok(None) => return Ok(()),
                Ok(Some(request)) => self.answer(id, request, line)?,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    let reply = Reply::status(400).with("Connection", "close");
                    return line.send(super::Target::Other, &reply, &Delivery::default(), false);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn answer(&self, id: u64, request: Request, line: &mut Line<'_>) -> Result<(), Broken> {
        let keep_alive = request.keep_alive;
        let asked = request.target.clone();
        let (route, seen) = self.read(id, request);
        self.record.request(&seen);
        let (reply, delivery) = self.prepare(&route, &seen, &asked);
        line.send(seen.target, &reply, &delivery, seen.method == "HEAD")?;
        if keep_alive { Ok(()) } else { Err(Broken::Ended(Ending::Close)) }
    }

    fn read(&self, connection: u64, request: Request) -> (Route, SeenRequest) {
        let (path, query) = request.target.split_once('?').unwrap_or((&request.target, ""));
        let path = percent_decode(path);
        let route = Route::of(&path, &self.api_root);
        let seen = SeenRequest {
            connection,
            target: route.target(),
            method: request.method,
            path,
            query: query.to_owned(),
            headers: request.headers,
            body: request.body,
        };
        (route, seen)
    }

    /// The reply, and what goes wrong with it.
    fn prepare(&self, route: &Route, request: &SeenRequest, asked: &str) -> (Reply, Delivery) {
        let mut delivery = Delivery::default();
        let access = self.access.lock().clone();
        if let Some(refusal) = access.refuse(route, request, &self.own_realm) {
            return (refusal, delivery);
        }
        let rules: Vec<_> = self.rules.lock().clone();
        let rules: Vec<_> = rules.into_iter().filter(|rule| rule.hits(request)).collect();
        let actions =
            || rules.iter().flat_map(|rule| rule.actions().iter().map(move |action| (rule, action)));
        let ignore_range = actions().any(|(_, action)| *action == Action::IgnoreRange);
        let mut reply = self.healthy_reply(route, request, &access, ignore_range);
        for (rule, action) in actions() {
            delivery.apply(rule, action, &mut reply, asked);
        }
        (reply, delivery)
    }

    fn healthy_reply(
        &self,
        route: &Route,
        request: &SeenRequest,
        access: &Access,
        ignore_range: bool,
    ) -> Reply {
        if let (Route::Token, Access::Token(tokens)) = (route, access) {
            return tokens.serve(request);
        }
        if !matches!(request.method.as_str(), "GET" | "HEAD") {
            return Reply::status(405);
        }
        let range = request.header("range").filter(|_| !ignore_range);
        self.content.answer(route, request, range)
    }
}
