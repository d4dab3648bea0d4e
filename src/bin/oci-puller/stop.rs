//! Why the command ends before its end.

use std::io;
use std::process::ExitCode;

use oci_puller::Error;

use crate::output;
use crate::screen::{self, say};

/// Exit codes: 0 if all that was asked for was done, 1 if something failed, 2 if the arguments were
/// wrong; a command that a signal ended ends by that signal.
const FAILED: u8 = 1;
const WRONG_USAGE: u8 = 2;

/// Why the command ends before its end.
#[derive(Debug)]
pub(crate) enum Stop {
    /// Help or the version was asked for.
    Answer(&'static str),
    /// The arguments are wrong.
    Usage(String),
    /// Something failed.
    Failed(Error),
    /// Something of this program's own failed: a file, a thread.
    Own(String),
    /// Something failed, and was told already.
    Told,
    /// The results could not be written.
    Output(io::Error),
    /// A signal asked for an end.
    Signal(i32),
}

impl Stop {
    /// Says why, and tells the exit code.
    pub(crate) fn tell(self) -> ExitCode {
        match self {
            Stop::Answer(text) => match output::raw(text) {
                Ok(()) => return ExitCode::SUCCESS,
                Err(stop) => return stop.tell(),
            },
            Stop::Usage(text) => {
                say(&format!("oci-puller: {text}"));
                return ExitCode::from(WRONG_USAGE);
            }
            Stop::Failed(error) => screen::say_error(&error),
            Stop::Own(text) => say(&format!("error: {text}")),
            Stop::Told => {}
            // Who reads has had enough, and knows.
            Stop::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => {}
            Stop::Output(error) => say(&format!("error: the results could not be written: {error}")),
            // So that a shell sees what it was. Does not come back.
            Stop::Signal(signal) => drop(signal_hook::low_level::emulate_default_handler(signal)),
        }
        ExitCode::from(FAILED)
    }
}

impl From<Error> for Stop {
    fn from(error: Error) -> Self {
        Stop::Failed(error)
    }
}
