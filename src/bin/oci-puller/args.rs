//! What stands on the command line.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;
use std::time::Duration;

use lexopt::Arg;

use crate::stop::Stop;
use crate::units;

/// One argument.
pub(crate) enum Token {
    /// An option, with its dashes.
    Option(String),
    /// Anything else.
    Word(OsString),
}

/// The arguments of one command, one after the other. `--help`, `--store` and `--json`, which every
/// command has, are taken out on the way.
pub(crate) struct Args {
    parser: lexopt::Parser,
    command: &'static str,
    help: &'static str,
    store: Option<PathBuf>,
    json: bool,
}

impl Args {
    /// The arguments of this process; `help` is what `--help` shows.
    pub(crate) fn from_env(help: &'static str) -> Self {
        Args { parser: lexopt::Parser::from_env(), command: "", help, store: None, json: false }
    }

    /// From here on they are the arguments of this command.
    pub(crate) fn enter(&mut self, command: &'static str, help: &'static str) {
        self.command = command;
        self.help = help;
    }

    /// Whether results are to be JSON.
    pub(crate) fn json(&self) -> bool {
        self.json
    }

    /// The store's folder: what was said, or else where this user has it.
    pub(crate) fn store_dir(&self) -> Result<PathBuf, Stop> {
        let variable = |name| std::env::var_os(name).filter(|value: &OsString| !value.is_empty());
        let home = || std::env::home_dir().map(|home| home.join(".local/share"));
        self.store
            .clone()
            .or_else(|| variable("OCI_PULLER_STORE").map(PathBuf::from))
            .or_else(|| {
                let data = variable("XDG_DATA_HOME").map(PathBuf::from).filter(|path| path.is_absolute());
                Some(data.or_else(home)?.join("oci-puller"))
            })
            .ok_or_else(|| self.usage("this user has no home: say where the store is with --store DIR"))
    }

    /// The next argument that is the command's own.
    pub(crate) fn next(&mut self) -> Result<Option<Token>, Stop> {
        loop {
            let token = match self.parser.next() {
                Ok(Some(Arg::Long(name))) => Token::Option(format!("--{name}")),
                Ok(Some(Arg::Short(name))) => Token::Option(format!("-{name}")),
                Ok(Some(Arg::Value(word))) => Token::Word(word),
                Ok(None) => return Ok(None),
                Err(error) => return Err(self.usage(error)),
            };
            match &token {
                Token::Option(option) => match option.as_str() {
                    "--help" | "-h" => return Err(Stop::Answer(self.help)),
                    "--store" if !self.command.is_empty() => self.store = Some(self.path()?),
                    "--json" if !self.command.is_empty() => self.json = true,
                    _ => return Ok(Some(token)),
                },
                Token::Word(_) => return Ok(Some(token)),
            }
        }
    }

    /// All that is left, of a command that has no options of its own.
    pub(crate) fn words(&mut self) -> Result<Vec<String>, Stop> {
        let mut words = Vec::new();
        while let Some(token) = self.next()? {
            match token {
                Token::Option(option) => return Err(self.unknown_option(&option)),
                Token::Word(word) => words.push(self.readable(word)?),
            }
        }
        Ok(words)
    }

    /// Makes sure that nothing is left, of a command that takes nothing more.
    pub(crate) fn end(&mut self) -> Result<(), Stop> {
        match self.words()?.first() {
            Some(word) => Err(self.unknown_word(OsStr::new(word))),
            None => Ok(()),
        }
    }

    /// Makes sure that there is nothing at all, of a command that has no store either.
    pub(crate) fn nothing(&mut self) -> Result<(), Stop> {
        self.end()?;
        match (&self.store, self.json) {
            (Some(_), _) => Err(self.unknown_option("--store")),
            (None, true) => Err(self.unknown_option("--json")),
            (None, false) => Ok(()),
        }
    }

    /// The value of the option that was just taken.
    pub(crate) fn value(&mut self) -> Result<OsString, Stop> {
        self.parser.value().map_err(|error| self.usage(error))
    }

    /// Its value, a path.
    pub(crate) fn path(&mut self) -> Result<PathBuf, Stop> {
        self.value().map(PathBuf::from)
    }

    /// Its value, a text.
    pub(crate) fn text(&mut self) -> Result<String, Stop> {
        let value = self.value()?;
        self.readable(value)
    }

    /// Its value, a number from `least` to `most`.
    pub(crate) fn number(&mut self, option: &str, least: u32, most: u32) -> Result<u32, Stop> {
        let text = self.text()?;
        let number = text.parse().ok().filter(|number| (least..=most).contains(number));
        number.ok_or_else(|| {
            self.usage(format!("{option} wants a number from {least} to {most}, not {text:?}"))
        })
    }

    /// Its value, a length of time.
    pub(crate) fn duration(&mut self, option: &str) -> Result<Duration, Stop> {
        let text = self.text()?;
        units::parse_duration(&text)
            .ok_or_else(|| self.usage(format!("{option} wants a time like 90s, 5m or 1h30m, not {text:?}")))
    }

    /// The word as text.
    pub(crate) fn readable(&self, word: OsString) -> Result<String, Stop> {
        word.into_string().map_err(|word| self.usage(format!("{word:?} is not UTF-8")))
    }

    pub(crate) fn unknown_option(&self, option: &str) -> Stop {
        self.usage(format!("there is no option {option}"))
    }

    pub(crate) fn unknown_word(&self, word: &OsStr) -> Stop {
        self.usage(format!("{word:?} is one argument too many"))
    }

    /// Says that the arguments are wrong, and where to read how they are right.
    pub(crate) fn usage(&self, why: impl std::fmt::Display) -> Stop {
        let space = if self.command.is_empty() { "" } else { " " };
        Stop::Usage(format!("{why}; see `oci-puller{space}{} --help`", self.command))
    }
}
