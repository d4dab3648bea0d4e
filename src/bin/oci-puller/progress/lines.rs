//! Progress as lines, for logs and for terminals that cannot draw bars.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use oci_puller::progress::ProgressEvent;
use oci_puller::{PullResult, PulledImage};
use parking_lot::Mutex;

use super::image::{Image, State};
use crate::names::short;
use crate::stderr::say;
use crate::units::{Bytes, Time};

const EVERY: Duration = Duration::from_secs(10);

/// Writes every 10 s how far each image is, until the end.
pub(super) fn repeat(images: &Mutex<Vec<Image>>, stopped: &Receiver<Infallible>) {
    while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
        let now = Instant::now();
        let is_running = |image: &&Image| image.state == State::Running && image.total() > 0;
        let told = |image: &Image| format!("{}: {}", image.name, image.note(now, usize::MAX).trim_start());
        let lines: Vec<_> = images.lock().iter().filter(is_running).map(told).collect();
        lines.iter().for_each(|line| say(line));
    }
}

/// Writes the events that are worth a line.
pub(super) fn event(image: &Image, event: &ProgressEvent) {
    let name = &image.name;
    match event {
        ProgressEvent::Resolved { host, manifest, blobs, bytes } => {
            let manifest = short(manifest.as_str());
            say(&format!("{name}: {manifest} at {host}, {blobs} blobs, {}", Bytes(*bytes)));
        }
        ProgressEvent::OtherPlatform { offered, wanted } => {
            say(&format!("{name}: warning: the image is for {offered}, not for {wanted}"));
        }
        ProgressEvent::BlobStarted { digest, size, offset, host } if *offset > 0 => {
            let blob = short(digest.as_str());
            say(&format!("{name}: {blob} resumed at {} of {}, from {host}", Bytes(*offset), Bytes(*size)));
        }
        ProgressEvent::BlobRestarted { digest, bytes } => {
            let blob = short(digest.as_str());
            say(&format!("{name}: {blob} restarts at 0, {} are thrown away", Bytes(*bytes)));
        }
        ProgressEvent::Waiting { host, reason, delay } => {
            say(&format!("{name}: {host}: {reason}; next try in {}", Time(*delay)));
        }
        _ => {}
    }
}

/// Writes that an image is pulled.
pub(super) fn done(image: &Image, pulled: &PulledImage, result: &PullResult) {
    say(&format!(
        "{}: done in {}, {} fetched, {} reused",
        image.name,
        Time(result.pull_duration),
        Bytes(pulled.bytes_fetched),
        Bytes(pulled.bytes_reused),
    ));
}
