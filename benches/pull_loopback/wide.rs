//! A wide area: a proxy on the loopback device through which answers come as late and as slowly as from
//! far away. The system's own means for that, netem, is not in every kernel.
//!
//! Each connection is TCP over a line of its own that loses nothing:
//!
//! - To set it up takes one round trip. Until then no question leaves.
//! - A question and the first byte of its answer take one round trip together. All of it is put on the way
//!   back, which a client cannot tell from a half each way.
//! - What is sent leaves at the line's rate.
//! - No more is under way than the window allows: ten segments at first
//!   ([RFC 6928](https://www.rfc-editor.org/rfc/rfc6928#section-2)). What arrives is acknowledged, and lets
//!   the window grow by as much: so it doubles each round trip
//!   ([slow start](https://www.rfc-editor.org/rfc/rfc5681#section-3.1)), until only the rate counts.
//! - A connection that rests keeps its window. Linux makes it smaller after 200 ms and more; nobody here
//!   lets one rest so long.
//!
//! When a byte is to arrive is reckoned from when those before it were to, not from when they did. So what
//! a thread oversleeps is not lost, and the line reaches its rate.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::num::NonZeroU32;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use super::Outcome;

/// What a segment carries over Ethernet, bytes.
const SEGMENT: usize = 1448;
const FIRST_WINDOW: usize = 10 * SEGMENT;
/// What arrives at once, bytes at most. Each segment by itself would take much of a processor.
const PIECE: usize = 4 * SEGMENT;
/// The longest read, bytes.
const BUFFER: usize = 64 * 1024;

/// What lies between a client and a server.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct WideArea {
    /// Milliseconds.
    pub(crate) round_trip: u32,
    /// Of each connection, Mbit/s.
    pub(crate) rate: NonZeroU32,
}

impl WideArea {
    fn round_trip(self) -> Duration {
        Duration::from_millis(self.round_trip.into())
    }

    /// For how long so many bytes keep the line busy.
    fn time_for(self, bytes: usize) -> Duration {
        Duration::from_nanos(bytes as u64 * 8_000 / u64::from(self.rate.get()))
    }

    /// Pieces that wait to arrive: twice what the line holds and some more, lest it ever wait for them.
    fn pieces(self) -> usize {
        let held = self.round_trip().as_nanos() / self.time_for(PIECE).as_nanos().max(1);
        64 + 2 * held as usize
    }
}

/// The role: says where it listens, and leads to the server until nobody holds the other end of its
/// standard input.
pub(crate) fn lead_to(server: &str, area: WideArea) -> Outcome<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    println!("{}", listener.local_addr()?);
    let server = server.to_owned();
    thread::spawn(move || {
        while let Ok((client, _)) = listener.accept() {
            let server = server.clone();
            thread::spawn(move || carry(&client, &server, area));
        }
    });
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

/// Carries a connection until both sides have hung up.
fn carry(client: &TcpStream, server: &str, area: WideArea) -> io::Result<()> {
    let set_up_at = Instant::now() + area.round_trip();
    let server = TcpStream::connect(server)?;
    server.set_nodelay(true)?;
    client.set_nodelay(true)?;
    let (pieces, arriving) = sync_channel(area.pieces());
    thread::scope(|scope| {
        scope.spawn(|| ask(client, &server, set_up_at));
        scope.spawn(|| send(&server, Sender::new(area), pieces));
        deliver(arriving, client)
    })
}

fn ask(mut client: &TcpStream, mut server: &TcpStream, set_up_at: Instant) -> io::Result<()> {
    sleep_until(set_up_at);
    io::copy(&mut client, &mut server)?;
    server.shutdown(Shutdown::Write)
}

/// Bytes, and when they are to arrive.
type Piece = (Instant, Vec<u8>);

fn send(mut server: &TcpStream, mut sender: Sender, pieces: SyncSender<Piece>) {
    let mut buffer = vec![0; BUFFER];
    while let Ok(read @ 1..) = server.read(&mut buffer) {
        let now = Instant::now();
        let mut rest = &buffer[..read];
        while !rest.is_empty() {
            let (sent, arrives_at) = sender.send(rest.len(), now);
            let (piece, later) = rest.split_at(sent);
            if pieces.send((arrives_at, piece.to_vec())).is_err() {
                return;
            }
            rest = later;
        }
    }
}

fn deliver(arriving: Receiver<Piece>, mut client: &TcpStream) -> io::Result<()> {
    for (arrives_at, bytes) in arriving {
        sleep_until(arrives_at);
        client.write_all(&bytes)?;
    }
    client.shutdown(Shutdown::Write)
}

fn sleep_until(at: Instant) {
    thread::sleep(at.saturating_duration_since(Instant::now()));
}

/// The far end of a connection, as it sends.
struct Sender {
    area: WideArea,
    /// When all that was sent has left.
    free_at: Instant,
    /// Bytes that may be under way.
    window: usize,
    under_way: usize,
    /// When so many bytes of them are acknowledged, the earliest first.
    acknowledgements: VecDeque<(Instant, usize)>,
}

impl Sender {
    fn new(area: WideArea) -> Self {
        Sender {
            area,
            free_at: Instant::now(),
            window: FIRST_WINDOW,
            under_way: 0,
            acknowledgements: VecDeque::new(),
        }
    }

    /// Sends a piece of so many bytes that are there from `now` on: how long it is, and when it arrives.
    fn send(&mut self, bytes: usize, now: Instant) -> (usize, Instant) {
        let begun_at = self.wait_for_room(now.max(self.free_at));
        let sent = bytes.min(PIECE).min(self.window - self.under_way);
        self.free_at = begun_at + self.area.time_for(sent);
        let arrives_at = self.free_at + self.area.round_trip();
        self.under_way += sent;
        self.acknowledgements.push_back((arrives_at, sent));
        (sent, arrives_at)
    }

    /// When the window has room, at the earliest at `at`.
    fn wait_for_room(&mut self, mut at: Instant) -> Instant {
        while let Some(&(acknowledged_at, bytes)) = self.acknowledgements.front()
            && (acknowledged_at <= at || self.under_way == self.window)
        {
            self.acknowledgements.pop_front();
            self.under_way -= bytes;
            self.window += bytes;
            at = at.max(acknowledged_at);
        }
        at
    }
}
