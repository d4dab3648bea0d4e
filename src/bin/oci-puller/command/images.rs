//! `images`: what is in the store.

use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use oci_puller::StoredImage;
use serde::Serialize;

use crate::args::StoreArgs;
use crate::command::cri::{self, CriArgs};
use crate::command::existing_store;
use crate::exit::Exit;
use crate::names::short;
use crate::output::{self, Align, Table};
use crate::units::{Ago, Bytes};

const AFTER_HELP: &str = "\
With --json, an object for each image:
  image_ref        its id: the digest of its config
  names            list of its names
  repo_digests     list of NAME@DIGEST it was pulled as
  manifest_digest  digest of its manifest
  size             bytes of manifest, config and layers
  pinned           whether prune keeps it always
  last_used        last pull or use, seconds since 1970; not with --cri";

/// List the images in the store, the last used first
#[derive(Args)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct ImagesArgs {
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    runtime: CriArgs,
}

/// Lists the images, the last used first.
pub(crate) fn run(args: ImagesArgs) -> Result<(), Exit> {
    if let Some(endpoint) = &args.runtime.cri {
        return cri::images(endpoint, args.store.json);
    }
    let Some(store) = existing_store(&args.store.dir()?)? else {
        return Ok(());
    };
    let mut images = store.images()?;
    images.sort_by_key(|image| std::cmp::Reverse(image.last_used));
    if args.store.json {
        return images.iter().map(Line::of).try_for_each(|line| output::json(&line));
    }
    output::raw(&table(&images).to_string())
}

fn table(images: &[StoredImage]) -> Table<4> {
    let mut table = Table::new([
        ("IMAGE", Align::Left),
        ("IMAGE REF", Align::Left),
        ("SIZE", Align::Right),
        ("LAST USED", Align::Left),
    ]);
    for image in images {
        for name in names(image) {
            table.row([
                name,
                short(image.id.as_str()).to_owned(),
                Bytes(image.size).to_string(),
                Ago(image.last_used.elapsed().unwrap_or_default()).to_string(),
            ]);
        }
    }
    table
}

/// Returns its names, or its manifest's digest: each image has a line.
fn names(image: &StoredImage) -> Vec<String> {
    if image.names.is_empty() { vec![image.manifest.digest.to_string()] } else { image.names.clone() }
}

/// The JSON of one image; `--help` documents it.
#[derive(Serialize)]
struct Line<'a> {
    image_ref: &'a str,
    names: &'a [String],
    repo_digests: &'a [String],
    manifest_digest: &'a str,
    size: u64,
    pinned: bool,
    last_used: u64,
}

impl<'a> Line<'a> {
    fn of(image: &'a StoredImage) -> Self {
        Line {
            image_ref: image.id.as_str(),
            names: &image.names,
            repo_digests: &image.repo_digests,
            manifest_digest: image.manifest.digest.as_str(),
            size: image.size,
            pinned: image.pinned,
            last_used: seconds(image.last_used),
        }
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
