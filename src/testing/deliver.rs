//! Sends a response, with the faults that hit it.

use std::io;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::connection::Connection;
use super::fault::{Action, Rule, Stage};
use super::link::Link;
use super::record::{Record, Target};
use super::reply::Reply;
use super::wait::{ConnectionWaits, Signal, Woken};

/// The most that is written at once.
const CHUNK: usize = 256 * 1024;

/// How a response is sent: where it halts, and the rate of its body.
#[derive(Debug, Default)]
pub(super) struct Delivery {
    halts: Vec<(Stage, Halt)>,
    rhythm: Option<Rhythm>,
}

#[derive(Debug)]
enum Halt {
    Delay(Duration),
    Hold(Arc<Rule>),
    End(Ending),
}

/// How a connection ends.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ending {
    Close,
    Reset,
}

/// Why a connection is not used any more.
#[derive(Debug)]
pub(super) enum Broken {
    /// It failed, or the client left.
    Io(io::Error),
    /// The server ends the connection.
    Ended(Ending),
}

impl From<io::Error> for Broken {
    fn from(error: io::Error) -> Self {
        Broken::Io(error)
    }
}

/// The size of a piece, bytes, and the time between two pieces.
#[derive(Clone, Copy, Debug)]
struct Rhythm {
    bytes: usize,
    every: Duration,
}

impl Rhythm {
    /// In pieces that take about a fiftieth of a second.
    fn of_pace(bytes_per_second: u64) -> Self {
        let pace = bytes_per_second.max(1);
        let bytes = (pace / 50).clamp(1, CHUNK as u64);
        Rhythm { bytes: bytes as usize, every: Duration::from_secs_f64(bytes as f64 / pace as f64) }
    }
}

impl Delivery {
    /// Has one of the rule's actions go wrong with the reply, or with its sending.
    pub(super) fn apply(&mut self, rule: &Arc<Rule>, action: &Action, reply: &mut Reply, asked: &str) {
        match action {
            Action::Delay(delay) => self.halt(Stage::BeforeHead, Halt::Delay(*delay)),
            Action::Hold(stage) => self.halt(*stage, Halt::Hold(rule.clone())),
            Action::Cut(bytes) => self.halt(Stage::Body(*bytes), Halt::End(Ending::Close)),
            Action::CutWithin(range) => {
                let bytes = if range.is_empty() { range.start } else { fastrand::u64(range.clone()) };
                self.halt(Stage::Body(bytes), Halt::End(Ending::Close));
            }
            Action::Reset(stage) => self.halt(*stage, Halt::End(Ending::Reset)),
            Action::Pace(pace) => self.rhythm = Some(Rhythm::of_pace(*pace)),
            Action::Drip { bytes, every } => {
                self.rhythm = Some(Rhythm { bytes: (*bytes).max(1), every: *every });
            }
            Action::Corrupt(offset) => reply.body.flip(*offset),
            Action::Longer(count) => {
                reply.body.lengthen(*count);
                reply.set("Content-Length", reply.body.len().to_string());
            }
            Action::Status(status) => *reply = Reply::status(*status),
            Action::Body(body) => reply.set_body(body.as_slice().into()),
            Action::Header(name, value) => reply.set(name, value),
            Action::AddHeader(name, value) => reply.add(name, value),
            Action::NoHeader(name) => reply.unset(name),
            Action::Chunked => {
                reply.unset("Content-Length");
                reply.set("Transfer-Encoding", "chunked");
            }
            Action::Redirect(location) => {
                *reply = Reply::status(307).with("Location", location.replace("{path}", asked));
            }
            // It was heeded when the reply was made.
            Action::IgnoreRange => {}
        }
    }

    fn halt(&mut self, stage: Stage, halt: Halt) {
        self.halts.push((stage, halt));
        self.halts.sort_by_key(|(stage, _)| *stage);
    }
}

/// The connection that answers go out on.
pub(super) struct ReplyStream<'a> {
    pub(super) connection: &'a mut dyn Connection,
    pub(super) socket: &'a TcpStream,
    pub(super) stop: &'a Signal,
    pub(super) record: &'a Record,
    pub(super) link: &'a Link,
}

impl ReplyStream<'_> {
    /// Sends the reply; without its body, if it answers a HEAD.
    pub(super) fn send(
        &mut self,
        target: Target,
        reply: &Reply,
        delivery: &Delivery,
        is_head: bool,
    ) -> Result<(), Broken> {
        let mut halts = Halts(&delivery.halts);
        self.pass(&mut halts, Stage::BeforeHead)?;
        self.send_head(reply, &mut halts)?;
        if !is_head {
            self.send_body(target, reply, delivery.rhythm, &mut halts)?;
        }
        self.connection.flush()?;
        if reply.ends_by_itself() { Ok(()) } else { Err(Broken::Ended(Ending::Close)) }
    }

    fn send_head(&mut self, reply: &Reply, halts: &mut Halts<'_>) -> Result<(), Broken> {
        let head = reply.head();
        let (first, second) = head.split_at(if halts.is_next(Stage::InHead) { head.len() / 2 } else { 0 });
        self.connection.write_all(first)?;
        self.pass(halts, Stage::InHead)?;
        self.connection.write_all(second)?;
        Ok(())
    }

    fn send_body(
        &mut self,
        target: Target,
        reply: &Reply,
        rhythm: Option<Rhythm>,
        halts: &mut Halts<'_>,
    ) -> Result<(), Broken> {
        let mut pacer = Pacer { rhythm, begin: Instant::now(), pieces: 0 };
        let mut sent = 0;
        self.pass(halts, Stage::Body(sent))?;
        for piece in reply.body.pieces() {
            let mut rest = &*piece;
            while !rest.is_empty() {
                let step = pacer.step().min(self.link.step());
                let (now, later) = rest.split_at(rest.len().min(step).min(halts.room(sent)));
                if let Some(delay) = pacer.delay() {
                    self.sleep(delay)?;
                }
                if let Some(delay) = self.link.send(now.len()) {
                    self.sleep(delay)?;
                }
                self.send_piece(target, now, reply.is_chunked())?;
                sent += now.len() as u64;
                rest = later;
                self.pass(halts, Stage::Body(sent))?;
            }
        }
        if reply.is_chunked() {
            self.connection.write_all(b"0\r\n\r\n")?;
        }
        Ok(())
    }

    fn send_piece(&mut self, target: Target, piece: &[u8], is_chunked: bool) -> io::Result<()> {
        // Counted first: a client that has it all finds it counted.
        self.record.body_sent(target, piece.len());
        if !is_chunked {
            return self.connection.write_all(piece);
        }
        write!(self.connection, "{:x}\r\n", piece.len())?;
        self.connection.write_all(piece)?;
        self.connection.write_all(b"\r\n")
    }

    /// Performs the halts up to this stage.
    fn pass(&mut self, halts: &mut Halts<'_>, reached: Stage) -> Result<(), Broken> {
        while let Some(halt) = halts.next_until(reached) {
            self.connection.flush()?;
            match halt {
                Halt::Delay(delay) => self.sleep(*delay)?,
                Halt::Hold(rule) => go_on(self.waiter().hold(&rule.gate)?)?,
                Halt::End(ending) => return Err(Broken::Ended(*ending)),
            }
        }
        Ok(())
    }

    fn sleep(&self, delay: Duration) -> Result<(), Broken> {
        go_on(self.waiter().sleep(delay)?)
    }

    fn waiter(&self) -> ConnectionWaits<'_> {
        ConnectionWaits { stop: self.stop, peer: self.socket }
    }
}

fn go_on(woken: Woken) -> Result<(), Broken> {
    match woken {
        Woken::Elapsed | Woken::Opened => Ok(()),
        Woken::PeerGone | Woken::Stopped => Err(Broken::Ended(Ending::Close)),
    }
}

/// How long the pieces of a body are, and when each is due.
struct Pacer {
    rhythm: Option<Rhythm>,
    begin: Instant,
    pieces: u32,
}

impl Pacer {
    fn step(&self) -> usize {
        self.rhythm.map_or(CHUNK, |rhythm| rhythm.bytes)
    }

    /// What is left until the next piece is due; the first one is due at once.
    fn delay(&mut self) -> Option<Duration> {
        let due = self.rhythm?.every.saturating_mul(self.pieces);
        self.pieces = self.pieces.saturating_add(1);
        Some(due.saturating_sub(self.begin.elapsed()))
    }
}

/// What is still to halt an answer, the next first.
struct Halts<'a>(&'a [(Stage, Halt)]);

impl<'a> Halts<'a> {
    fn is_next(&self, stage: Stage) -> bool {
        self.0.first().is_some_and(|(next, _)| *next == stage)
    }

    fn next_until(&mut self, reached: Stage) -> Option<&'a Halt> {
        let ((stage, halt), rest) = self.0.split_first()?;
        (*stage <= reached).then(|| {
            self.0 = rest;
            halt
        })
    }

    /// How many bytes of the body may go before the next halt.
    fn room(&self, sent: u64) -> usize {
        match self.0.first() {
            Some((Stage::Body(at), _)) => usize::try_from(at - sent).unwrap_or(usize::MAX),
            _ => usize::MAX,
        }
    }
}
