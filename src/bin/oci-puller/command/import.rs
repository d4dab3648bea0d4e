//! `import`: images out of archives and layouts, into the store.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

use clap::Args;
use oci_puller::image::{Platform, Reference};
use oci_puller::store::{Cancellable, ImportOptions, Imported};
use oci_puller::{Error, PullContext, Store};
use rustix::fs::OFlags;
use serde::Serialize;

use crate::args::{self, StoreArgs};
use crate::exit::Exit;
use crate::output;
use crate::signals::Signals;
use crate::signature_args::SignatureArgs;
use crate::stderr::say;

/// Names standard input in place of a file.
const STDIN: &str = "-";

const AFTER_HELP: &str = "\
Prints the names of the imported images. With --json, an object for each SOURCE:
  source  as it was given
  names   list of the names; for an image without one, its digest
  left_out
          list of the images that were left out: not whole, or not asked for
    digest    digest of the manifest
    platform  what it is for, or null";

/// Import images from archives and image layouts
///
/// Reads OCI archives, archives of `docker save`, and folders that are OCI image layouts. Verifies every
/// blob as a pull does. With a signature policy, takes a source only if the signatures in it suffice for each of
/// its images.
#[derive(Args)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct ImportArgs {
    /// An archive, not compressed; a folder; or - for an archive on standard input
    #[arg(value_name = "SOURCE", required = true)]
    sources: Vec<String>,
    /// Name of the one image that is imported, in place of its own
    #[arg(long, value_name = "NAME", value_parser = reference)]
    name: Option<Reference>,
    /// Import the images for this platform only. Default: all that are whole
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = args::platform)]
    platform: Option<Platform>,
    #[command(flatten)]
    signatures: SignatureArgs,
    #[command(flatten)]
    store: StoreArgs,
}

/// Imports the images of every file and folder that the arguments name.
pub(crate) fn run(args: ImportArgs) -> Result<(), Exit> {
    let mut options = ImportOptions::new();
    if let Some(policy) = args.signatures.policy()? {
        options = options.signature_policy(policy);
    }
    let store = Store::open(args.store.dir()?)?;
    if let Some(name) = args.name {
        options = options.name(name);
    }
    if let Some(platform) = args.platform {
        options = options.platform(platform);
    }
    let signals = Signals::watch()?;
    let cx = PullContext::new().with_cancel(signals.token());
    let mut outcome = Ok(());
    for source in &args.sources {
        match import(&store, &cx, source, &options) {
            Ok(imported) => print(args.store.json, source, &imported)?,
            Err(why) => {
                signals.check()?;
                say(&format!("error: {source}: {why}"));
                outcome = Err(Exit::REPORTED);
            }
        }
    }
    outcome
}

fn import(
    store: &Store,
    cx: &PullContext,
    source: &str,
    options: &ImportOptions,
) -> Result<Imported, String> {
    // The source is named beside the error.
    let text = |error: Error| error.to_string().replace(&format!("{source} is no image"), "it is no image");
    let path = Path::new(source);
    if source != STDIN && path.is_dir() {
        return store.import_layout_with(cx, path, options).map_err(text);
    }
    let opened = match source {
        // Past the buffer of `Stdin`, which a wait for the descriptor would not see.
        STDIN => io::stdin().as_fd().try_clone_to_owned().map(File::from),
        _ => open(path),
    };
    let archive = opened.and_then(|file| Cancellable::new(cx, file)).map_err(|error| error.to_string())?;
    store.import_with(cx, archive, options).map_err(text)
}

/// Opens a file, or a FIFO without waiting for its writer.
fn open(path: &Path) -> io::Result<File> {
    let flags = i32::try_from(OFlags::NONBLOCK.bits()).unwrap_or_default();
    File::options().read(true).custom_flags(flags).open(path)
}

fn reference(text: &str) -> Result<Reference, String> {
    Reference::parse(text).map_err(|error| args::beside_value(text, &error))
}

fn print(is_json: bool, source: &str, imported: &Imported) -> Result<(), Exit> {
    if is_json {
        let left_out = imported.left_out.iter().map(|image| LeftOut {
            digest: image.digest.as_str(),
            platform: image.platform.as_ref().map(Platform::to_string),
        });
        return output::json(&Line { source, names: &imported.names, left_out: left_out.collect() });
    }
    for image in &imported.left_out {
        let platform = image.platform.as_ref().map_or_else(|| "unknown".to_owned(), Platform::to_string);
        say(&format!("{source}: left out: {} ({platform})", image.digest));
    }
    imported.names.iter().try_for_each(|name| output::line(name))
}

/// The JSON of one import; `--help` documents it.
#[derive(Serialize)]
struct Line<'a> {
    source: &'a str,
    names: &'a [String],
    left_out: Vec<LeftOut<'a>>,
}

#[derive(Serialize)]
struct LeftOut<'a> {
    digest: &'a str,
    platform: Option<String>,
}
