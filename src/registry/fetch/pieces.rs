//! A large blob in pieces, fetched by several threads at a time.
//!
//! A piece is asked for as a closed range, so no byte comes twice. The first connection tells how fast
//! the host is: where it is slower than the hash, every idle connection makes the pull faster; where it is
//! not, one helper is enough to hash beside the writing.

use std::cell::Cell;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use super::blob::Fetch;
use super::crew::{Crew, Worker};
use crate::error::{Error, ErrorKind};
use crate::image::manifest::Descriptor;
use crate::registry::http::Body;
use crate::registry::request::{Endpoint, Target};
use crate::store::{Ingest, Piece, Pieces};

/// So many bytes have to come before others join in.
const PROBE: u64 = 1024 * 1024;

/// A connection that brings so many bytes a second is bounded by this machine, not by the way.
const FAST: f64 = 150e6;

/// A blob whose pieces several threads fetch.
pub(super) struct Shared<'a> {
    blob: &'a Descriptor,
    pieces: Pieces,
    /// Bytes that were there before, from a pull that broke.
    had: u64,
    since: Instant,
    /// Changed under the floor's lock.
    helpers: AtomicUsize,
    /// A helper was sent the whole blob: who helped now would be, too.
    is_sent_whole: AtomicBool,
}

impl Shared<'_> {
    pub(super) fn open(&self) -> usize {
        self.pieces.open()
    }

    pub(super) fn wants_help(&self) -> bool {
        let helpers = self.helpers.load(Ordering::Relaxed);
        let a_second = self.since.elapsed().as_secs_f64().max(1e-6) * (helpers + 1) as f64;
        let is_fast = self.pieces.written() as f64 / a_second > FAST;
        self.open() > 0 && (!is_fast || helpers == 0) && !self.is_sent_whole.load(Ordering::Relaxed)
    }

    /// Bytes that are there.
    fn there(&self) -> u64 {
        self.had + self.pieces.written()
    }

    pub(super) fn join(&self) {
        self.helpers.fetch_add(1, Ordering::Relaxed);
    }
}

/// What became of a piece.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Fetched {
    Piece,
    /// There was none that nobody is at.
    Nothing,
    /// The host sends all of the blob, whatever it is asked for.
    OnlyWhole,
}

impl<'a> Worker<'_, '_, 'a> {
    /// Fetches a large blob; those who are idle may join. Where a host knows no ranges, or a piece was
    /// wrong and nobody can tell which, it is fetched whole.
    pub(super) fn complete_in_pieces(self, fetch: Fetch<'a>, ingest: Ingest) -> Result<u64, Error> {
        let had = fetch.blob.size.saturating_sub(ingest.missing());
        let shared = Shared {
            blob: fetch.blob,
            pieces: ingest.in_pieces(fetch.session.service.settings.sharing.piece)?,
            had,
            since: Instant::now(),
            helpers: AtomicUsize::new(0),
            is_sent_whole: AtomicBool::new(false),
        };
        let mut ingest = self.lead(fetch, shared)?.pieces.into_ingest()?;
        if ingest.offset() < fetch.blob.size {
            return fetch.complete(ingest, had);
        }
        match ingest.commit() {
            Err(error) if error.kind() == ErrorKind::DigestMismatch => {
                fetch.report_restart();
                fetch.complete(ingest, 0)
            }
            outcome => outcome.map(|()| had),
        }
    }

    /// Fetches pieces until none is open, alone or with others.
    fn lead(self, fetch: Fetch<'a>, shared: Shared<'a>) -> Result<Shared<'a>, Error> {
        let shared = Arc::new(shared);
        let led = self.fetch_pieces(fetch, &shared);
        if let Err(error) = &led {
            // Those who help leave sooner.
            self.crew.fail(error.clone());
        }
        let shared = self.crew.alone_again(shared);
        led.and(shared)
    }

    /// Fetches pieces until none is open, and lets others join when the first bytes have come.
    fn fetch_pieces(self, fetch: Fetch<'a>, shared: &Arc<Shared<'a>>) -> Result<(), Error> {
        let is_offered = Cell::new(false);
        let offer = || {
            if shared.pieces.written() >= PROBE && !is_offered.replace(true) {
                self.crew.floor.lock().shared.push(Arc::clone(shared));
                self.get_help();
            }
        };
        let hand = Hand { fetch, shared, is_told: Cell::new(false), came: &offer };
        while hand.fetch_piece()? == Fetched::Piece {
            // The way may have become slower since.
            self.get_help();
        }
        Ok(())
    }

    /// Fetches pieces of somebody else's blob.
    pub(super) fn help(self, shared: Arc<Shared<'a>>) -> Result<(), Error> {
        // First of all: it was counted when it chose to help.
        let helper = Helper { crew: self.crew, shared: Some(shared) };
        self.get_help();
        let Some(shared) = &helper.shared else { return Ok(()) };
        let fetch = self.crew.fetch_of(shared.blob);
        let hand = Hand { fetch, shared, is_told: Cell::new(true), came: &|| () };
        let mut last = Fetched::Piece;
        while last == Fetched::Piece {
            last = hand.fetch_piece()?;
        }
        if last == Fetched::OnlyWhole {
            shared.is_sent_whole.store(true, Ordering::Relaxed);
        }
        Ok(())
    }
}

impl<'a> Crew<'a> {
    /// Lets nobody join any more, and waits until all helpers have left.
    fn alone_again(&self, shared: Arc<Shared<'a>>) -> Result<Shared<'a>, Error> {
        let mut floor = self.floor.lock();
        floor.shared.retain(|other| !Arc::ptr_eq(other, &shared));
        while shared.helpers.load(Ordering::Relaxed) > 0 {
            self.left.wait(&mut floor);
        }
        Arc::into_inner(shared).ok_or_else(|| {
            Error::new(ErrorKind::Panicked, "a thread that helped with a blob has not left it")
        })
    }
}

/// One who helps; leaves when dropped, also by a panic, for the leader waits for that.
struct Helper<'c, 'a> {
    crew: &'c Crew<'a>,
    shared: Option<Arc<Shared<'a>>>,
}

impl Drop for Helper<'_, '_> {
    fn drop(&mut self) {
        let Some(shared) = self.shared.take() else { return };
        // Under the lock the leader sees the count only when it is the only holder again.
        let floor = self.crew.floor.lock();
        shared.helpers.fetch_sub(1, Ordering::Relaxed);
        drop(shared);
        drop(floor);
        self.crew.left.notify_all();
    }
}

/// One who fetches pieces, the leader or a helper.
struct Hand<'f, 'a> {
    fetch: Fetch<'a>,
    shared: &'f Shared<'a>,
    /// Whether it was told that the blob comes; what broke is told anew when it goes on.
    is_told: Cell<bool>,
    /// Called whenever bytes have come.
    came: &'f dyn Fn(),
}

impl Hand<'_, '_> {
    /// Fetches one piece from one host after the other.
    fn fetch_piece(&self) -> Result<Fetched, Error> {
        let pieces = &self.shared.pieces;
        let Some(mut piece) = pieces.take() else { return Ok(Fetched::Nothing) };
        let reached = Cell::new(piece.next);
        let fetched = self.fetch.over_hosts(&reached, |endpoint| {
            self.download(endpoint, &mut piece, &reached).inspect_err(|_| self.is_told.set(false))
        });
        match fetched {
            Ok(Fetched::Piece) => pieces.finish(&piece)?,
            _ => pieces.give_back(&piece),
        }
        fetched
    }

    /// Fetches what is missing of a piece from one host.
    fn download(
        &self,
        endpoint: &Endpoint,
        piece: &mut Piece,
        reached: &Cell<u64>,
    ) -> Result<Fetched, Error> {
        let (fetch, from) = (&self.fetch, piece.next);
        let range = format!("bytes={from}-{}", piece.end - 1);
        let answer = fetch.request(endpoint, Target::Api(&fetch.path()), Some(&range))?;
        if !fetch.is_brought(from..piece.end, &answer) {
            log::debug!("{}: the host does not keep to the range {range}", endpoint.name);
            return Ok(Fetched::OnlyWhole);
        }
        if !self.is_told.replace(true) {
            fetch.report_start(&endpoint.name, self.shared.there());
        }
        let began = Instant::now();
        let (mut body, _leave) = answer.into_body();
        let named = |error: Error| error.with_host(&endpoint.name);
        self.write(&mut body, piece, reached).map_err(named)?;
        fetch.note_pace(endpoint, piece.next - from, began);
        if piece.next < piece.end {
            let message = format!("{} bytes of the range {range} are missing", piece.end - piece.next);
            return Err(named(Error::new(ErrorKind::SizeMismatch, message)));
        }
        Ok(Fetched::Piece)
    }

    fn write(&self, body: &mut Body, piece: &mut Piece, reached: &Cell<u64>) -> Result<(), Error> {
        self.fetch.read(body, piece.end - piece.next, reached, |bytes| {
            self.shared.pieces.write(piece, bytes)?;
            (self.came)();
            Ok(piece.next)
        })
    }
}
