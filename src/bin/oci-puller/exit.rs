//! Reasons for which the command ends early, and their exit codes.

use std::io;
use std::process::ExitCode;

use oci_puller::Error;

use crate::stderr::{self, say};

const FAILED: u8 = 1;
const WRONG_USAGE: u8 = 2;
const WORTH_RETRYING: u8 = 3;

/// A reason for which the command ends early.
#[derive(Debug)]
pub(crate) enum Exit {
    /// The arguments are wrong, or help was asked for.
    Usage(clap::Error),
    /// Arguments of a command contradict each other.
    Contradiction {
        /// The name of the command.
        command: &'static str,
        message: String,
    },
    /// An operation of the library failed.
    Failed(Error),
    /// An operation of the command itself failed: a file, a thread.
    Own(String),
    /// Something failed and was reported already.
    Reported {
        /// Whether all that failed is worth trying again.
        retryable: bool,
    },
    /// The results could not be written.
    Output(io::Error),
    /// A signal interrupted the command.
    Signal(i32),
}

impl Exit {
    /// Something failed for good and was reported already.
    pub(crate) const REPORTED: Exit = Exit::Reported { retryable: false };

    /// Writes the reason to standard error and returns the exit code.
    pub(crate) fn report(self) -> ExitCode {
        let code = match &self {
            Exit::Usage(error) if error.use_stderr() => WRONG_USAGE,
            Exit::Contradiction { .. } => WRONG_USAGE,
            Exit::Failed(error) if error.is_retryable() => WORTH_RETRYING,
            Exit::Reported { retryable: true } => WORTH_RETRYING,
            _ => FAILED,
        };
        match self {
            Exit::Usage(error) if error.use_stderr() => drop(error.print()),
            // Help and the version, on standard output.
            Exit::Usage(text) => match text.print() {
                Ok(()) => return ExitCode::SUCCESS,
                Err(error) => return Exit::Output(error).report(),
            },
            // `main` turns it into an error about the usage.
            Exit::Contradiction { message, .. } => say(&format!("error: {message}")),
            Exit::Failed(error) => stderr::say_error(&error),
            Exit::Own(text) => say(&format!("error: {text}")),
            Exit::Reported { .. } => {}
            // The reader closed the pipe: it needs no message.
            Exit::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Exit::Output(error) => say(&format!("error: the results could not be written: {error}")),
            // Ends the process by the signal, which a shell shows as 128 + its number.
            Exit::Signal(signal) => drop(signal_hook::low_level::emulate_default_handler(signal)),
        }
        ExitCode::from(code)
    }
}

impl From<Error> for Exit {
    fn from(error: Error) -> Self {
        Exit::Failed(error)
    }
}
