//! The commands, one a file.

mod demo;
mod export;
mod images;
mod import;
mod prune;
mod pull;
mod rm;
mod verify;

use std::path::Path;

use oci_puller::Store;

use crate::args::Args;
use crate::help;
use crate::screen::say;
use crate::stop::Stop;

/// One command.
pub(crate) struct Command {
    pub(crate) name: &'static str,
    pub(crate) help: &'static str,
    pub(crate) run: fn(&mut Args) -> Result<(), Stop>,
}

const COMMANDS: [Command; 8] = [
    Command { name: "pull", help: help::PULL, run: pull::run },
    Command { name: "images", help: help::IMAGES, run: images::run },
    Command { name: "rm", help: help::RM, run: rm::run },
    Command { name: "prune", help: help::PRUNE, run: prune::run },
    Command { name: "verify", help: help::VERIFY, run: verify::run },
    Command { name: "export", help: help::EXPORT, run: export::run },
    Command { name: "import", help: help::IMPORT, run: import::run },
    Command { name: "demo", help: help::DEMO, run: demo::run },
];

/// The command of this name.
pub(crate) fn named(name: &str) -> Option<Command> {
    COMMANDS.into_iter().find(|command| command.name == name)
}

/// The store in `dir`, if there is one: who only looks makes none.
fn existing_store(dir: &Path) -> Result<Option<Store>, Stop> {
    if !dir.exists() {
        say(&format!("there is no store at {} yet", dir.display()));
        return Ok(None);
    }
    Ok(Some(Store::open(dir)?))
}
