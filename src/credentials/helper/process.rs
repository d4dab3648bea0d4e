//! One run of a program: a child process that may hang, and its output.

use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::Arc;

use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use zeroize::Zeroizing;

use crate::error::{Error, ErrorKind};

/// Maximum size of a program's output, bytes.
const MAX_OUTPUT_LEN: usize = 64 * 1024;

/// Returns the error of a program that failed.
pub(super) fn failed(kind: ErrorKind, name: &str, what: &str) -> Error {
    Error::new(kind, format!("credential helper {name}: {what}"))
}

/// Lets one thread end the program that another one runs.
#[derive(Clone)]
pub(super) struct Control(Arc<Mutex<ControlState>>);

struct ControlState {
    abandoned: bool,
    /// The program, from its start until it is waited for. In that time, its id is not reused.
    running: Option<Pid>,
    /// Dropped to wake the thread that reads the output.
    wake: Option<PipeWriter>,
}

impl Control {
    /// Returns a control, and the end of a pipe that closes when the program must stop.
    pub(super) fn new() -> io::Result<(Self, PipeReader)> {
        let (stop, wake) = io::pipe()?;
        let state = ControlState { abandoned: false, running: None, wake: Some(wake) };
        Ok((Control(Arc::new(Mutex::new(state))), stop))
    }

    /// Ends the program: no caller waits for its output.
    pub(super) fn abandon(&self) {
        let mut state = self.0.lock();
        state.abandoned = true;
        state.wake = None;
        if let Some(program) = state.running {
            kill(program);
        }
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.0.lock().abandoned
    }

    fn started(&self, program: Pid) {
        let mut state = self.0.lock();
        state.running = Some(program);
        if state.abandoned {
            kill(program);
        }
    }

    fn kill(&self) {
        if let Some(program) = self.0.lock().running {
            kill(program);
        }
    }

    /// Waits until the program has ended. It stays a zombie until the lock is held: otherwise its id could
    /// belong to another process when it is killed.
    fn wait(&self, program: Pid, child: &mut Child) -> io::Result<ExitStatus> {
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while let Err(rustix::io::Errno::INTR) = waitid(WaitId::Pid(program), ended) {}
        let mut state = self.0.lock();
        state.running = None;
        child.wait()
    }
}

/// Kills the program's process group, which includes the processes that it started.
fn kill(program: Pid) {
    if let Err(e) = kill_process_group(program, Signal::KILL) {
        log::debug!("a credential helper could not be killed: {e}");
    }
}

/// A program with its arguments, environment and input.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Invocation {
    pub(super) program: PathBuf,
    pub(super) args: Vec<String>,
    /// Variables besides those of this process.
    pub(super) env: Vec<(String, String)>,
    /// The standard input; short enough for the buffer of a pipe.
    pub(super) input: String,
}

/// One run of a program.
pub(super) struct ProgramRun {
    pub(super) invocation: Invocation,
    pub(super) control: Control,
    pub(super) stop: PipeReader,
}

/// The output and the exit status of a program. Its `Debug` output leaves the text out.
pub(super) struct Printed {
    /// `None` if the program printed more than is read.
    text: Option<Zeroizing<Vec<u8>>>,
    pub(super) status: ExitStatus,
}

impl Printed {
    /// Returns the output of the program `name`.
    ///
    /// # Errors
    /// `Protocol` if it was too long.
    pub(super) fn text(&self, name: &str) -> Result<&[u8], Error> {
        self.text.as_deref().map(Vec::as_slice).ok_or_else(|| {
            failed(ErrorKind::Protocol, name, &format!("it printed more than {MAX_OUTPUT_LEN} bytes"))
        })
    }
}

impl std::fmt::Debug for Printed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Printed").field("status", &self.status).finish_non_exhaustive()
    }
}

impl ProgramRun {
    /// Runs the program `name` to its end; an abandoned one is killed at once.
    ///
    /// # Errors
    /// `InvalidConfig` if it cannot be run, `ResourceExhausted` for other failures of the system.
    pub(super) fn run(&self, name: &str) -> Result<Printed, Error> {
        self.run_to_end().map_err(|e| match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => {
                let what = format!("{} cannot be run: {e}", self.invocation.program.display());
                failed(ErrorKind::InvalidConfig, name, &what)
            }
            _ => failed(ErrorKind::ResourceExhausted, name, &e.to_string()),
        })
    }

    fn run_to_end(&self) -> io::Result<Printed> {
        let mut child = self.spawn()?;
        let program = Pid::from_child(&child);
        self.control.started(program);
        let text = self.talk(&mut child, exit_of(program).as_ref());
        if !matches!(text, Ok(Some(_))) {
            self.control.kill();
        }
        let status = self.control.wait(program, &mut child)?;
        Ok(Printed { text: text?, status })
    }

    fn spawn(&self) -> io::Result<Child> {
        let Invocation { program, args, env, .. } = &self.invocation;
        let mut command = Command::new(program);
        command
            .args(args)
            .envs(env.iter().map(|(name, value)| (name, value)))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null());
        command.process_group(0).spawn()
    }

    /// Writes the input, and reads the output.
    fn talk(&self, child: &mut Child, exit: Option<&OwnedFd>) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        if let Some(mut stdin) = child.stdin.take() {
            match stdin.write_all(self.invocation.input.as_bytes()) {
                // A program may print its answer without reading its input.
                Err(e) if e.kind() != io::ErrorKind::BrokenPipe => return Err(e),
                _ => {}
            }
        }
        match child.stdout.take() {
            Some(stdout) => self.read(stdout, exit),
            None => Ok(None),
        }
    }

    /// Reads until the output is closed, or the program has exited and its output is read: a process that it
    /// started may keep the output open.
    fn read(
        &self,
        mut stdout: ChildStdout,
        exit: Option<&OwnedFd>,
    ) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        // Allocated once: a vector that grows leaves copies of its content behind.
        let mut text = Zeroizing::new(vec![0; MAX_OUTPUT_LEN + 1]);
        let mut length = 0;
        while let Some(free) = text.get_mut(length..).filter(|free| !free.is_empty()) {
            let read = match self.wait_for_output(&stdout, exit)? {
                true => stdout.read(free),
                false => Ok(0),
            };
            match read {
                Ok(0) => {
                    text.truncate(length);
                    return Ok(Some(text));
                }
                Ok(read) => length += read,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(e),
            }
        }
        Ok(None)
    }

    /// Waits for output or its end, and returns `true`; returns `false` when the program has exited and there
    /// is no output.
    ///
    /// # Errors
    /// `TimedOut` when the run was abandoned.
    fn wait_for_output(&self, stdout: &ChildStdout, exit: Option<&OwnedFd>) -> io::Result<bool> {
        let mut events = vec![PollFd::new(&self.stop, PollFlags::IN), PollFd::new(stdout, PollFlags::IN)];
        events.extend(exit.map(|exit| PollFd::new(exit, PollFlags::IN)));
        poll_until(&mut events, None)?;
        if is_ready(events.first()) {
            return Err(io::ErrorKind::TimedOut.into());
        }
        if is_ready(events.get(1)) {
            return Ok(true);
        }
        // The program may have printed between the check of its output and its exit.
        let mut output = [PollFd::new(stdout, PollFlags::IN)];
        poll_until(&mut output, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
        Ok(is_ready(output.first()))
    }
}

fn poll_until(events: &mut [PollFd<'_>], timeout: Option<&Timespec>) -> io::Result<()> {
    while let Err(e) = poll(events, timeout) {
        if e != rustix::io::Errno::INTR {
            return Err(e.into());
        }
    }
    Ok(())
}

fn is_ready(event: Option<&PollFd<'_>>) -> bool {
    event.is_some_and(|event| !event.revents().is_empty())
}

/// Returns a descriptor that is readable when the program has exited; `None` where the system has none
/// (Linux before 5.3), and only the end of the output ends a run.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn exit_of(program: Pid) -> Option<OwnedFd> {
    rustix::process::pidfd_open(program, rustix::process::PidfdFlags::empty()).ok()
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn exit_of(_: Pid) -> Option<OwnedFd> {
    None
}
