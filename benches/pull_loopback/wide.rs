//! A wide area network: a proxy on the loopback device that delays and slows responses as a distant server does.
//! The kernel's own means for that, netem, is not in every kernel.
//!
//! Each connection models TCP over a line of its own without loss:
//!
//! - The handshake takes one round trip. No request leaves before its end.
//! - A request and the first byte of its response take one round trip together. The whole delay is on the way back;
//!   a client cannot distinguish it from half of it each way.
//! - Bytes leave at the line's rate.
//! - The window bounds the bytes in transit: ten segments at first
//!   ([RFC 6928](https://www.rfc-editor.org/rfc/rfc6928#section-2)). Acknowledged bytes enlarge it by their number, so
//!   it doubles each round trip ([slow start](https://www.rfc-editor.org/rfc/rfc5681#section-3.1)) until the rate is
//!   the limit.
//! - An idle connection keeps its window. Linux shrinks it after 200 ms and more; no program here idles so long.
//!
//! The arrival time of a byte is computed from the planned arrival of the bytes before it, not from the actual one. A
//! thread that wakes late does not slow the line.

use std::collections::VecDeque;
use std::io::{self, Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::num::NonZeroU32;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use std::time::{Duration, Instant};

use super::Outcome;

/// The payload of a segment over Ethernet, bytes.
const SEGMENT: usize = 1448;
const FIRST_WINDOW: usize = 10 * SEGMENT;
/// The largest piece that arrives at once, bytes. Single segments would take much processor time.
const PIECE: usize = 4 * SEGMENT;
/// The longest read, bytes.
const BUFFER: usize = 64 * 1024;

/// The line between a client and a server.
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

    /// Returns how long this number of bytes occupies the line.
    fn time_for(self, bytes: usize) -> Duration {
        Duration::from_nanos(bytes as u64 * 8_000 / u64::from(self.rate.get()))
    }

    /// The number of pieces in transit: more than twice the capacity of the line, so that it never idles.
    fn pieces(self) -> usize {
        let held = self.round_trip().as_nanos() / self.time_for(PIECE).as_nanos().max(1);
        64 + 2 * held as usize
    }
}

/// The role: prints its address, and forwards to the server until the other end of its standard input is
/// closed.
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

/// Forwards a connection until both sides have closed it.
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

/// Bytes, and their arrival time.
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

/// The sending end of a connection.
struct Sender {
    area: WideArea,
    /// The time at which all sent bytes have left.
    free_at: Instant,
    /// The window: bytes that may be in transit.
    window: usize,
    under_way: usize,
    /// The times of acknowledgements and their bytes, the earliest first.
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

    /// Sends a piece of up to this number of bytes, available from `now` on. Returns its length and its arrival time.
    fn send(&mut self, bytes: usize, now: Instant) -> (usize, Instant) {
        let begun_at = self.wait_for_room(now.max(self.free_at));
        let sent = bytes.min(PIECE).min(self.window - self.under_way);
        self.free_at = begun_at + self.area.time_for(sent);
        let arrives_at = self.free_at + self.area.round_trip();
        self.under_way += sent;
        self.acknowledgements.push_back((arrives_at, sent));
        (sent, arrives_at)
    }

    /// Returns when the window has room, at the earliest `at`.
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
