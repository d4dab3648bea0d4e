//! `completions` and `man`: text for shells and for `man`, generated from the command line's definition.

use std::io::Write;

use clap::Args;
use clap_complete::Shell;

use crate::exit::Exit;
use crate::output;

/// Print a completion script
#[derive(Args)]
pub(crate) struct CompletionsArgs {
    shell: Shell,
}

/// Prints the completion script of a shell for the command line `cli`.
pub(crate) fn run(args: &CompletionsArgs, cli: &mut clap::Command) -> Result<(), Exit> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, cli, "oci-puller", &mut script);
    output::raw(&corrected(&String::from_utf8_lossy(&script)))
}

/// Corrects a bash script of clap_complete 4.6, which takes the hyphen of the command's name for the separator of a
/// subcommand in one of two places, so that no option is completed.
fn corrected(script: &str) -> String {
    script.replace("oci__subcmd__puller", "oci__puller")
}

/// Prints the manual page of the command line `cli`: one page, with a section for each command.
pub(crate) fn man(mut cli: clap::Command) -> Result<(), Exit> {
    let mut page = Vec::new();
    cli.build();
    clap_mangen::Man::new(cli.clone()).render(&mut page).map_err(Exit::Output)?;
    for sub in cli.get_subcommands().filter(|sub| !sub.is_hide_set() && sub.get_name() != "help") {
        let man = clap_mangen::Man::new(sub.clone());
        writeln!(page, ".SH \"OCI\\-PULLER {}\"", sub.get_name().to_uppercase()).map_err(Exit::Output)?;
        man.render_description_section(&mut page).map_err(Exit::Output)?;
        man.render_options_section(&mut page).map_err(Exit::Output)?;
    }
    output::bytes(&page)
}
