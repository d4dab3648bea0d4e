//! `verify`: whether everything in the store is what its digest says, and whether its images are signed.

use clap::Args;
use oci_puller::image::Digest;
use oci_puller::signatures::SignaturePolicy;
use oci_puller::store::{StoredImage, VerifyReport};
use oci_puller::{Error, PullContext, Store};
use serde::Serialize;

use crate::args::StoreArgs;
use crate::exit::Exit;
use crate::output;
use crate::signals::Signals;
use crate::signature_args::SignatureArgs;
use crate::stderr::say;
use crate::stores;
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
  left_out    number of manifests that imports left out of image indexes; they are not missing
  refused     list of images that the signature policy refuses:
    image   its name; of an image without one, its id
    reason  why its signatures do not suffice

Examples:
  oci-puller verify
  oci-puller verify --signatures --policy /etc/containers/policy.json";

/// Hash every blob in the store, and move damaged ones aside
///
/// Follows every name to the blobs that it needs, too. A later pull fetches moved and missing blobs again.
/// With --signatures, judges each image again by the signatures that were kept when it was pulled or imported.
/// Exits with 0 only if there is a store, nothing in it is damaged or missing, and no image is refused.
#[derive(Args)]
#[command(after_long_help = AFTER_HELP)]
#[command(mut_args(|arg| match SignatureArgs::ALL.contains(&arg.get_id().as_str()) {
    true => arg.requires("signatures"),
    false => arg,
}))]
pub(crate) struct VerifyArgs {
    /// Judge each image by its kept signatures, too; needs --policy or --require-key
    #[arg(long, requires = "SignatureArgs", help_heading = "Signatures")]
    signatures: bool,
    #[command(flatten)]
    policy: SignatureArgs,
    #[command(flatten)]
    store: StoreArgs,
}

/// Hashes every blob; fails if one is damaged or missing.
pub(crate) fn run(args: VerifyArgs) -> Result<(), Exit> {
    let policy = args.policy.policy()?;
    let dir = args.store.dir()?;
    let Some(store) = stores::open_existing(&dir, None)? else {
        if args.store.json {
            output::json(&Line::of(&VerifyReport::default()))?;
        }
        return Err(Exit::REPORTED);
    };
    let signals = Signals::watch()?;
    let verified = store.verify(&PullContext::new().with_cancel(signals.token()));
    signals.check()?;
    let report = verified?;
    let refused = match &policy {
        Some(policy) => refused(&store, policy)?,
        None => Vec::new(),
    };
    if args.store.json {
        output::json(&Line { refused: refused.iter().map(RefusedLine::of).collect(), ..Line::of(&report) })?
    } else {
        print(&report)?;
        print_refused(&refused)?;
    }
    if report.is_sound() && refused.is_empty() { Ok(()) } else { Err(Exit::REPORTED) }
}

/// An image that the policy refuses, and why.
struct Refused {
    image: String,
    why: Error,
}

fn refused(store: &Store, policy: &SignaturePolicy) -> Result<Vec<Refused>, Exit> {
    let judge = |image: StoredImage| {
        let why = store.verify_signatures(&image, policy).err()?;
        Some(Refused { image: image.names.into_iter().next().unwrap_or_else(|| image.id.to_string()), why })
    };
    Ok(store.images()?.into_iter().filter_map(judge).collect())
}

fn print_refused(refused: &[Refused]) -> Result<(), Exit> {
    for Refused { why, .. } in refused {
        output::line(&format!("refused     {why}"))?;
    }
    if !refused.is_empty() {
        let count = refused.len();
        say(&format!("error: {count} images are refused; pull them again with this policy, or remove them"));
    }
    Ok(())
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
    refused: Vec<RefusedLine<'a>>,
}

#[derive(Serialize)]
struct RefusedLine<'a> {
    image: &'a str,
    reason: &'a str,
}

impl<'a> RefusedLine<'a> {
    fn of(refused: &'a Refused) -> Self {
        RefusedLine { image: &refused.image, reason: refused.why.message() }
    }
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
            refused: Vec::new(),
        }
    }
}
