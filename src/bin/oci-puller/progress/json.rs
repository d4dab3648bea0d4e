//! Progress as JSON lines on standard error, for programs. `pull --help` documents the fields.

use std::convert::Infallible;
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError};
use oci_puller::PullResult;
use oci_puller::progress::ProgressEvent;
use parking_lot::Mutex;
use serde_json::{Value, json};

use super::image::{Image, State};
use crate::stderr::say_json;

const EVERY: Duration = Duration::from_secs(1);

/// Writes every second how far each image is, until the end.
pub(super) fn repeat(images: &Mutex<Vec<Image>>, stopped: &Receiver<Infallible>) {
    while stopped.recv_timeout(EVERY) == Err(RecvTimeoutError::Timeout) {
        let is_running = |image: &&Image| image.state == State::Running && image.total() > 0;
        let lines: Vec<_> = images.lock().iter().filter(is_running).map(progress).collect();
        lines.iter().for_each(say_json);
    }
}

fn progress(image: &Image) -> Value {
    json!({
        "event": "progress",
        "image": image.full_name,
        "done": image.position(),
        "total": image.total(),
        "bytes_per_second": image.per_second(),
    })
}

/// Writes an event, unless it is one of the many of a running download.
pub(super) fn event(image: &Image, event: &ProgressEvent) {
    let mut line = match event {
        ProgressEvent::Started => json!({ "event": "started" }),
        ProgressEvent::Resolved { host, manifest, blobs, bytes } => json!({
            "event": "resolved", "host": host, "manifest_digest": manifest.as_str(), "blobs": blobs, "bytes": bytes,
        }),
        ProgressEvent::OtherPlatform { offered, wanted } => json!({
            "event": "other_platform", "offered": offered.to_string(), "wanted": wanted.to_string(),
        }),
        ProgressEvent::BlobReused { digest, size } => {
            json!({ "event": "blob_reused", "digest": digest.as_str(), "size": size })
        }
        ProgressEvent::BlobStarted { digest, size, offset, host } => json!({
            "event": "blob_started", "digest": digest.as_str(), "size": size, "offset": offset, "host": host,
        }),
        ProgressEvent::BlobRestarted { digest, bytes } => {
            json!({ "event": "blob_restarted", "digest": digest.as_str(), "bytes": bytes })
        }
        ProgressEvent::BlobDone { digest } => json!({ "event": "blob_done", "digest": digest.as_str() }),
        ProgressEvent::Waiting { host, reason, delay } => json!({
            "event": "waiting", "host": host, "reason": reason, "seconds": delay.as_secs_f64(),
        }),
        _ => return,
    };
    line["image"] = image.full_name.as_str().into();
    say_json(&line);
}

/// Writes that a pull has ended.
pub(super) fn ended(image: &Image, result: &PullResult) {
    say_json(&json!({
        "event": "ended",
        "image": image.full_name,
        "ok": result.outcome.is_ok(),
        "seconds": result.pull_duration.as_secs_f64(),
    }));
}
