//! `--cri`: the images of a node's container runtime, in place of those of a store.

use clap::Args;
use oci_puller::cri::CriImageService;
use oci_puller::{ImageInfo, ImageService, PullContext};
use serde::Serialize;

use crate::exit::Exit;
use crate::names::short;
use crate::output::{self, Align, Table};
use crate::signals::Signals;
use crate::stderr::say_error;
use crate::units::Bytes;

/// The option of each command that also works on a runtime.
#[derive(Args)]
pub(crate) struct CriArgs {
    /// Use the container runtime at this socket in place of the store: unix:///PATH, or auto for the usual ones
    #[arg(long, value_name = "ENDPOINT", help_heading = "Common options")]
    pub(crate) cri: Option<String>,
}

/// Lists the images of the runtime at `endpoint`, by name.
pub(crate) fn images(endpoint: &str, is_json: bool) -> Result<(), Exit> {
    let signals = Signals::watch()?;
    let cx = PullContext::new().with_cancel(signals.token());
    let listed = CriImageService::builder(endpoint).build()?.list_images(&cx);
    signals.check()?;
    let mut images = listed?;
    images.sort_by(|one, other| one.names.cmp(&other.names));
    if is_json {
        return images.iter().map(Line::of).try_for_each(|line| output::json(&line));
    }
    output::raw(&table(&images).to_string())
}

fn table(images: &[ImageInfo]) -> Table<3> {
    let mut table = Table::new([("IMAGE", Align::Left), ("IMAGE REF", Align::Left), ("SIZE", Align::Right)]);
    for image in images {
        let tags = image.names.iter().filter(|name| !name.contains('@'));
        let mut names: Vec<&String> = tags.collect();
        if names.is_empty() {
            names.extend(image.names.first());
        }
        for name in names {
            let id = short(image.image_ref.as_str());
            table.row([name.clone(), id.to_owned(), Bytes(image.size).to_string()]);
        }
    }
    table
}

/// Removes images from the runtime at `endpoint`.
pub(crate) fn rm(endpoint: &str, images: &[String]) -> Result<(), Exit> {
    let signals = Signals::watch()?;
    let cx = PullContext::new().with_cancel(signals.token());
    let service = CriImageService::builder(endpoint).build()?;
    let mut outcome = Ok(());
    for image in images {
        match service.remove_image(&cx, &image.as_str().into()) {
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

/// The JSON of one image, with the fields that a runtime tells; `images --help` documents it.
#[derive(Serialize)]
struct Line<'a> {
    image_ref: &'a str,
    names: Vec<&'a str>,
    repo_digests: Vec<&'a str>,
    manifest_digest: Option<&'a str>,
    size: u64,
    pinned: bool,
}

impl<'a> Line<'a> {
    fn of(image: &'a ImageInfo) -> Self {
        let (repo_digests, names) =
            image.names.iter().map(String::as_str).partition(|name: &&str| name.contains('@'));
        Line {
            image_ref: image.image_ref.as_str(),
            names,
            repo_digests,
            manifest_digest: image.manifest_digest.as_ref().map(|digest| digest.as_str()),
            size: image.size,
            pinned: image.pinned,
        }
    }
}
