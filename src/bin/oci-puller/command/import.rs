//! `import`: images out of archives and layouts, into the store.

use std::fs::File;
use std::io;
use std::path::Path;

use oci_puller::{Error, PullContext, Store};
use serde::Serialize;

use crate::args::Args;
use crate::output;
use crate::screen::say;
use crate::signals::Signals;
use crate::stop::Stop;

/// Standard input, where a file is wanted.
const STDIN: &str = "-";

/// Takes in the images of every file and folder that the arguments name.
pub(crate) fn run(args: &mut Args) -> Result<(), Stop> {
    let sources = args.words()?;
    if sources.is_empty() {
        return Err(args.usage("no archive was named"));
    }
    let store = Store::open(args.store_dir()?)?;
    let signals = Signals::watch()?;
    let cx = PullContext::new().with_cancel(signals.token());
    let mut outcome = Ok(());
    for source in &sources {
        match import(&store, &cx, source) {
            Ok(names) => tell(args.json(), source, &names)?,
            Err(why) => {
                signals.check()?;
                say(&format!("error: {source}: {why}"));
                outcome = Err(Stop::Told);
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

fn tell(is_json: bool, source: &str, names: &[String]) -> Result<(), Stop> {
    if is_json {
        return output::json(&Line { source, names });
    }
    names.iter().try_for_each(|name| output::line(name))
}

/// What came, for programs; `--help` documents it.
#[derive(Serialize)]
struct Line<'a> {
    source: &'a str,
    names: &'a [String],
}
