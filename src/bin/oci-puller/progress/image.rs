//! How far one image is.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use oci_puller::{Digest, ProgressEvent};

use crate::names;
use crate::units::{Bytes, Share, Time};

/// One image, as its pull reports it.
pub(super) struct Image {
    pub(super) name: String,
    pub(super) state: State,
    /// What it has in all, bytes; 0 while that is not known.
    pub(super) total: u64,
    host: String,
    /// Bytes that came over the network and were kept.
    pub(super) fetched: u64,
    /// Bytes of blobs that are whole.
    finished: u64,
    /// Bytes of blobs on their way.
    coming: HashMap<Digest, u64>,
    resumed: Option<(Digest, u64)>,
    /// Whether it is unpacked, and nothing of it fetched.
    is_unpacked: bool,
    waiting: Option<Waiting>,
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
            state: State::Queued,
            total: 0,
            host: String::new(),
            fetched: 0,
            finished: 0,
            coming: HashMap::new(),
            resumed: None,
            is_unpacked: false,
            waiting: None,
        }
    }

    /// Bytes that are there.
    pub(super) fn done(&self) -> u64 {
        self.finished + self.coming.values().sum::<u64>()
    }

    pub(super) fn event(&mut self, event: &ProgressEvent<'_>) {
        match *event {
            ProgressEvent::Started => self.state = State::Running,
            ProgressEvent::Resolved { host, bytes, .. } => {
                self.total = bytes;
                host.clone_into(&mut self.host);
            }
            ProgressEvent::BlobReused { size, .. } => self.finished += size,
            ProgressEvent::BlobStarted { digest, offset, host, .. } => {
                // Told again, it may be a little ahead of what was told to have come.
                self.coming.entry(digest.clone()).or_insert(offset);
                host.clone_into(&mut self.host);
                if offset > 0 {
                    self.resumed = Some((digest.clone(), offset));
                }
            }
            ProgressEvent::BlobAdvanced { digest, bytes } => {
                *self.coming.entry(digest.clone()).or_default() += bytes;
                self.fetched += bytes;
            }
            ProgressEvent::UnpackAdvanced { bytes, .. } if self.is_unpacked => self.finished += bytes,
            ProgressEvent::BlobRestarted { digest } => {
                let lost = self.coming.insert(digest.clone(), 0).unwrap_or_default();
                self.fetched = self.fetched.saturating_sub(lost);
            }
            ProgressEvent::BlobDone { digest } => self.finish(digest),
            ProgressEvent::Waiting { host, reason, delay } => {
                self.waiting = Some(Waiting {
                    until: Instant::now() + delay,
                    host: host.to_owned(),
                    reason: reason.to_owned(),
                });
            }
            _ => {}
        }
    }

    fn finish(&mut self, digest: &Digest) {
        self.finished += self.coming.remove(digest).unwrap_or_default();
        if self.resumed.as_ref().is_some_and(|(resumed, _)| resumed == digest) {
            self.resumed = None;
        }
    }

    /// Shows an image whose layers, of these bytes, are unpacked from the store.
    #[cfg(feature = "unpack")]
    pub(super) fn start_unpacking(&mut self, bytes: u64) {
        self.state = State::Running;
        self.is_unpacked = true;
        self.total = bytes;
    }

    pub(super) fn end(&mut self, is_pulled: bool, took: Duration) {
        self.state = if is_pulled { State::Pulled(took) } else { State::Failed };
    }

    /// What stands beside its bar; the most urgent first, for the line's end may be cut off.
    pub(super) fn note(&self, now: Instant) -> String {
        let note = match (self.state, &self.waiting, &self.resumed) {
            (State::Queued, ..) => "waits for its turn".to_owned(),
            (State::Failed, ..) => "failed".to_owned(),
            (State::Pulled(took), ..) => return format!("{:>14}  done in {}", Bytes(self.total), Time(took)),
            (_, Some(waiting), _) if waiting.until > now => return waiting.told(now),
            (_, _, Some((_, offset))) => format!("resumed at {}, {}", Bytes(*offset), self.host),
            _ if self.total == 0 => return "resolving".to_owned(),
            _ => self.host.clone(),
        };
        match self.total {
            0 => note,
            total => format!("{:>14}  {note}", Share(self.done(), total)),
        }
    }
}

impl Waiting {
    fn told(&self, now: Instant) -> String {
        // Rounded up: "in 0 s" would be now.
        let seconds = self.until.saturating_duration_since(now).as_millis().div_ceil(1000);
        match status_in(&self.reason) {
            Some(status) => format!("{status} from {}, next try in {seconds} s", self.host),
            None => format!("next try in {seconds} s, {}: {}", self.host, self.reason),
        }
    }
}

/// The HTTP status that a host refused with; it says the most in the fewest words.
fn status_in(reason: &str) -> Option<&str> {
    reason.split_once("status ").and_then(|(_, status)| status.get(..3))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn events(image: &mut Image, events: &[ProgressEvent<'_>]) {
        for event in events {
            image.event(event);
        }
    }

    #[test]
    fn a_blob_that_breaks_and_goes_on_is_counted_once() {
        let (one, two) = (Digest::sha256(b"1"), Digest::sha256(b"2"));
        let mut image = Image::new("app");
        let started = |digest, offset| ProgressEvent::BlobStarted { digest, size: 100, offset, host: "h" };
        events(
            &mut image,
            &[
                ProgressEvent::Started,
                ProgressEvent::Resolved { host: "h", manifest: &one, blobs: 3, bytes: 250 },
                ProgressEvent::BlobReused { digest: &two, size: 50 },
                started(&one, 0),
                ProgressEvent::BlobAdvanced { digest: &one, bytes: 60 },
            ],
        );
        assert_eq!(image.done(), 110);
        events(&mut image, &[started(&one, 60), ProgressEvent::BlobAdvanced { digest: &one, bytes: 40 }]);
        assert_eq!(image.done(), 150);
        assert_eq!(image.note(Instant::now()), "     150/250 B  resumed at 60 B, h");
        events(&mut image, &[ProgressEvent::BlobRestarted { digest: &one }]);
        assert_eq!((image.done(), image.fetched), (50, 0));
        events(
            &mut image,
            &[
                ProgressEvent::BlobAdvanced { digest: &one, bytes: 100 },
                ProgressEvent::BlobDone { digest: &one },
            ],
        );
        assert_eq!((image.done(), image.note(Instant::now()).as_str()), (150, "     150/250 B  h"));
    }

    #[test]
    fn a_wait_is_told_while_it_lasts() {
        let delay = Duration::from_secs(12);
        for (reason, note) in [
            ("rate limited: status 429: TOOMANYREQUESTS", "429 from h, next try in 12 s"),
            ("host not found: no such name", "next try in 12 s, h: host not found: no such name"),
        ] {
            let mut image = Image::new("app");
            events(
                &mut image,
                &[ProgressEvent::Started, ProgressEvent::Waiting { host: "h", reason, delay }],
            );
            let now = Instant::now();
            assert_eq!(image.note(now), note);
            assert_eq!(image.note(now + delay), "resolving");
        }
    }
}
