//! The command `oci-puller`: pulls images from registries into a store on disk and manages that store.

mod args;
mod certificates;
mod cli;
mod command;
mod escape;
mod exit;
mod names;
mod output;
mod progress;
mod pull_all;
mod registry_args;
mod remote;
mod signals;
mod signature_args;
mod stderr;
mod stores;
mod temp_folder;
mod units;

use std::process::ExitCode;

use clap::{CommandFactory, Parser};

use cli::Cli;
use exit::Exit;

fn main() -> ExitCode {
    stderr::show_log();
    match Cli::try_parse().map_err(Exit::Usage).and_then(|cli| command::run(cli.command, Cli::command)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(Exit::Contradiction { command, message }) => {
            Exit::Usage(cli::contradiction(command, &message)).report()
        }
        Err(exit) => exit.report(),
    }
}
