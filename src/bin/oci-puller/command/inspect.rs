//! `inspect`: what the manifest and the config of an image in the store say.

use clap::Args;
use oci_puller::Store;
use oci_puller::image::Platform;
use oci_puller::store::StoredImage;
use serde_json::{Value, json};

use crate::args::StoreArgs;
use crate::command::existing_store_for;
use crate::exit::Exit;
use crate::names;
use crate::output;

const AFTER_HELP: &str = "\
Prints an object, on one line with --json:
  image_ref        its id: the digest of its config
  names            list of its names
  repo_digests     list of NAME@DIGEST it was pulled as
  manifest_digest  digest of its manifest
  media_type       of the manifest
  index_digest     digest of the index that lists it, or null
  platforms        those of the name's images that are in the store
  size             bytes of manifest, config and layers
  pinned           whether prune keeps it always
  layers           list of layers, each with digest, media_type and size
  config           the config, as it is in the store";

/// Show the manifest and the config of an image in the store
#[derive(Args)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct InspectArgs {
    /// A name, a digest, or the first digits (4 or more) of an image ref
    image: String,
    /// Print the bytes of the manifest as they are
    #[arg(long)]
    raw: bool,
    /// Print the config alone; with --raw its bytes as they are
    #[arg(long)]
    config: bool,
    /// Show the image for this platform. Default: this machine's
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = crate::args::platform)]
    platform: Option<Platform>,
    #[command(flatten)]
    store: StoreArgs,
}

/// Shows the image that the arguments name.
pub(crate) fn run(args: &InspectArgs) -> Result<(), Exit> {
    let Some(store) = existing_store_for(&args.store.dir()?, args.platform.as_ref())? else {
        return Err(Exit::REPORTED);
    };
    let (key, image) = names::find(&store, &args.image)?;
    let manifest = store.manifest(&image.manifest.digest)?;
    if args.raw {
        let digest = if args.config { &manifest.config.digest } else { &image.manifest.digest };
        return output::bytes(&store.document(digest)?);
    }
    // The config of an artifact may be anything, or too large to be read.
    let config = store.document(&manifest.config.digest).ok();
    let config = config.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or(Value::Null);
    let shown = if args.config { config } else { described(&store, &key, &image, config)? };
    if args.store.json { output::json(&shown) } else { output::pretty_json(&shown) }
}

fn described(store: &Store, key: &str, image: &StoredImage, config: Value) -> Result<Value, Exit> {
    let manifest = store.manifest(&image.manifest.digest)?;
    let layers: Vec<_> = manifest
        .layers
        .iter()
        .map(|layer| {
            json!({ "digest": layer.digest.as_str(), "media_type": layer.media_type, "size": layer.size })
        })
        .collect();
    let platforms: Vec<_> = store.platforms_of(key)?.iter().map(ToString::to_string).collect();
    Ok(json!({
        "image_ref": image.id.as_str(),
        "names": image.names,
        "repo_digests": image.repo_digests,
        "manifest_digest": image.manifest.digest.as_str(),
        "media_type": image.manifest.media_type,
        "index_digest": image.index.as_ref().map(|digest| digest.as_str()),
        "platforms": platforms,
        "size": image.size,
        "pinned": image.pinned,
        "layers": layers,
        "config": config,
    }))
}
