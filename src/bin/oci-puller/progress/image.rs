//! The progress of one image.

use std::time::{Duration, Instant};

use oci_puller::image::Digest;
use oci_puller::progress::{ProgressEvent, ProgressState};

use crate::names;
use crate::units::{Bytes, Share, Time};

/// One image, as the events of its pull describe it.
pub(super) struct Image {
    /// The name without its host.
    pub(super) name: String,
    /// The name as it was given.
    pub(super) full_name: String,
    pub(super) state: State,
    progress: ProgressState,
    host: String,
    resumed: Option<(Digest, u64)>,
    /// The bytes of its layers that are unpacked, and of all, if it is unpacked and not fetched.
    unpacked: Option<(u64, u64)>,
    waiting: Option<Waiting>,
    is_damaged: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum State {
    Queued,
    Running,
    Pulled(Duration),
    Failed,
}

struct Waiting {
    until: Instant,
    host: String,
    reason: String,
}

impl Image {
    pub(super) fn new(name: &str) -> Self {
        Image {
            name: names::brief(name),
            full_name: name.to_owned(),
            state: State::Queued,
            progress: ProgressState::new(),
            host: String::new(),
            resumed: None,
            unpacked: None,
            waiting: None,
            is_damaged: false,
        }
    }

    /// Returns its size in bytes; 0 while that is not known.
    pub(super) fn total(&self) -> u64 {
        self.unpacked.map_or(self.progress.total(), |(_, total)| total)
    }

    /// Returns the bytes that were received and kept; 0 if bytes were thrown away.
    pub(super) fn received(&self) -> u64 {
        if self.is_damaged { 0 } else { self.progress.received() }
    }

    pub(super) fn event(&mut self, event: &ProgressEvent) {
        self.progress.apply(event);
        match event {
            ProgressEvent::Started => self.state = State::Running,
            ProgressEvent::Resolved { host, .. } => host.clone_into(&mut self.host),
            ProgressEvent::BlobStarted { digest, offset, host, .. } => {
                host.clone_into(&mut self.host);
                if *offset > 0 {
                    self.resumed = Some((digest.clone(), *offset));
                }
            }
            ProgressEvent::UnpackAdvanced { bytes, .. } => {
                if let Some((done, _)) = &mut self.unpacked {
                    *done += bytes;
                }
            }
            ProgressEvent::BlobDone { digest } => {
                self.resumed.take_if(|(resumed, _)| resumed == digest);
            }
            ProgressEvent::Waiting { host, reason, delay } => {
                self.waiting = Some(Waiting {
                    until: Instant::now() + *delay,
                    host: host.clone(),
                    reason: reason.clone(),
                });
            }
            _ => {}
        }
    }

    /// Shows an image whose layers, of these bytes, are unpacked from the store.
    #[cfg(feature = "unpack")]
    pub(super) fn start_unpacking(&mut self, bytes: u64) {
        self.state = State::Running;
        self.unpacked = Some((0, bytes));
    }

    /// Notes that bytes of it were wrong and thrown away.
    pub(super) fn set_damaged(&mut self) {
        self.is_damaged = true;
    }

    pub(super) fn end(&mut self, is_pulled: bool, took: Duration) {
        self.state = if is_pulled { State::Pulled(took) } else { State::Failed };
    }

    /// Returns the rate in bytes per second; 0 while it is not known.
    pub(super) fn per_second(&self) -> u64 {
        if self.state == State::Running { self.progress.rate() } else { 0 }
    }

    /// Returns the bytes of its total that are in the store: all when it is pulled, because a repeated layer, or one
    /// that another pull fetched, is not counted twice.
    pub(super) fn position(&self) -> u64 {
        match self.state {
            State::Pulled(_) => self.total(),
            _ => self.unpacked.map_or(self.progress.done(), |(done, total)| done.min(total)),
        }
    }

    /// Returns whether it waits for a host.
    pub(super) fn is_waiting(&self, now: Instant) -> bool {
        self.state == State::Running && self.waiting.as_ref().is_some_and(|waiting| waiting.until > now)
    }

    /// Returns the text beside its bar, in at most `room` columns. The most important part comes first; parts that do
    /// not fit are left out.
    pub(super) fn note(&self, now: Instant, room: usize) -> String {
        let percent = percent(self.position(), self.total());
        let text = match (self.state, &self.waiting) {
            (State::Queued, _) => "waiting for its turn",
            (State::Failed, _) => "failed",
            (State::Pulled(took), _) => {
                let size = format!("{:>13}", Bytes(self.total()).to_string());
                return joined([percent, size, format!("done in {}", Time(took))], room);
            }
            (_, Some(waiting)) if waiting.until > now => return joined(waiting.parts(now), room),
            _ if self.total() == 0 => "resolving",
            _ => {
                let amount = amount(self.position(), self.total(), self.per_second());
                let resumed = self.resumed.as_ref();
                let resumed = resumed.map(|(_, offset)| format!("resumed at {}", Bytes(*offset)));
                return joined(amount.into_iter().chain([self.host.clone()]).chain(resumed), room);
            }
        };
        let percent = (self.total() > 0).then_some(percent);
        joined(percent.into_iter().chain([text.to_owned()]), room)
    }
}

/// Returns the parts that describe an amount: percent, bytes, rate and time left.
pub(super) fn amount(done: u64, total: u64, per_second: u64) -> Vec<String> {
    let mut parts = vec![percent(done, total), format!("{:>13}", Share(done, total).to_string())];
    if per_second > 0 && done < total {
        let left = Duration::from_secs((total - done).div_ceil(per_second));
        let left = if left.as_secs() < 60 { format!("{} s", left.as_secs()) } else { Time(left).to_string() };
        parts.push(format!("{:>8}/s", Bytes(per_second).to_string()));
        parts.push(format!("{left} left"));
    }
    parts
}

fn percent(done: u64, total: u64) -> String {
    let percent = u128::from(done) * 100 / u128::from(total.max(1));
    format!("{percent:>3}%")
}

/// Joins the parts that fit.
pub(super) fn joined(parts: impl IntoIterator<Item = String>, room: usize) -> String {
    let mut text = String::new();
    for part in parts {
        let gap = if text.is_empty() { "" } else { "  " };
        let fits = |part: &str| text.chars().count() + gap.len() + part.chars().count() <= room;
        if !fits(&part) && !fits(part.trim_start()) {
            break;
        }
        let part = if fits(&part) { &part } else { part.trim_start() };
        text = format!("{text}{gap}{part}");
    }
    text
}

impl Waiting {
    /// Returns the parts of the note: when the next try is, at which host, and why.
    fn parts(&self, now: Instant) -> Vec<String> {
        // Rounded up: "in 0 s" would be now.
        let seconds = self.until.saturating_duration_since(now).as_millis().div_ceil(1000);
        match status_in(&self.reason) {
            Some(status) => vec![format!("{status}, next try in {seconds} s"), self.host.clone()],
            None => vec![format!("next try in {seconds} s"), self.host.clone(), self.reason.clone()],
        }
    }
}

/// Returns the HTTP status in a reason: it says the most in the fewest words.
fn status_in(reason: &str) -> Option<&str> {
    reason.split_once("status ").and_then(|(_, status)| status.get(..3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(image: &mut Image, events: &[ProgressEvent]) {
        for event in events {
            image.event(event);
        }
    }

    #[test]
    fn a_resumed_blob_is_counted_once() {
        let (one, two) = (Digest::sha256(b"1"), Digest::sha256(b"2"));
        let mut image = Image::new("app");
        let host = || "h".to_owned();
        let started = |digest: &Digest, offset| ProgressEvent::BlobStarted {
            digest: digest.clone(),
            size: 100,
            offset,
            host: host(),
        };
        events(
            &mut image,
            &[
                ProgressEvent::Started,
                ProgressEvent::Resolved { host: host(), manifest: one.clone(), blobs: 3, bytes: 250 },
                ProgressEvent::BlobReused { digest: two.clone(), size: 50 },
                started(&one, 0),
                ProgressEvent::BlobAdvanced { digest: one.clone(), bytes: 60 },
            ],
        );
        assert_eq!(image.position(), 110);
        events(
            &mut image,
            &[started(&one, 60), ProgressEvent::BlobAdvanced { digest: one.clone(), bytes: 40 }],
        );
        assert_eq!(image.position(), 150);
        let note = |image: &Image, room| image.note(Instant::now(), room);
        assert_eq!(note(&image, 80), " 60%      150/250 B  h  resumed at 60 B");
        assert_eq!(note(&image, 20), " 60%      150/250 B");
        assert_eq!(note(&image, 16), " 60%  150/250 B");
        events(&mut image, &[ProgressEvent::BlobRestarted { digest: one.clone(), bytes: 100 }]);
        assert_eq!((image.position(), image.received()), (50, 0));
        events(
            &mut image,
            &[
                ProgressEvent::BlobAdvanced { digest: one.clone(), bytes: 100 },
                ProgressEvent::BlobDone { digest: one.clone() },
            ],
        );
        assert_eq!((image.position(), note(&image, 80).as_str()), (150, " 60%      150/250 B  h"));
    }

    #[test]
    fn a_wait_is_shown_while_it_lasts() {
        let delay = Duration::from_secs(12);
        for (reason, note) in [
            ("rate limited: status 429: TOOMANYREQUESTS", "429, next try in 12 s  h"),
            ("host not found: no such name", "next try in 12 s  h  host not found: no such name"),
        ] {
            let mut image = Image::new("app");
            events(
                &mut image,
                &[
                    ProgressEvent::Started,
                    ProgressEvent::Waiting { host: "h".to_owned(), reason: reason.to_owned(), delay },
                ],
            );
            let now = Instant::now();
            assert_eq!(image.note(now, 80), note);
            let short = image.note(now, 22);
            assert!(!short.is_empty() && note.starts_with(&short), "{short}");
            assert_eq!(image.note(now + delay, 80), "resolving");
        }
    }

    #[test]
    fn an_amount_has_rate_and_time_left() {
        for (done, rate, told) in [
            (25_000_000, 5_000_000, " 25%  25.0/100.0 MB    5.0 MB/s  15 s left"),
            (25_000_000, 100_000, " 25%  25.0/100.0 MB  100.0 kB/s  12 min 30 s left"),
            (25_000_000, 0, " 25%  25.0/100.0 MB"),
            (100_000_000, 5_000_000, "100%  100.0/100.0 MB"),
        ] {
            assert_eq!(joined(amount(done, 100_000_000, rate), 80), told);
        }
    }
}
