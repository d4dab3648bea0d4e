//! `completions` and `man`: text for shells and for `man`, generated from the command line's definition.

use std::io::Write;

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use crate::args::Cli;
use crate::exit::Exit;

/// Print a completion script
#[derive(Args)]
pub(crate) struct CompletionsArgs {
    shell: Shell,
}

/// Prints the completion script of a shell.
pub(crate) fn run(args: CompletionsArgs) -> Result<(), Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "oci-puller", &mut script);
    print(&script)
}

/// Prints the manual page: one page, with a section for each command.
pub(crate) fn man() -> Result<(), Exit> {
    let mut page = Vec::new();
    let mut command = Cli::command();
    command.build();
    clap_mangen::Man::new(command.clone()).render(&mut page).map_err(Exit::Output)?;
    for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        let man = clap_mangen::Man::new(sub.clone());
        writeln!(page, ".SH \"OCI\\-PULLER {}\"", sub.get_name().to_uppercase()).map_err(Exit::Output)?;
        man.render_description_section(&mut page).map_err(Exit::Output)?;
        man.render_options_section(&mut page).map_err(Exit::Output)?;
    }
    print(&page)
}

fn print(text: &[u8]) -> Result<(), Exit> {
    std::io::stdout().lock().write_all(text).map_err(Exit::Output)
}
