//! `rm`: images out of the store.

use oci_puller::{Error, PullContext, Removed, Store};
use serde::Serialize;

use crate::args::Args;
use crate::command::existing_store;
use crate::names;
use crate::output;
use crate::screen::{say, say_error};
use crate::signals::Signals;
use crate::stop::Stop;
use crate::units::Bytes;

/// Removes the images that the arguments name.
pub(crate) fn run(args: &mut Args) -> Result<(), Stop> {
    let images = args.words()?;
    if images.is_empty() {
        return Err(args.usage("no image was named"));
    }
    let Some(store) = existing_store(&args.store_dir()?)? else {
        return Err(Stop::Told);
    };
    let signals = Signals::watch()?;
    let cx = PullContext::new().with_cancel(signals.token());
    let mut outcome = Ok(());
    for image in &images {
        match remove(&store, &cx, image) {
            Ok(removed) => tell(args.json(), image, &removed)?,
            Err(error) => {
                signals.check()?;
                say_error(&error);
                outcome = Err(Stop::Told);
            }
        }
    }
    outcome
}

fn remove(store: &Store, cx: &PullContext, image: &str) -> Result<Removed, Error> {
    let (key, _) = names::find(store, image)?;
    store.remove(cx, &key).map_err(|error| error.with_image(image))
}

fn tell(is_json: bool, image: &str, removed: &Removed) -> Result<(), Stop> {
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

/// What went, for programs; `--help` documents it.
#[derive(Serialize)]
struct Line<'a> {
    image: &'a str,
    names: &'a [String],
    blobs: usize,
    bytes: u64,
}
