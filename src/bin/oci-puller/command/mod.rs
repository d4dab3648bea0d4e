//! The commands, one a file.

mod completions;
mod cri;
mod demo;
mod export;
mod images;
mod import;
mod inspect;
mod pin;
mod prune;
mod pull;
mod rm;
#[cfg(feature = "unpack")]
mod run_config;
#[cfg(feature = "unpack")]
mod unpack;
mod verify;

use std::path::Path;

use clap::Subcommand;
use oci_puller::Store;
use oci_puller::image::Platform;

use crate::exit::Exit;
use crate::stderr::say;

/// The commands and their arguments.
#[derive(Subcommand)]
pub(crate) enum Command {
    Pull(Box<pull::PullArgs>),
    #[command(visible_alias = "ls")]
    Images(images::ImagesArgs),
    #[command(visible_alias = "rmi")]
    Rm(rm::RmArgs),
    Inspect(inspect::InspectArgs),
    Pin(pin::PinArgs),
    Unpin(pin::UnpinArgs),
    Prune(prune::PruneArgs),
    Verify(verify::VerifyArgs),
    Export(export::ExportArgs),
    Import(import::ImportArgs),
    #[cfg(feature = "unpack")]
    Unpack(unpack::UnpackArgs),
    #[cfg(feature = "unpack")]
    RunConfig(run_config::RunConfigArgs),
    Demo(demo::DemoArgs),
    #[command(hide = true)]
    Completions(completions::CompletionsArgs),
    /// Print the manual page
    #[command(hide = true)]
    Man,
}

/// Runs a command.
pub(crate) fn run(command: Command) -> Result<(), Exit> {
    match command {
        Command::Pull(args) => pull::run(&args),
        Command::Images(args) => images::run(args),
        Command::Rm(args) => rm::run(args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Pin(args) => pin::pin(&args),
        Command::Unpin(args) => pin::unpin(&args),
        Command::Prune(args) => prune::run(args),
        Command::Verify(args) => verify::run(args),
        Command::Export(args) => export::run(args),
        Command::Import(args) => import::run(args),
        #[cfg(feature = "unpack")]
        Command::Unpack(args) => unpack::run(args),
        #[cfg(feature = "unpack")]
        Command::RunConfig(args) => run_config::run(args),
        Command::Demo(args) => demo::run(args),
        Command::Completions(args) => completions::run(args),
        Command::Man => completions::man(),
    }
}

/// Opens the store in `dir`, or returns `None` if there is none: a command that only reads creates no store.
fn existing_store(dir: &Path) -> Result<Option<Store>, Exit> {
    existing_store_for(dir, None)
}

/// Opens the store in `dir` for a platform, by default this machine's; `None` if there is no store.
fn existing_store_for(dir: &Path, platform: Option<&Platform>) -> Result<Option<Store>, Exit> {
    let is_empty = dir.read_dir().is_ok_and(|mut entries| entries.next().is_none());
    if is_empty || !dir.exists() {
        say(&format!("there is no store at {} yet", dir.display()));
        return Ok(None);
    }
    let builder = Store::builder(dir);
    let builder = match platform {
        Some(platform) => builder.platform(platform.clone()),
        None => builder,
    };
    Ok(Some(builder.open()?))
}
