//! Credential helpers: programs `docker-credential-NAME`, asked by
//! [Docker's protocol](https://docs.docker.com/reference/cli/docker/login/#credential-helper-protocol).
//!
//! A helper is not trusted to end, to be brief, or to be there.

use std::io::{self, PipeReader, PipeWriter, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Child, ChildStdout, Command, Stdio};
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Sender, bounded};
use parking_lot::Mutex;
use rustix::event::{PollFd, PollFlags, poll};
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use serde::Deserialize;
use zeroize::Zeroizing;

use crate::context::PullContext;
use crate::error::{Error, ErrorKind};

use super::credential::{Credential, Secret};
use super::workers::Workers;

/// No answer is longer, bytes.
const MAX_ANSWER_LEN: usize = 64 * 1024;
/// No server's URL is longer, bytes; it goes through a pipe without a reader yet.
const MAX_SERVER_LEN: usize = 2 * 1024;
/// The user name that says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";
/// What a helper prints when it knows nothing, with an exit code that is not 0.
const NOT_FOUND: &str = "credentials not found";

static WORKERS: Workers = Workers::new("helper", 4);

/// How helpers are run.
#[derive(Clone, Debug)]
pub(crate) struct Helpers {
    /// Where they are looked for; `None` is `$PATH`.
    pub(crate) directory: Option<PathBuf>,
    /// How long one may take, with its wait for a thread.
    pub(crate) timeout: Duration,
}

impl Default for Helpers {
    fn default() -> Self {
        Helpers { directory: None, timeout: Duration::from_secs(30) }
    }
}

impl Helpers {
    /// Asks the helper `name` for the credential of `server`; `None` if it has none.
    ///
    /// When the context or the time ends, the helper is killed with all that it started, and the
    /// answer does not wait for that.
    ///
    /// # Errors
    /// `Cancelled` or `Timeout` when the context ended. Any other is the helper's own failure:
    /// `InvalidConfig`, `Timeout`, `Protocol`, `ResourceExhausted`. None holds what it printed.
    pub(crate) fn get(
        &self,
        cx: &PullContext,
        name: &str,
        server: &str,
    ) -> Result<Option<Credential>, Error> {
        check_name(name)?;
        check_server(server)?;
        cx.check()?;
        let program = self.program(name);
        let (control, stop) = Control::new().map_err(|e| exhausted(name, &e))?;
        let (sender, answer) = bounded(1);
        let run = Run { program, server: server.to_owned(), control: control.clone(), stop };
        WORKERS.run(move || run.and_answer(&sender)).map_err(|e| exhausted(name, &e))?;

        let until = Instant::now().checked_add(self.timeout);
        let deadline = [cx.deadline(), until].into_iter().flatten().min();
        let limited = deadline.map_or_else(|| cx.clone(), |deadline| cx.clone().with_deadline(deadline));
        match limited.wait_for(&answer) {
            Ok(Some(printed)) => printed.and_then(Printed::read).map_err(|e| e.named(name)),
            Ok(None) => Err(failed(ErrorKind::Panicked, name, "the thread that ran it panicked")),
            Err(_) => {
                control.abandon();
                cx.check()?;
                Err(failed(ErrorKind::Timeout, name, &format!("no answer within {:?}", self.timeout)))
            }
        }
    }

    fn program(&self, name: &str) -> PathBuf {
        let program = format!("docker-credential-{name}");
        self.directory.as_ref().map_or_else(|| PathBuf::from(&program), |directory| directory.join(&program))
    }
}

/// A name becomes part of a program's: nothing that leads elsewhere.
fn check_name(name: &str) -> Result<(), Error> {
    let is_safe = |c: char| c.is_ascii_alphanumeric() || "._-".contains(c);
    if !name.is_empty() && name.chars().all(is_safe) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidConfig, format!("{name:?} is no name of a credential helper")))
}

/// The protocol is lines of text: a line break would say something else.
fn check_server(server: &str) -> Result<(), Error> {
    if server.len() <= MAX_SERVER_LEN && !server.chars().any(char::is_control) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidConfig, format!("credential helpers are not asked for {server:?}")))
}

fn exhausted(name: &str, why: &io::Error) -> Error {
    failed(ErrorKind::ResourceExhausted, name, &why.to_string())
}

fn failed(kind: ErrorKind, name: &str, what: &str) -> Error {
    Error::new(kind, format!("credential helper {name}: {what}"))
}

/// Why a helper gave no answer that can be used.
struct Failure {
    kind: ErrorKind,
    what: String,
}

impl Failure {
    fn new(kind: ErrorKind, what: impl Into<String>) -> Self {
        Failure { kind, what: what.into() }
    }

    fn named(self, name: &str) -> Error {
        failed(self.kind, name, &self.what)
    }
}

impl From<io::Error> for Failure {
    fn from(e: io::Error) -> Self {
        Failure::new(ErrorKind::ResourceExhausted, e.to_string())
    }
}

/// Lets one thread end what another one runs.
#[derive(Clone)]
struct Control(Arc<Mutex<ControlState>>);

struct ControlState {
    abandoned: bool,
    /// The helper, from its start until it is waited for: while it is here, its id is no other's.
    running: Option<Pid>,
    /// Dropped to wake the thread that reads what the helper prints.
    wake: Option<PipeWriter>,
}

impl Control {
    /// With the end of a pipe that closes when the helper is to stop.
    fn new() -> io::Result<(Self, PipeReader)> {
        let (stop, wake) = io::pipe()?;
        let state = ControlState { abandoned: false, running: None, wake: Some(wake) };
        Ok((Control(Arc::new(Mutex::new(state))), stop))
    }

    /// Nobody waits for the answer any more.
    fn abandon(&self) {
        let mut state = self.0.lock();
        state.abandoned = true;
        state.wake = None;
        if let Some(helper) = state.running {
            kill(helper);
        }
    }

    fn is_abandoned(&self) -> bool {
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
    fn wait(&self, helper: Pid, child: &mut Child) -> io::Result<std::process::ExitStatus> {
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

/// One run of a helper, on a thread that may wait for it.
struct Run {
    program: PathBuf,
    server: String,
    control: Control,
    stop: PipeReader,
}

impl Run {
    fn and_answer(self, answer: &Sender<Result<Printed, Failure>>) {
        if !self.control.is_abandoned() {
            // Nobody listens if it was abandoned meanwhile.
            let _ = answer.send(self.run());
        }
    }

    fn run(&self) -> Result<Printed, Failure> {
        let mut child = self.spawn()?;
        let helper = Pid::from_child(&child);
        self.control.started(helper);
        let printed = self.talk(&mut child);
        if !matches!(printed, Ok(Some(_))) {
            self.control.kill();
        }
        let status = self.control.wait(helper, &mut child)?;
        let Some(text) = printed? else {
            return Err(Failure::new(
                ErrorKind::Protocol,
                format!("it printed more than {MAX_ANSWER_LEN} bytes"),
            ));
        };
        Ok(Printed { text, success: status.success(), status: status.to_string() })
    }

    fn spawn(&self) -> Result<Child, Failure> {
        let mut command = Command::new(&self.program);
        command.arg("get").stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        command.process_group(0);
        command.spawn().map_err(|e| match e.kind() {
            io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => {
                let what = format!("{} cannot be run: {e}", self.program.display());
                Failure::new(ErrorKind::InvalidConfig, what)
            }
            _ => e.into(),
        })
    }

    /// Tells it the server, and reads what it prints; `None` if that is too much.
    fn talk(&self, child: &mut Child) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        if let Some(mut stdin) = child.stdin.take() {
            match stdin.write_all(self.server.as_bytes()) {
                Err(e) if e.kind() != io::ErrorKind::BrokenPipe => return Err(e),
                _ => {}
            }
        }
        match child.stdout.take() {
            Some(stdout) => self.read(stdout),
            None => Ok(None),
        }
    }

    fn read(&self, mut stdout: ChildStdout) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
        // All of it at once: a vector that grows leaves copies behind.
        let mut text = Zeroizing::new(vec![0; MAX_ANSWER_LEN + 1]);
        let mut length = 0;
        while let Some(room) = text.get_mut(length..).filter(|room| !room.is_empty()) {
            self.wait_for_output(&stdout)?;
            match stdout.read(room) {
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

    /// What the helper started may keep its output open after it was killed: then the pipe that
    /// closes ends the wait.
    fn wait_for_output(&self, stdout: &ChildStdout) -> io::Result<()> {
        let mut both = [PollFd::new(stdout, PollFlags::IN), PollFd::new(&self.stop, PollFlags::IN)];
        while let Err(e) = poll(&mut both, None) {
            if e != rustix::io::Errno::INTR {
                return Err(e.into());
            }
        }
        let [_, stop] = both;
        if stop.revents().is_empty() { Ok(()) } else { Err(io::ErrorKind::TimedOut.into()) }
    }
}

/// What a helper printed.
struct Printed {
    text: Zeroizing<Vec<u8>>,
    success: bool,
    status: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Answer {
    username: Secret,
    secret: Secret,
}

impl Printed {
    fn read(self) -> Result<Option<Credential>, Failure> {
        if !self.success {
            let text = Zeroizing::new(String::from_utf8_lossy(&self.text).to_ascii_lowercase());
            let knows_nothing = text.contains(NOT_FOUND);
            return if knows_nothing {
                Ok(None)
            } else {
                Err(Failure::new(ErrorKind::Protocol, self.status))
            };
        }
        // Not serde's own message: it quotes what it finds.
        let answer: Answer = serde_json::from_slice(&self.text)
            .map_err(|_| Failure::new(ErrorKind::Protocol, "its answer is not what the protocol asks for"))?;
        let (username, secret) = (answer.username.expose(), answer.secret.expose());
        if username.chars().chain(secret.chars()).any(char::is_control) {
            return Err(Failure::new(ErrorKind::Protocol, "its answer has control characters"));
        }
        Ok(match (username, secret) {
            ("", "") => None,
            (TOKEN_USER, token) => Some(Credential::identity_token(token)),
            (username, secret) => Some(Credential::basic(username, secret)),
        })
    }
}

#[cfg(test)]
mod tests;
