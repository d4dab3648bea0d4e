//! `verify`: whether everything in the store is what its digest says.

use oci_puller::{Digest, PullContext, VerifyReport};
use serde::Serialize;

use crate::args::Args;
use crate::command::existing_store;
use crate::output;
use crate::screen::say;
use crate::signals::Signals;
use crate::stop::Stop;
use crate::units::Bytes;

/// Hashes every blob; fails if one is damaged or missing.
pub(crate) fn run(args: &mut Args) -> Result<(), Stop> {
    args.end()?;
    let Some(store) = existing_store(&args.store_dir()?)? else {
        return Ok(());
    };
    let signals = Signals::watch()?;
    let verified = store.verify(&PullContext::new().with_cancel(signals.token()));
    signals.check()?;
    let report = verified?;
    if args.json() {
        output::json(&Line::of(&report))?
    } else {
        tell(&report)?
    }
    if report.is_sound() { Ok(()) } else { Err(Stop::Told) }
}

fn tell(report: &VerifyReport) -> Result<(), Stop> {
    for digest in &report.damaged {
        output::line(&format!("damaged     {digest}"))?;
    }
    for (manifest, lacking) in &report.incomplete {
        for digest in lacking {
            output::line(&format!("incomplete  {manifest} lacks {digest}"))?;
        }
    }
    say(&format!("{} blobs are sound, {}", report.sound, Bytes(report.bytes)));
    if !report.is_sound() {
        say(&format!(
            "error: {} blobs were damaged and are moved aside, {} images are incomplete; pull those again",
            report.damaged.len(),
            report.incomplete.len()
        ));
    }
    Ok(())
}

/// What was found, for programs; `--help` documents it.
#[derive(Serialize)]
struct Line<'a> {
    sound: usize,
    bytes: u64,
    damaged: Vec<&'a str>,
    incomplete: Vec<Incomplete<'a>>,
}

#[derive(Serialize)]
struct Incomplete<'a> {
    manifest_digest: &'a str,
    lacking: Vec<&'a str>,
}

impl<'a> Line<'a> {
    fn of(report: &'a VerifyReport) -> Self {
        let texts = |digests: &'a [Digest]| digests.iter().map(Digest::as_str).collect();
        let incomplete = report.incomplete.iter();
        Line {
            sound: report.sound,
            bytes: report.bytes,
            damaged: texts(&report.damaged),
            incomplete: incomplete
                .map(|(manifest, lacking)| Incomplete {
                    manifest_digest: manifest.as_str(),
                    lacking: texts(lacking),
                })
                .collect(),
        }
    }
}
