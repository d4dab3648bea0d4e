//! Options that several commands share, and the parsers of values.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::Args;
use clap::builder::{OsStringValueParser, TypedValueParser};
use oci_puller::Error;
use oci_puller::image::Platform;

use crate::exit::Exit;
use crate::units;

/// Options of each command that works on a store.
#[derive(Args)]
pub(crate) struct StoreArgs {
    /// Folder of the store. Default: oci-puller in $XDG_DATA_HOME or ~/.local/share
    #[arg(long, value_name = "DIR", env = "OCI_PULLER_STORE", hide_env_values = true)]
    #[arg(value_parser = OsStringValueParser::new().map(PathBuf::from), help_heading = "Common options")]
    store: Option<PathBuf>,
    /// Print results as JSON, one object a line; --help lists the fields
    #[arg(long, help_heading = "Common options")]
    pub(crate) json: bool,
}

impl StoreArgs {
    /// Returns the store's folder: the one that was given, or else the user's.
    pub(crate) fn dir(&self) -> Result<PathBuf, Exit> {
        // An empty variable is an absent one.
        let given = self.store.clone().filter(|dir| !dir.as_os_str().is_empty());
        given.or_else(default_dir).ok_or_else(|| {
            Exit::Own("this user has no home folder: give the store's folder with --store DIR".to_owned())
        })
    }
}

fn default_dir() -> Option<PathBuf> {
    let variable = std::env::var_os("XDG_DATA_HOME").filter(|value: &OsString| !value.is_empty());
    let data = variable.map(PathBuf::from).filter(|path| path.is_absolute());
    Some(data.or_else(|| Some(std::env::home_dir()?.join(".local/share")))?.join("oci-puller"))
}

/// Returns the reason to end for arguments of `command` that contradict each other.
pub(crate) fn usage(command: &'static str, message: impl Into<String>) -> Exit {
    Exit::Contradiction { command, message: message.into() }
}

/// Reads a length of time such as `90s` or `1h30m`.
pub(crate) fn duration(text: &str) -> Result<Duration, String> {
    units::parse_duration(text).ok_or_else(|| {
        if is_zero(text) {
            return "it is no time; leave the option out for the default".to_owned();
        }
        if text.parse::<f64>().is_ok_and(|number| number > 0.0) {
            format!("the unit is missing: write {text}s for seconds, {text}m for minutes")
        } else {
            "write a time such as 90s, 5m or 1h30m".to_owned()
        }
    })
}

/// Reads a length of time, or 0, which stands for no limit.
pub(crate) fn duration_or_zero(text: &str) -> Result<Duration, String> {
    if is_zero(text) { Ok(Duration::ZERO) } else { duration(text) }
}

fn is_zero(text: &str) -> bool {
    text.trim_end_matches(|c: char| c.is_ascii_alphabetic()).parse() == Ok(0.0)
}

/// Reads `HOST` or `HOST:PORT`.
pub(crate) fn host(text: &str) -> Result<String, String> {
    if text.is_empty() || text.contains(['/', '@']) || text.contains(char::is_whitespace) {
        return Err("write HOST or HOST:PORT, without a scheme and a path".to_owned());
    }
    Ok(text.to_owned())
}

/// Reads a number of bytes such as `512MiB`.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    units::parse_bytes(text).ok_or_else(|| "write a number of bytes such as 1000000, 8MiB or 2GB".to_owned())
}

/// Reads a platform such as `linux/arm64`.
pub(crate) fn platform(text: &str) -> Result<Platform, String> {
    Platform::parse(text).map_err(|error| beside_value(text, &error))
}

/// Returns the message of an error about a value that is shown beside it.
pub(crate) fn beside_value(value: &str, error: &Error) -> String {
    let message = error.message();
    message.strip_prefix(&format!("{value:?}: ")).unwrap_or(message).to_owned()
}

/// Takes the path of a file that exists.
pub(crate) fn existing_file(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match std::fs::metadata(&path) {
        Ok(found) if found.is_dir() => Err("it is a folder, not a file".to_owned()),
        Ok(_) => Ok(path),
        Err(error) => Err(error.to_string()),
    }
}

/// Takes the path of a folder that exists.
pub(crate) fn existing_dir(text: &str) -> Result<PathBuf, String> {
    let path = PathBuf::from(text);
    match std::fs::metadata(&path) {
        Ok(found) if found.is_dir() => Ok(path),
        Ok(_) => Err("it is a file, not a folder".to_owned()),
        Err(error) => Err(error.to_string()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_time_without_a_unit_is_refused_with_advice() {
        assert_eq!(duration("90s"), Ok(Duration::from_secs(90)));
        assert!(duration("10").unwrap_err().contains("10s"));
        assert!(duration("soon").unwrap_err().contains("1h30m"));
        for zero in ["0", "0s", "0.0h"] {
            assert!(duration(zero).unwrap_err().contains("leave the option out"), "{zero}");
            assert_eq!(duration_or_zero(zero), Ok(Duration::ZERO));
        }
    }

    #[test]
    fn a_host_has_neither_scheme_nor_path() {
        assert_eq!(host("r.io:5000"), Ok("r.io:5000".to_owned()));
        for wrong in ["", "http://r.io", "r.io/app", "me@r.io", "r.io "] {
            assert!(host(wrong).is_err(), "{wrong}");
        }
    }
}
