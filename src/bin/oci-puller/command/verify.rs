//! `verify`: whether everything in the store is what its digest says.

use clap::Args;
use oci_puller::{Digest, PullContext, VerifyReport};
use serde::Serialize;

use crate::args::StoreArgs;
use crate::command::existing_store;
use crate::exit::Exit;
use crate::output;
use crate::signals::Signals;
use crate::stderr::say;
use crate::units::Bytes;

const AFTER_HELP: &str = "\
With --json:
  sound       number of blobs that match their digests
  bytes       their bytes
  damaged     list of digests of blobs that did not match
  links       list of digests of blobs that match and are symbolic links; they are left in place
  incomplete  list of manifests and indexes that lack blobs:
    manifest_digest  the manifest or index
    lacking          list of digests of the missing blobs
  left_out    number of manifests that imports left out of image indexes; they are not missing";

/// Hash every blob in the store, and move damaged ones aside
///
/// Follows every name to the blobs that it needs, too. A later pull fetches moved and missing blobs again.
/// Exits with 0 only if there is a store, and nothing in it is damaged or missing.
#[derive(Args)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    store: StoreArgs,
}

/// Hashes every blob; fails if one is damaged or missing.
pub(crate) fn run(args: VerifyArgs) -> Result<(), Exit> {
    let dir = args.store.dir()?;
    let Some(store) = existing_store(&dir)? else {
        if args.store.json {
            output::json(&Line::of(&VerifyReport::default()))?;
        }
        return Err(Exit::REPORTED);
    };
    let signals = Signals::watch()?;
    let verified = store.verify(&PullContext::new().with_cancel(signals.token()));
    signals.check()?;
    let report = verified?;
    if args.store.json {
        output::json(&Line::of(&report))?
    } else {
        print(&report)?
    }
    if report.is_sound() { Ok(()) } else { Err(Exit::REPORTED) }
}

fn print(report: &VerifyReport) -> Result<(), Exit> {
    for digest in &report.damaged {
        output::line(&format!("damaged     {digest}"))?;
    }
    for digest in &report.links {
        output::line(&format!("link        {digest}"))?;
    }
    for (manifest, lacking) in &report.incomplete {
        for digest in lacking {
            output::line(&format!("incomplete  {manifest} lacks {digest}"))?;
        }
    }
    say(&format!("{} blobs are sound, {}", report.sound, Bytes(report.bytes)));
    if report.left_out > 0 {
        say(&format!("{} manifests of image indexes were left out when they were imported", report.left_out));
    }
    if !report.is_sound() {
        say(&format!(
            "error: {} blobs were damaged and are moved aside, {} images are incomplete; pull those again",
            report.damaged.len(),
            report.incomplete.len()
        ));
    }
    Ok(())
}

/// The JSON of a report; `--help` documents it.
#[derive(Serialize)]
struct Line<'a> {
    sound: usize,
    bytes: u64,
    damaged: Vec<&'a str>,
    links: Vec<&'a str>,
    left_out: usize,
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
            links: texts(&report.links),
            left_out: report.left_out,
            incomplete: incomplete
                .map(|(manifest, lacking)| Incomplete {
                    manifest_digest: manifest.as_str(),
                    lacking: texts(lacking),
                })
                .collect(),
        }
    }
}
