//! `rm`: images out of the store.

use clap::Args;
use oci_puller::image::Platform;
use oci_puller::store::Removed;
use oci_puller::{Error, PullContext, Store};
use serde::Serialize;

use crate::args::{StoreArgs, usage};
use crate::command::cri::{self, CriArgs};
use crate::exit::Exit;
use crate::names;
use crate::output;
use crate::signals::Signals;
use crate::stderr::{say, say_error};
use crate::stores;
use crate::units::Bytes;

const AFTER_HELP: &str = "\
Prints the removed names. With --json, an object for each IMAGE:
  image  as it was given
  names  list of the removed names
  blobs  number of removed blobs
  bytes  bytes that were freed";

/// Remove images from the store, and their blobs that no other image uses
///
/// By a name, only this name is removed while the image has others. A name that stands for the images of
/// several platforms is removed with all of them, an image by its id or digest alone.
#[derive(Args)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct RmArgs {
    /// A name, a digest, or the first digits (4 or more) of an image ref
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// Remove only the image for this platform of those that a name stands for
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = crate::args::platform)]
    platform: Option<Platform>,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    runtime: CriArgs,
}

/// Removes the images that the arguments name.
pub(crate) fn run(args: RmArgs) -> Result<(), Exit> {
    if let Some(endpoint) = &args.runtime.cri {
        if args.store.json {
            return Err(usage("rm", "--json and --cri: a runtime does not tell what it removed"));
        }
        return cri::rm(endpoint, &args.images);
    }
    let store = stores::open(&args.store.dir()?, args.platform.as_ref())?;
    let signals = Signals::watch()?;
    let cx = PullContext::new().with_cancel(signals.token());
    let mut outcome = Ok(());
    for image in &args.images {
        match remove(&store, &cx, image, args.platform.is_some()) {
            Ok(removed) => print(args.store.json, image, &removed)?,
            Err(error) => {
                signals.check()?;
                say_error(&error);
                outcome = Err(Exit::REPORTED);
            }
        }
    }
    outcome
}

fn remove(store: &Store, cx: &PullContext, image: &str, is_one_platform: bool) -> Result<Removed, Error> {
    if !is_one_platform {
        return names::remove(store, cx, image);
    }
    let (_, found) = names::find(store, image)?;
    store.remove(cx, found.manifest.digest.as_str()).map_err(|error| error.with_image(image))
}

fn print(is_json: bool, image: &str, removed: &Removed) -> Result<(), Exit> {
    if is_json {
        return output::json(&Line {
            image,
            names: &removed.names,
            blobs: removed.blobs,
            bytes: removed.bytes,
        });
    }
    removed.names.iter().try_for_each(|name| output::line(name))?;
    say(&format!("{image}: {} freed, {} blobs", Bytes(removed.bytes), removed.blobs));
    Ok(())
}

/// The JSON of one removal; `--help` documents it.
#[derive(Serialize)]
struct Line<'a> {
    image: &'a str,
    names: &'a [String],
    blobs: usize,
    bytes: u64,
}
