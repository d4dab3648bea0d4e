//! Unpacks the layers of an image side by side.
//!
//! Each thread takes the next layer and reads it to its end; a second thread decompresses for it. The layer
//! in turn is applied as it is read. Of one that is ahead, files are written to a staging folder, and
//! all else gathers in memory ([`turn`](crate::unpack::turn)).

use std::collections::{BTreeMap, VecDeque};
use std::io::{self, BufReader, Read};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::thread;

use parking_lot::Mutex;

use crate::context::PullContext;
use crate::error::{Error, ErrorKind};
use crate::image::digest::Digest;
use crate::progress::ProgressEvent;
use crate::tar::{Entry, Reader};
use crate::unpack::change::{Change, What};
use crate::unpack::fault::UnpackFault;
use crate::unpack::merge::Merge;
use crate::unpack::output::{Body, Content, Output};
use crate::unpack::settings::{Settings, Xattrs};
use crate::unpack::stream::{Budget, Stream};
use crate::unpack::turn::{Ended, Turn};

/// Bytes of a layer that are read at once.
const READ: usize = 128 << 10;
/// Bytes of extended attributes of a layer that is ahead which may gather.
const MAX_AHEAD: usize = 512 << 10;

/// A layer that is to be unpacked, or is there already.
pub(super) struct Layer {
    pub(super) digest: Digest,
    pub(super) diff_id: Digest,
    pub(super) is_there: bool,
}

/// Where the layers come from.
pub(super) trait LayerSource: Sync {
    /// Opens a layer's blob.
    fn open(&self, layer: &Layer) -> Result<Box<dyn Read + Send>, Error>;
}

/// Adds to the tree what is known of a layer that is there.
pub(super) type Load<'a, O> = dyn Fn(&mut Merge<O>, usize) -> Result<(), UnpackFault> + Sync + 'a;

/// How many there were of all.
#[derive(Default)]
pub(super) struct Totals {
    pub(super) entries: AtomicU64,
    pub(super) files: AtomicU64,
    pub(super) bytes: AtomicU64,
}

/// The work on one image.
pub(super) struct Run<'a, O: Output> {
    pub(super) layers: &'a [Layer],
    pub(super) source: &'a dyn LayerSource,
    pub(super) output: Arc<O>,
    pub(super) load: &'a Load<'a, O>,
    pub(super) settings: &'a Settings,
    pub(super) xattrs: Xattrs,
    pub(super) cx: &'a PullContext,
    pub(super) totals: &'a Totals,
}

/// What a layer that was read has left to be applied.
enum Rest<S> {
    Ahead(Ahead<S>),
    /// It is there, and only to be added to the tree.
    Known,
}

/// What gathers of a layer before it can be applied.
struct Ahead<S> {
    markers: Vec<Change>,
    entries: VecDeque<(Change, Option<S>)>,
    /// Bytes of extended attributes in them.
    xattr_bytes: usize,
}

impl<O: Output> Run<'_, O> {
    /// Unpacks all layers, and returns the tree.
    ///
    /// # Errors
    /// That of the lowest layer that failed.
    pub(super) fn run(&self) -> Result<Merge<O>, Error> {
        let work = Work {
            run: self,
            budget: Budget::new(self.cx, self.settings.max_bytes, self.settings.max_entries),
            turn: Turn::new(Merge::new(self.output.clone()), 0),
            next: AtomicUsize::new(0),
            errors: Mutex::default(),
        };
        let threads = self.settings.threads.clamp(1, self.layers.len().max(1));
        thread::scope(|scope| {
            let work = &work;
            for number in 1..threads {
                let body = move || work.work(number);
                let name = format!("unpack-{number}");
                if let Err(error) = thread::Builder::new().name(name).spawn_scoped(scope, body) {
                    log::warn!("layers are unpacked by {number} threads instead of {threads}: {error}");
                    break;
                }
            }
            work.work(0);
        });
        match work.errors.into_inner().pop_first() {
            Some((_, error)) => Err(error),
            None => work.turn.into_tree().ok_or_else(|| Error::new(ErrorKind::Panicked, "the tree was lost")),
        }
    }

    /// The layer, for a message.
    fn label(&self, layer: usize) -> String {
        let digest = self.layers.get(layer).map_or_else(String::new, |layer| format!(" ({})", layer.digest));
        format!("layer {} of {}{digest}", layer + 1, self.layers.len())
    }
}

/// A layer that was read to its end: the tree if it has the turn, and what is left to be applied.
type WasRead<O> = (Option<Merge<O>>, Ahead<<O as Output>::Staged>);

struct Work<'a, O: Output> {
    run: &'a Run<'a, O>,
    budget: Budget,
    turn: Turn<Merge<O>, Rest<O::Staged>>,
    next: AtomicUsize,
    errors: Mutex<BTreeMap<usize, Error>>,
}

impl<O: Output> Work<'_, O> {
    /// Takes layer after layer.
    fn work(&self, thread: usize) {
        while !self.budget.has_failed() {
            let number = self.next.fetch_add(1, Ordering::Relaxed);
            let Some(layer) = self.run.layers.get(number) else { return };
            let outcome = catch_unwind(AssertUnwindSafe(|| match layer.is_there {
                true => self.end(number, None, Rest::Known),
                false => self.layer(thread, number, layer),
            }));
            let error = match outcome {
                Ok(Ok(())) => continue,
                Ok(Err(error)) => error,
                Err(_) => {
                    let text = format!("{}: unpacking it panicked", self.run.label(number));
                    Error::new(ErrorKind::Panicked, text)
                }
            };
            // The others end because of the first that failed.
            if !(self.budget.has_failed() && error.kind() == ErrorKind::Cancelled) {
                self.errors.lock().insert(number, error);
            }
            self.budget.fail();
        }
    }

    /// Reads a layer to its end.
    fn layer(&self, thread: usize, number: usize, layer: &Layer) -> Result<(), Error> {
        let at_layer = |fault: UnpackFault| fault.at(&self.run.label(number), None);
        let (merge, rest) = thread::scope(|scope| {
            let source = self.run.source.open(layer)?;
            let counted = Counted { source, cx: self.run.cx, digest: &layer.digest };
            let stream = Stream::start(
                scope,
                format!("inflate-{thread}"),
                BufReader::with_capacity(READ, counted),
                self.run.settings.zstd_window,
                layer.diff_id.algorithm(),
                &self.budget,
            )
            .map_err(at_layer)?;
            self.read(number, layer, Reader::new(stream))
        })?;
        self.end(number, merge, Rest::Ahead(rest))
    }

    /// Reads the entries; returns the tree if the layer has the turn, and what could not be applied yet.
    fn read(
        &self,
        number: usize,
        layer: &Layer,
        mut reader: Reader<Stream<'_>>,
    ) -> Result<WasRead<O>, Error> {
        let label = || self.run.label(number);
        let mut merge = None;
        let mut ahead = Ahead { markers: Vec::new(), entries: VecDeque::new(), xattr_bytes: 0 };
        loop {
            let next = reader.next_entry().map_err(|error| UnpackFault::stream(error).at(&label(), None))?;
            let Some(entry) = next else { break };
            if merge.is_none() {
                merge = self.take_turn(number);
                if let Some(merge) = &mut merge {
                    self.settle(number, merge, &mut ahead, false)?;
                }
            }
            self.entry(number, &entry, &mut reader, merge.as_mut(), &mut ahead)
                .map_err(|fault| fault.at(&label(), Some(entry.path())))?;
        }
        let digest =
            reader.into_inner().finish().map_err(|error| UnpackFault::stream(error).at(&label(), None))?;
        if digest != layer.diff_id {
            let text = format!("it unpacks to {digest}, and the config says {}", layer.diff_id);
            return Err(UnpackFault::new(ErrorKind::DigestMismatch, text).at(&label(), None));
        }
        Ok((merge, ahead))
    }

    fn entry(
        &self,
        number: usize,
        entry: &Entry,
        reader: &mut Reader<Stream<'_>>,
        merge: Option<&mut Merge<O>>,
        ahead: &mut Ahead<O::Staged>,
    ) -> Result<(), UnpackFault> {
        self.budget.count_entry()?;
        self.run.totals.entries.fetch_add(1, Ordering::Relaxed);
        let Some(change) = Change::read(entry, self.run.xattrs)? else { return Ok(()) };
        if matches!(change.what, What::File) {
            self.run.totals.files.fetch_add(1, Ordering::Relaxed);
            self.run.totals.bytes.fetch_add(entry.size(), Ordering::Relaxed);
            if let Some(segments) = entry.segments() {
                let stored: u64 = segments.iter().map(|segment| segment.len).sum();
                self.budget.count_bytes(entry.size() - stored)?;
            }
        }
        let body = Body { content: reader, size: entry.size(), segments: entry.segments() };
        if let Some(merge) = merge
            && (change.is_marker() || (ahead.entries.is_empty() && !merge.must_wait(&change)))
        {
            return merge.apply(change, Some(Content::Body(body)));
        }
        self.gather(number, change, body, ahead)
    }

    /// Keeps a change for later; a file's content goes to the output at once.
    fn gather(
        &self,
        number: usize,
        change: Change,
        body: Body<'_>,
        ahead: &mut Ahead<O::Staged>,
    ) -> Result<(), UnpackFault> {
        if change.is_marker() {
            ahead.markers.push(change);
            return Ok(());
        }
        let staged = match change.what {
            What::File => Some(self.run.output.stage(index(number), &change.meta, &change.xattrs, body)?),
            _ => None,
        };
        let xattrs = if staged.is_some() { Vec::new() } else { change.xattrs };
        ahead.xattr_bytes += xattrs.iter().map(|(name, value)| name.len() + value.len()).sum::<usize>();
        if ahead.xattr_bytes > MAX_AHEAD {
            let text = format!("the extended attributes of its folders are more than {MAX_AHEAD} bytes");
            return Err(UnpackFault::unsupported(text));
        }
        ahead.entries.push_back((Change { xattrs, ..change }, staged));
        Ok(())
    }

    /// Applies what has gathered; before the layer's end, only what no later marker can change.
    fn settle(
        &self,
        number: usize,
        merge: &mut Merge<O>,
        ahead: &mut Ahead<O::Staged>,
        is_last: bool,
    ) -> Result<(), Error> {
        let label = || self.run.label(number);
        for marker in std::mem::take(&mut ahead.markers) {
            let path = marker.path.clone();
            merge.apply(marker, None).map_err(|fault| fault.at(&label(), Some(&path)))?;
        }
        while let Some((change, staged)) = ahead.entries.pop_front() {
            self.budget.check()?;
            let path = change.path.clone();
            let at_entry = |fault: UnpackFault| fault.at(&label(), Some(&path));
            if !is_last && merge.must_wait(&change) {
                ahead.entries.push_front((change, staged));
                break;
            }
            merge.apply(change, staged.map(Content::Staged)).map_err(at_entry)?;
        }
        Ok(())
    }

    /// Ends a layer that was read, in its turn, and those after it that wait for it.
    fn end(&self, number: usize, merge: Option<Merge<O>>, rest: Rest<O::Staged>) -> Result<(), Error> {
        let mut ended = Vec::new();
        let outcome = self.end_in_turn(number, merge, rest, &mut ended);
        // What is whole gets its name, whatever the layers after it come to.
        for number in ended {
            self.run
                .output
                .commit_layer(index(number))
                .map_err(|fault| fault.at(&self.run.label(number), None))?;
            if let Some(layer) = self.run.layers.get(number) {
                self.run.cx.report(&ProgressEvent::LayerUnpacked { digest: layer.digest.clone() });
            }
        }
        outcome
    }

    fn end_in_turn(
        &self,
        mut number: usize,
        merge: Option<Merge<O>>,
        rest: Rest<O::Staged>,
        ended: &mut Vec<usize>,
    ) -> Result<(), Error> {
        let mut mine = match merge {
            Some(merge) => (merge, rest),
            None => match self.turn.take_or_park(number, rest) {
                Ended::InTurn(mut merge, rest) => {
                    merge.begin(index(number));
                    (merge, rest)
                }
                Ended::Parked => return Ok(()),
            },
        };
        loop {
            let (mut merge, rest) = mine;
            let at_layer = |fault: UnpackFault| fault.at(&self.run.label(number), None);
            match rest {
                Rest::Known => (self.run.load)(&mut merge, number).map_err(at_layer)?,
                Rest::Ahead(mut ahead) => {
                    self.settle(number, &mut merge, &mut ahead, true)?;
                    merge.end().map_err(at_layer)?;
                    ended.push(number);
                }
            }
            let Some(next) = self.turn.pass(number, merge) else { return Ok(()) };
            number += 1;
            mine = next;
            mine.0.begin(index(number));
        }
    }

    fn take_turn(&self, number: usize) -> Option<Merge<O>> {
        let mut merge = self.turn.take(number)?;
        merge.begin(index(number));
        Some(merge)
    }
}

/// A manifest has at most 4,096 layers.
fn index(number: usize) -> u16 {
    u16::try_from(number).unwrap_or(u16::MAX)
}

/// Reports the bytes of a layer that were read.
struct Counted<'a, R> {
    source: R,
    cx: &'a PullContext,
    digest: &'a Digest,
}

impl<R: Read> Read for Counted<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.source.read(buffer)?;
        if read > 0 {
            self.cx
                .report(&ProgressEvent::UnpackAdvanced { digest: self.digest.clone(), bytes: read as u64 });
        }
        Ok(read)
    }
}
