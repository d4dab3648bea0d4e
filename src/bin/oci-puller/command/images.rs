//! `images`: what is in the store.

use std::time::{SystemTime, UNIX_EPOCH};

use oci_puller::StoredImage;
use serde::Serialize;

use crate::args::Args;
use crate::command::existing_store;
use crate::names::short;
use crate::output::{self, Align, Table};
use crate::stop::Stop;
use crate::units::{Ago, Bytes};

/// Lists the images, the last used first.
pub(crate) fn run(args: &mut Args) -> Result<(), Stop> {
    args.end()?;
    let Some(store) = existing_store(&args.store_dir()?)? else {
        return Ok(());
    };
    let mut images = store.images()?;
    images.sort_by_key(|image| std::cmp::Reverse(image.last_used));
    if args.json() {
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

/// Its names, or its manifest's digest: there is a line for each image.
fn names(image: &StoredImage) -> Vec<String> {
    if image.names.is_empty() { vec![image.manifest.digest.to_string()] } else { image.names.clone() }
}

/// One image, for programs; `--help` documents it.
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
