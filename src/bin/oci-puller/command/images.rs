//! `images`: what is in the store.

use std::cmp::Reverse;
use std::collections::HashMap;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::Args;
use oci_puller::Store;
use oci_puller::image::{Descriptor, Platform};
use oci_puller::store::StoredImage;
use serde::Serialize;

use crate::args::StoreArgs;
use crate::command::cri::{self, CriArgs};
use crate::exit::Exit;
use crate::names::short;
use crate::output::{self, Align, Table};
use crate::stores;
use crate::units::{Ago, Bytes};

const AFTER_HELP: &str = "\
With --json, an object for each image:
  image_ref        its id: the digest of its config
  names            list of its names
  repo_digests     list of NAME@DIGEST it was pulled as
  manifest_digest  digest of its manifest
  platform         what it is for, like linux/arm64; not with --cri
  created          when it was made, as its config says (RFC 3339), or null; not
                   with --cri
  layers           list of layers, the base first, each with digest, media_type
                   and size; not with --cri
  size             bytes of manifest, config and layers
  pinned           whether prune keeps it always
  last_used        last pull or use, seconds since 1970; not with --cri";

/// List the images in the store, the last used first
#[derive(Args)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct ImagesArgs {
    /// Platform of the images that names stand for. Default: this machine's
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = crate::args::platform)]
    platform: Option<Platform>,
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
    let Some(store) = stores::open_existing(&args.store.dir()?, args.platform.as_ref())? else {
        return Ok(());
    };
    let mut images = store.images()?;
    sort(&mut images);
    let details: Vec<_> = images.iter().map(|image| Details::of(&store, image)).collect();
    let mut rows = images.iter().zip(&details);
    if args.store.json {
        return rows.try_for_each(|(image, details)| output::json(&Line::of(image, details)));
    }
    output::raw(&table(rows).to_string())
}

/// Sorts the images by their last use. Those of one index stay together, the one with its names first.
fn sort(images: &mut [StoredImage]) {
    let group_of = |image: &StoredImage| image.index.as_ref().unwrap_or(&image.manifest.digest).clone();
    let mut used = HashMap::new();
    for image in &*images {
        let last = used.entry(group_of(image)).or_insert(image.last_used);
        *last = image.last_used.max(*last);
    }
    images.sort_by_cached_key(|image| {
        let group = group_of(image);
        (Reverse(used.get(&group).copied()), group, image.names.is_empty())
    });
}

/// What manifest and config of an image say; empty where they cannot be read.
struct Details {
    platform: String,
    created: Option<String>,
    layers: Vec<Layer>,
}

#[derive(Serialize)]
struct Layer {
    digest: String,
    media_type: String,
    size: u64,
}

impl Details {
    fn of(store: &Store, image: &StoredImage) -> Self {
        let config = store.config(&image.id).ok();
        let platform = image.platform.as_ref().or(config.as_ref().map(|config| &config.platform));
        let layer = |layer: &Descriptor| Layer {
            digest: layer.digest.to_string(),
            media_type: layer.media_type.clone(),
            size: layer.size,
        };
        let manifest = store.manifest(&image.manifest.digest);
        Details {
            platform: platform.map_or_else(String::new, Platform::to_string),
            layers: manifest
                .map_or_else(|_| Vec::new(), |manifest| manifest.layers.iter().map(layer).collect()),
            created: config.and_then(|config| config.created),
        }
    }

    /// Returns the day on which it was made.
    fn day(&self) -> String {
        let day = self.created.as_deref().and_then(|created| created.split(['T', 't', ' ']).next());
        day.unwrap_or_default().to_owned()
    }
}

fn table<'a>(rows: impl Iterator<Item = (&'a StoredImage, &'a Details)>) -> Table<6> {
    let mut table = Table::new([
        ("IMAGE", Align::Left),
        ("IMAGE REF", Align::Left),
        ("PLATFORM", Align::Left),
        ("CREATED", Align::Left),
        ("SIZE", Align::Right),
        ("LAST USED", Align::Left),
    ]);
    for (image, details) in rows {
        for name in names(image) {
            table.row([
                name,
                short(image.id.as_str()).to_owned(),
                details.platform.clone(),
                details.day(),
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
    platform: &'a str,
    created: Option<&'a str>,
    layers: &'a [Layer],
    size: u64,
    pinned: bool,
    last_used: u64,
}

impl<'a> Line<'a> {
    fn of(image: &'a StoredImage, details: &'a Details) -> Self {
        Line {
            image_ref: image.id.as_str(),
            names: &image.names,
            repo_digests: &image.repo_digests,
            manifest_digest: image.manifest.digest.as_str(),
            platform: &details.platform,
            created: details.created.as_deref(),
            layers: &details.layers,
            size: image.size,
            pinned: image.pinned,
            last_used: seconds(image.last_used),
        }
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}
