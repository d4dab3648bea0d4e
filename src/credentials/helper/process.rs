//! One run of a helper: a child process that may hang, and what it prints.

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

/// No answer is longer, bytes.
pub(super) const MAX_ANSWER_LEN: usize = 64 * 1024;

/// Lets one thread end what another one runs.
#[derive(Clone)]
pub(super) struct Control(Arc<Mutex<ControlState>>);

struct ControlState {
    abandoned: bool,
    /// The helper, from its start until it is waited for: while it is here, its id is no other's.
    running: Option<Pid>,
    /// Dropped to wake the thread that reads what the helper prints.
    wake: Option<PipeWriter>,
}

impl Control {
    /// With the end of a pipe that closes when the helper is to stop.
    pub(super) fn new() -> io::Result<(Self, PipeReader)> {
        let (stop, wake) = io::pipe()?;
        let state = ControlState { abandoned: false, running: None, wake: Some(wake) };
        Ok((Control(Arc::new(Mutex::new(state))), stop))
    }

    /// Nobody waits for the answer any more.
    pub(super) fn abandon(&self) {
        let mut state = self.0.lock();
        state.abandoned = true;
        state.wake = None;
        if let Some(helper) = state.running {
            kill(helper);
        }
    }

    pub(super) fn is_abandoned(&self) -> bool {
        self.0.lock().abandoned
    }

    fn started(&self, helper: Pid) {
        let mut state = self.0.lock();
        state.running = Some(helper);
        if state.abandoned {
            kill(helper);
        }
    }

    fn kill(&self) {
        if let Some(helper) = self.0.lock().running {
            kill(helper);
        }
    }

    /// Waits until the helper ended. It stays a zombie until the lock is held: else its id might be
    /// another's when it is killed.
    fn wait(&self, helper: Pid, child: &mut Child) -> io::Result<ExitStatus> {
        let ended = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while let Err(rustix::io::Errno::INTR) = waitid(WaitId::Pid(helper), ended) {}
        let mut state = self.0.lock();
        state.running = None;
        child.wait()
    }
}

/// The helper leads a group of its own: what it started goes with it.
fn kill(helper: Pid) {
    if let Err(e) = kill_process_group(helper, Signal::KILL) {
        log::debug!("a credential helper could not be killed: {e}");
    }
}

/// A program, and what it is given.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Invocation {
    pub(super) program: PathBuf,
    pub(super) args: Vec<String>,
    /// Variables besides those of this process.
    pub(super) env: Vec<(String, String)>,
    /// Its standard input: short enough for a pipe that nothing reads yet.
    pub(super) input: String,
}

/// One run of a program.
pub(super) struct Run {
    pub(super) invocation: Invocation,
    pub(super) control: Control,
    pub(super) stop: PipeReader,
}

/// How a helper ended; prints without its text.
pub(crate) struct Printed {
    /// What it printed; `None` if that was too much.
    pub(crate) text: Option<Zeroizing<Vec<u8>>>,
    pub(crate) status: ExitStatus,
}

impl std::fmt::Debug for Printed {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Printed").field("status", &self.status).finish_non_exhaustive()
    }
}

impl Run {
    /// Runs it to its end, which an abandoned one meets at once.
    pub(super) fn run(&self) -> io::Result<Printed> {
        let mut child = self.spawn()?;
        let helper = Pid::from_child(&child);
        self.control.started(helper);
        let text = self.talk(&mut child, exit_of(helper).as_ref());
        if !matches!(text, Ok(Some(_))) {
            self.control.kill();
        }
        let status = self.control.wait(helper, &mut child)?;
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

    /// Tells it the server, and reads what it prints.
    fn talk(&self, child: &mut Child, exit: Option<&OwnedFd>) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        if let Some(mut stdin) = child.stdin.take() {
            match stdin.write_all(self.invocation.input.as_bytes()) {
                // It may know its answer without asking.
                Err(e) if e.kind() != io::ErrorKind::BrokenPipe => return Err(e),
                _ => {}
            }
        }
        match child.stdout.take() {
            Some(stdout) => self.read(stdout, exit),
            None => Ok(None),
        }
    }

    /// Reads until the output is closed, or the helper has exited and all that it printed is read: a
    /// process that it started may keep the output open.
    fn read(
        &self,
        mut stdout: ChildStdout,
        exit: Option<&OwnedFd>,
    ) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        // All of it at once: a vector that grows leaves copies behind.
        let mut text = Zeroizing::new(vec![0; MAX_ANSWER_LEN + 1]);
        let mut length = 0;
        while let Some(room) = text.get_mut(length..).filter(|room| !room.is_empty()) {
            let read = match self.wait_for_output(&stdout, exit)? {
                true => stdout.read(room),
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

    /// Waits until there is output, or its end: `true`; or until the helper has exited and there is no
    /// output: `false`.
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
        // It may have printed between the look at its output and its exit.
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

/// Returns a descriptor that is readable when the helper has exited; `None` where the system has none
/// (Linux before 5.3), and the end of the output alone ends a run.
#[cfg(any(target_os = "linux", target_os = "android"))]
fn exit_of(helper: Pid) -> Option<OwnedFd> {
    rustix::process::pidfd_open(helper, rustix::process::PidfdFlags::empty()).ok()
}

#[cfg(not(any(target_os = "linux", target_os = "android")))]
fn exit_of(_: Pid) -> Option<OwnedFd> {
    None
}
