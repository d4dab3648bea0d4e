//! One request: read, recorded, looked up, hit by faults, answered.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;

use super::auth::Access;
use super::connection::Acceptor;
use super::content::{RegistryContent, Route};
use super::deliver::{Broken, Delivery, Ending, ReplyStream};
use super::fault::{Action, Rule};
use super::http::{Request, RequestReader, percent_decode};
use super::link::Link;
use super::record::{Record, SeenRequest, Target};
use super::reply::Reply;
use super::server::Serve;
use super::wait::Signal;

/// What the connections share. Each lock is held for a look only, never while bytes are sent.
#[derive(Debug)]
pub(super) struct Exchange {
    pub(super) own_realm: String,
    pub(super) api_root: String,
    pub(super) acceptor: Arc<dyn Acceptor>,
    pub(super) content: RegistryContent,
    pub(super) access: Mutex<Access>,
    pub(super) rules: Mutex<Vec<Arc<Rule>>>,
    pub(super) record: Record,
    pub(super) link: Link,
}

impl Serve for Exchange {
    fn serve(&self, id: u64, stream: TcpStream, stop: &Signal) {
        self.record.connection_opened();
        match self.converse(id, stream, stop) {
            Ok(()) | Err(Broken::Ended(_)) => {}
            Err(Broken::Io(error)) => log::debug!("the test registry's connection {id} ended: {error}"),
        }
    }

    fn closed(&self) {
        self.record.connection_closed();
    }
}

impl Exchange {
    fn converse(&self, id: u64, stream: TcpStream, stop: &Signal) -> Result<(), Broken> {
        stream.set_nonblocking(false)?;
        stream.set_nodelay(true)?;
        let socket = stream.try_clone()?;
        let mut connection = self.acceptor.accept(stream)?;
        let mut line = ReplyStream {
            connection: &mut *connection,
            socket: &socket,
            stop,
            record: &self.record,
            link: &self.link,
        };
        let conversation = self.answer_all(id, &mut line);
        if let Err(Broken::Ended(Ending::Reset)) = conversation {
            // A close with unsent data and without time to linger sends a reset.
            rustix::net::sockopt::set_socket_linger(&socket, Some(Duration::ZERO))
                .map_err(io::Error::from)?;
        }
        conversation
    }

    fn answer_all(&self, id: u64, line: &mut ReplyStream<'_>) -> Result<(), Broken> {
        let mut reader = RequestReader::default();
        loop {
            match reader.next(&mut line.connection) {
                Ok(None) => return Ok(()),
                Ok(Some(request)) => self.answer(id, request, line)?,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    let reply = Reply::status(400).with("Connection", "close");
                    return line.send(Target::Other, &reply, &Delivery::default(), false);
                }
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn answer(&self, id: u64, request: Request, line: &mut ReplyStream<'_>) -> Result<(), Broken> {
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

    /// Returns the reply, with the faults that hit it.
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
        let ignore_range = actions().any(|(_, action)| matches!(action, Action::IgnoreRange));
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
