//! The command line as a whole, and errors about its use.

use clap::error::ErrorKind;
use clap::{CommandFactory, Parser};

use crate::command::Command;

const AFTER_HELP: &str = "\
Results go to standard output, messages to standard error.

Exit codes:
  0    everything succeeded
  1    something failed
  2    the arguments are wrong
  3    something failed, and everything that failed is worth trying again
  130  interrupted; the store is valid, and the next pull resumes

Environment:
  OCI_PULLER_STORE  the store's folder, if --store is not given
  OCI_PULLER_LOG    log level on standard error: off, error, warn (default),
                    info, debug

Examples:
  oci-puller pull alpine:3.22 quay.io/team/app:v1 --store ./images
  oci-puller images --json
  oci-puller inspect --remote alpine:3.22
  oci-puller export alpine:3.22 --output alpine.tar
  oci-puller demo";

/// Pulls container images from registries into an OCI image layout on disk.
#[derive(Parser)]
#[command(name = "oci-puller", version, after_help = AFTER_HELP, max_term_width = 80)]
pub(crate) struct Cli {
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Returns the error for arguments of `command` that contradict each other.
pub(crate) fn contradiction(command: &str, message: &str) -> clap::Error {
    let mut cli = Cli::command();
    cli.build();
    match cli.find_subcommand_mut(command) {
        Some(sub) => sub.error(ErrorKind::ArgumentConflict, message),
        None => cli.error(ErrorKind::ArgumentConflict, message),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_commands_are_consistent() {
        Cli::command().debug_assert();
    }
}
