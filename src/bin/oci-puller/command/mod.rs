//! The commands, one a file.

mod completions;
mod cri;
mod demo;
mod digest;
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
mod tags;
#[cfg(feature = "unpack")]
mod unpack;
mod verify;

use clap::Subcommand;

use crate::exit::Exit;

/// The commands and their arguments.
#[derive(Subcommand)]
pub(crate) enum Command {
    Pull(Box<pull::PullArgs>),
    #[command(visible_alias = "ls")]
    Images(images::ImagesArgs),
    #[command(visible_alias = "rmi")]
    Rm(rm::RmArgs),
    Inspect(Box<inspect::InspectArgs>),
    Digest(Box<digest::DigestArgs>),
    Tags(Box<tags::TagsArgs>),
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

/// Runs a command. `cli` returns the definition of the command line.
pub(crate) fn run(command: Command, cli: fn() -> clap::Command) -> Result<(), Exit> {
    match command {
        Command::Pull(args) => pull::run(&args),
        Command::Images(args) => images::run(args),
        Command::Rm(args) => rm::run(args),
        Command::Inspect(args) => inspect::run(&args),
        Command::Digest(args) => digest::run(&args),
        Command::Tags(args) => tags::run(&args),
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
        Command::Completions(args) => completions::run(&args, &mut cli()),
        Command::Man => completions::man(cli()),
    }
}
