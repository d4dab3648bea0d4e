//! `import`: images out of archives and layouts, into the store.

use std::fs::File;
use std::io;
use std::path::Path;

use clap::Args;
use oci_puller::{Error, PullContext, Store};
use serde::Serialize;

use crate::args::StoreArgs;
use crate::exit::Exit;
use crate::output;
use crate::signals::Signals;
use crate::stderr::say;

/// Names standard input in place of a file.
const STDIN: &str = "-";

const AFTER_HELP: &str = "\
Prints the names of the imported images. With --json, an object for each SOURCE:
  source  as it was given
  names   list of the names; for an image without one, its manifest's digest";

/// Import images from archives and image layouts
///
/// Reads OCI archives, archives of `docker save`, and folders that are OCI image layouts. Verifies every
/// blob as a pull does.
#[derive(Args)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct ImportArgs {
    /// An archive, not compressed; a folder; or - for an archive on standard input
    #[arg(value_name = "SOURCE", required = true)]
    sources: Vec<String>,
    #[command(flatten)]
    store: StoreArgs,
}

/// Imports the images of every file and folder that the arguments name.
pub(crate) fn run(args: ImportArgs) -> Result<(), Exit> {
    let store = Store::open(args.store.dir()?)?;
    let signals = Signals::watch()?;
    let cx = PullContext::new().with_cancel(signals.token());
    let mut outcome = Ok(());
    for source in &args.sources {
        match import(&store, &cx, source) {
            Ok(names) => print(args.store.json, source, &names)?,
            Err(why) => {
                signals.check()?;
                say(&format!("error: {source}: {why}"));
                outcome = Err(Exit::REPORTED);
            }
        }
    }
    outcome
}

fn import(store: &Store, cx: &PullContext, source: &str) -> Result<Vec<String>, String> {
    let text = |error: Error| error.to_string();
    let path = Path::new(source);
    if source == STDIN {
        return store.import(cx, io::stdin().lock()).map_err(text);
    }
    if path.is_dir() {
        return store.import_layout(cx, path).map_err(text);
    }
    let file = File::open(path).map_err(|error| error.to_string())?;
    store.import(cx, file).map_err(text)
}

fn print(is_json: bool, source: &str, names: &[String]) -> Result<(), Exit> {
    if is_json {
        return output::json(&Line { source, names });
    }
    names.iter().try_for_each(|name| output::line(name))
}

/// The JSON of one import; `--help` documents it.
#[derive(Serialize)]
struct Line<'a> {
    source: &'a str,
    names: &'a [String],
}
