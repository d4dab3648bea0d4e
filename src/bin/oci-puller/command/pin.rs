//! `pin` and `unpin`: whether prune may remove an image.

use clap::Args;
use oci_puller::image::Platform;
use oci_puller::{Error, ErrorKind, PullContext, Store};

use crate::args::StoreArgs;
use crate::exit::Exit;
use crate::names;
use crate::output;
use crate::signals::Signals;
use crate::stderr::say_error;
use crate::stores;

/// Keep images from being pruned
///
/// Prints each IMAGE as it was given; images --json shows what is pinned.
#[derive(Args)]
pub(crate) struct PinArgs {
    #[command(flatten)]
    images: PinnedArgs,
}

/// Let images be pruned again
#[derive(Args)]
pub(crate) struct UnpinArgs {
    #[command(flatten)]
    images: PinnedArgs,
}

#[derive(Args)]
struct PinnedArgs {
    /// A name, a digest, or the first digits (4 or more) of an image ref
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// Platform of the images that names stand for. Default: this machine's
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = crate::args::platform)]
    platform: Option<Platform>,
    #[command(flatten)]
    store: StoreArgs,
}

/// Pins the images that the arguments name.
pub(crate) fn pin(args: &PinArgs) -> Result<(), Exit> {
    args.images.set(true)
}

/// Unpins the images that the arguments name.
pub(crate) fn unpin(args: &UnpinArgs) -> Result<(), Exit> {
    args.images.set(false)
}

impl PinnedArgs {
    fn set(&self, pinned: bool) -> Result<(), Exit> {
        let store = stores::open(&self.store.dir()?, self.platform.as_ref())?;
        let signals = Signals::watch()?;
        let cx = PullContext::new().with_cancel(signals.token());
        let mut outcome = Ok(());
        for image in &self.images {
            match set(&store, &cx, image, pinned) {
                Ok(()) if self.store.json => {
                    output::json(&serde_json::json!({ "image": image, "pinned": pinned }))?
                }
                Ok(()) => output::line(image)?,
                Err(error) => {
                    signals.check()?;
                    say_error(&error);
                    outcome = Err(Exit::REPORTED);
                }
            }
        }
        outcome
    }
}

fn set(store: &Store, cx: &PullContext, image: &str, pinned: bool) -> Result<(), Error> {
    let (key, _) = names::find(store, image)?;
    match store.pin(cx, &key, pinned) {
        Ok(true) => Ok(()),
        // Another process has removed it since.
        Ok(false) => Err(Error::new(ErrorKind::NotFound, "it is not in the store").with_image(image)),
        Err(error) => Err(error.with_image(image)),
    }
}
