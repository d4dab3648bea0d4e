//! Standard error: messages, errors and the log, above the progress bars if there are any.

use std::io::{self, Write};
use std::sync::atomic::{AtomicBool, Ordering};

use indicatif::MultiProgress;
use oci_puller::{Error, ErrorKind};
use parking_lot::Mutex;
use serde_json::{Value, json};

use crate::escape::{escaped, escaped_json};

/// The bars that are shown.
static BARS: Mutex<Option<MultiProgress>> = Mutex::new(None);

/// Whether each message is written as a JSON object.
static IS_JSON: AtomicBool = AtomicBool::new(false);

/// Writes messages as JSON objects from now on.
pub(crate) fn write_json() {
    IS_JSON.store(true, Ordering::Relaxed);
}

/// Writes messages above these bars from now on; with `None`, at the bottom again.
pub(crate) fn show_bars(bars: Option<MultiProgress>) {
    *BARS.lock() = bars;
}

/// Writes a JSON object on one line. An error of the write is ignored.
pub(crate) fn say_json(value: &Value) {
    drop(writeln!(io::stderr().lock(), "{}", escaped_json(&value.to_string())));
}

/// Writes lines to standard error. An error of the write is ignored.
pub(crate) fn say(text: &str) {
    if IS_JSON.load(Ordering::Relaxed) {
        return say_json(&json!({ "event": "message", "text": text }));
    }
    // Each line by itself: an error escapes the line breaks of what it quotes.
    let text = text.lines().map(escaped).collect::<Vec<_>>().join("\n");
    let write = || drop(writeln!(io::stderr().lock(), "{text}"));
    let bars = BARS.lock().clone();
    match bars {
        Some(bars) => bars.suspend(write),
        None => write(),
    }
}

/// Writes an error in one line, and one more for each host that was tried if there were several.
pub(crate) fn say_error(error: &Error) {
    say(&told(error));
}

/// Returns the remedy for an error, in terms of the command.
fn advice(error: &Error) -> Option<String> {
    match (error.kind(), error.host()) {
        (ErrorKind::Unauthorized, Some(host)) => Some(format!(
            "log in with docker login {host} or podman login {host}, or give --username and --password-stdin"
        )),
        _ => error.advice().map(str::to_owned),
    }
}

fn told(error: &Error) -> String {
    let attempts = error.attempts();
    // The hosts that were tried have lines of their own.
    let mut text = format!("error: {}", error.clone().with_attempts(Vec::new()));
    if let Some(advice) = advice(error) {
        text += &format!("; {advice}");
    }
    let is_of_one_host = attempts.windows(2).all(|pair| pair.iter().all(|one| one.host == attempts[0].host));
    if !is_of_one_host {
        for attempt in attempts {
            let what = &attempt.error;
            text += &format!("\n  {}: {}: {}", attempt.host, what.kind(), what.message());
        }
    }
    text
}

/// Shows what the library logs, warnings and errors by default; `OCI_PULLER_LOG` has the level.
pub(crate) fn show_log() {
    let level = std::env::var("OCI_PULLER_LOG").ok().and_then(|level| level.parse().ok());
    if log::set_logger(&Log).is_ok() {
        log::set_max_level(level.unwrap_or(log::LevelFilter::Warn));
    }
}

struct Log;

impl log::Log for Log {
    /// Only what this crate logs: the HTTP library's traces have signed URLs in them.
    fn enabled(&self, metadata: &log::Metadata<'_>) -> bool {
        metadata.target().starts_with("oci_puller")
    }

    fn log(&self, record: &log::Record<'_>) {
        if self.enabled(record.metadata()) {
            let level = match record.level() {
                log::Level::Error => "error",
                log::Level::Warn => "warning",
                log::Level::Info => "info",
                log::Level::Debug => "debug",
                log::Level::Trace => "trace",
            };
            say(&format!("{level}: {}", record.args()));
        }
    }

    fn flush(&self) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use oci_puller::Attempt;

    #[test]
    fn an_error_is_one_line_and_one_for_each_of_several_hosts() {
        let attempt = |host: &str| Attempt::new(host, Error::new(ErrorKind::Unavailable, "status 503"));
        let error = Error::new(ErrorKind::NotFound, "status 404").with_image("a").with_host("r.io");
        for (attempts, lines) in [
            (vec![], 1),
            (vec![attempt("r.io")], 1),
            (vec![attempt("r.io"), attempt("r.io")], 1),
            (vec![attempt("mirror.io"), attempt("r.io")], 3),
        ] {
            let text = told(&error.clone().with_attempts(attempts));
            assert_eq!(text.lines().count(), lines, "{text}");
            assert!(text.starts_with("error: a: r.io: not found: status 404"), "{text}");
        }
    }
}
