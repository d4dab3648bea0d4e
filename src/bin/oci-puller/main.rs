//! The command `oci-puller`: images from registries into a store on disk, and what there is to do
//! with such a store.

mod args;
mod command;
mod help;
mod names;
mod output;
mod pulling;
mod screen;
mod signals;
mod stop;
mod units;
mod watch;

use std::process::ExitCode;

use args::{Args, Token};
use stop::Stop;

fn main() -> ExitCode {
    screen::show_log();
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(stop) => stop.tell(),
    }
}

fn run() -> Result<(), Stop> {
    let mut args = Args::from_env(help::MAIN);
    let name = match args.next()? {
        None => return Err(Stop::Usage(format!("no command was given\n\n{}", help::MAIN.trim_end()))),
        Some(Token::Option(option)) if option == "--version" || option == "-V" => {
            return Err(Stop::Answer(concat!("oci-puller ", env!("CARGO_PKG_VERSION"), "\n")));
        }
        Some(Token::Option(option)) => return Err(args.unknown_option(&option)),
        Some(Token::Word(word)) => word,
    };
    let run = |command: command::Command, args: &mut Args| {
        args.enter(command.name, command.help);
        (command.run)(args)
    };
    match name.to_str() {
        Some("help") => Err(help::about(&mut args)),
        Some(name) => match command::named(name) {
            Some(command) => run(command, &mut args),
            None => Err(args.usage(format!("there is no command {name:?}"))),
        },
        None => Err(args.usage(format!("there is no command {name:?}"))),
    }
}
