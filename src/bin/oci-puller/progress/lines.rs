//! What happens, one line each: for logs, and for terminals that have no bars.

use oci_puller::{ProgressEvent, PullResult, PulledImage};

use super::image::Image;
use crate::names::short;
use crate::stderr::say;
use crate::units::{Bytes, Time};

/// Tells an event that is worth a line.
pub(super) fn event(image: &Image, event: &ProgressEvent<'_>) {
    let name = &image.name;
    match *event {
        ProgressEvent::Resolved { host, manifest, blobs, bytes } => {
            let manifest = short(manifest.as_str());
            say(&format!("{name}: {manifest} at {host}, {blobs} blobs, {}", Bytes(bytes)));
        }
        ProgressEvent::OtherPlatform { offered, wanted } => {
            say(&format!("{name}: warning: the image is for {offered}, not for {wanted}"));
        }
        ProgressEvent::BlobStarted { digest, size, offset, host } if offset > 0 => {
            let blob = short(digest.as_str());
            say(&format!("{name}: {blob} resumed at {} of {}, from {host}", Bytes(offset), Bytes(size)));
        }
        ProgressEvent::BlobRestarted { digest } => {
            say(&format!("{name}: {} begins again", short(digest.as_str())));
        }
        ProgressEvent::Waiting { host, reason, delay } => {
            say(&format!("{name}: {host}: {reason}; next try in {}", Time(delay)));
        }
        _ => {}
    }
}

/// Tells that an image is there.
pub(super) fn done(image: &Image, pulled: &PulledImage, result: &PullResult) {
    say(&format!(
        "{}: done in {}, {} fetched, {} reused",
        image.name,
        Time(result.pull_duration),
        Bytes(pulled.bytes_fetched),
        Bytes(pulled.bytes_reused),
    ));
}
