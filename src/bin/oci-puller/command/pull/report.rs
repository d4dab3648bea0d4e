//! The results of `pull`: JSON as they arrive, a table at the end.

use std::time::Instant;

use oci_puller::{Error, ErrorKind, PullResult};
use serde::Serialize;

use super::failure::Failure;
use crate::exit::Exit;
use crate::output;
use crate::pull_all;
use crate::signals::Signals;
use crate::stderr::{say, say_error};
use crate::units::{Bytes, Time};

/// How results are printed.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Form {
    Table,
    Json,
    /// The ids alone.
    Ids,
}

/// Prints the results: JSON as they arrive, the table at the end.
pub(super) struct Report {
    form: Form,
    is_quiet: bool,
    began: Instant,
    /// By the position of the image on the command line.
    results: Vec<Option<PullResult>>,
    /// The first line that could not be written.
    output: Result<(), Exit>,
}

impl Report {
    pub(super) fn new(form: Form, is_quiet: bool, images: usize) -> Self {
        Report { form, is_quiet, began: Instant::now(), results: vec![None; images], output: Ok(()) }
    }

    pub(super) fn add(&mut self, place: usize, result: PullResult) {
        if self.form == Form::Json && self.output.is_ok() {
            self.output = output::json(&Line::of(&result));
        }
        if let Err(error) = &result.outcome
            && error.kind() != ErrorKind::Cancelled
        {
            say_error(error);
        }
        if let Some(slot) = self.results.get_mut(place) {
            *slot = Some(result);
        }
    }

    pub(super) fn finish(self, signals: &Signals, place: &str, kept: u64) -> Result<(), Exit> {
        self.output?;
        let asked = self.results.len();
        let mut table = pull_all::table();
        let (mut came, mut fetched, mut reused) = (0, 0, 0);
        for result in self.results.iter().flatten() {
            pull_all::add(&mut table, result.image.image.clone(), result);
            if let Ok(pulled) = &result.outcome {
                came += 1;
                fetched += pulled.bytes_fetched;
                reused += pulled.bytes_reused;
            }
        }
        match self.form {
            Form::Table if !table.is_empty() => output::raw(&table.to_string())?,
            Form::Ids => {
                let pulled = self.results.iter().flatten().filter_map(|result| result.outcome.as_ref().ok());
                pulled.into_iter().try_for_each(|pulled| output::line(pulled.image_ref.as_str()))?;
            }
            _ => {}
        }
        if signals.came() {
            say(&format!(
                "cancelled: {came} of {asked} images are in {place}; what was fetched of the others is kept for a \
                 day, and the next pull resumes there"
            ));
            return signals.check();
        }
        if !self.is_quiet {
            say(&format!(
                "{came} of {asked} images in {}: {} fetched, {} reused",
                Time(self.began.elapsed()),
                Bytes(fetched),
                Bytes(reused)
            ));
            if kept > 0 {
                say(&format!(
                    "{} of the failed images were fetched and are kept for a day; the next pull resumes there",
                    Bytes(kept)
                ));
            }
        }
        if came == asked {
            return Ok(());
        }
        let mut errors = self.results.iter().flatten().filter_map(|result| result.outcome.as_ref().err());
        Err(Exit::Reported { retryable: errors.all(Error::is_retryable) })
    }
}

/// The JSON of one result; `--help` documents it.
#[derive(Serialize)]
struct Line<'a> {
    image: &'a str,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_ref: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    manifest_digest: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repo_digest: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_fetched: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_reused: Option<u64>,
    wait_seconds: f64,
    pull_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure<'a>>,
}

impl<'a> Line<'a> {
    fn of(result: &'a PullResult) -> Self {
        let pulled = result.outcome.as_ref().ok();
        Line {
            image: &result.image.image,
            ok: pulled.is_some(),
            image_ref: pulled.map(|pulled| pulled.image_ref.as_str()),
            manifest_digest: pulled.and_then(|pulled| Some(pulled.manifest_digest.as_ref()?.as_str())),
            repo_digest: pulled.and_then(|pulled| pulled.repo_digest.as_deref()),
            size: result.image_size,
            bytes_fetched: pulled.map(|pulled| pulled.bytes_fetched),
            bytes_reused: pulled.map(|pulled| pulled.bytes_reused),
            wait_seconds: result.wait_duration.as_secs_f64(),
            pull_seconds: result.pull_duration.as_secs_f64(),
            error: result.outcome.as_ref().err().map(Failure::of),
        }
    }
}
