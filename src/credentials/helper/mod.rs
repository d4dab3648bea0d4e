//! Credential helpers: programs `docker-credential-NAME`, asked by
//! [Docker's protocol](https://docs.docker.com/reference/cli/docker/login/#credential-helper-protocol).
//!
//! A helper is not trusted to end, to be brief, or to be there.

mod plugin;
mod process;
mod shared;

use std::io;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde::Deserialize;
use zeroize::Zeroizing;

use crate::context::PullContext;
use crate::error::{Error, ErrorKind};

use super::credential::{Credential, Secret};
use crate::sync::{Outcome, PoolUser};
pub(crate) use plugin::ProviderPlugins;
use process::{Invocation, MAX_ANSWER_LEN, Printed, Run};
use shared::Question;

/// No server's URL is longer, bytes.
const MAX_SERVER_LEN: usize = 2 * 1024;
/// The user name that says that the secret is an identity token.
const TOKEN_USER: &str = "<token>";
/// What a helper prints when it knows nothing, with an exit code that is not 0.
const NOT_FOUND: &str = "credentials not found";

/// What a helper has for a server, if anything.
type Answer = Result<Option<Credential>, Error>;

/// How helpers are run.
#[derive(Debug)]
pub(crate) struct Helpers {
    /// Where they are looked for; `None` is `$PATH`.
    pub(crate) directory: Option<PathBuf>,
    /// How long one may take, with its wait for a thread.
    pub(crate) timeout: Duration,
    _threads: PoolUser,
}

impl Default for Helpers {
    fn default() -> Self {
        Helpers { directory: None, timeout: Duration::from_secs(30), _threads: shared::use_threads() }
    }
}

impl Helpers {
    /// Asks the helper `name` for the credential of `server`; `None` if it has none.
    ///
    /// # Errors
    /// As of [`run`](Self::run).
    pub(crate) fn get(&self, cx: &PullContext, name: &str, server: &str) -> Answer {
        check_name(name)?;
        check_server(server)?;
        let program = self.program(name);
        let invocation =
            Invocation { program, args: vec!["get".into()], env: Vec::new(), input: server.to_owned() };
        answer_of(&*self.run(cx, name, invocation, self.timeout)?, name)
    }

    /// Runs a program, and returns what it printed. Callers that ask the same at the same time share one run.
    ///
    /// When the context or the time limit of the last caller ends, the program is killed with all that it
    /// started, and the answer does not wait for that.
    ///
    /// # Errors
    /// `Cancelled` or `Timeout` when the context ended. Any other is the program's own failure: `InvalidConfig`,
    /// `Timeout`, `ResourceExhausted`. None holds what it printed.
    fn run(
        &self,
        cx: &PullContext,
        name: &str,
        invocation: Invocation,
        timeout: Duration,
    ) -> Result<Arc<Printed>, Error> {
        cx.check()?;
        let question = Question { name: name.to_owned(), invocation };
        let asker =
            shared::ask(&question).map_err(|e| failed(ErrorKind::ResourceExhausted, name, &e.to_string()))?;
        match limited(cx, timeout).wait_for(asker.outcome()) {
            Ok(Some(Outcome::Done(answer))) => answer,
            Ok(_) => Err(failed(ErrorKind::Panicked, name, "the thread that ran it panicked")),
            Err(_) => {
                cx.check()?;
                Err(failed(ErrorKind::Timeout, name, &format!("no answer within {timeout:?}")))
            }
        }
    }

    fn program(&self, name: &str) -> PathBuf {
        let program = format!("docker-credential-{name}");
        self.directory.as_ref().map_or_else(|| PathBuf::from(&program), |directory| directory.join(&program))
    }
}

/// Returns the context, ended by the time limit, too.
fn limited(cx: &PullContext, timeout: Duration) -> PullContext {
    let limit = Instant::now().checked_add(timeout);
    match [cx.deadline(), limit].into_iter().flatten().min() {
        Some(deadline) => cx.clone().with_deadline(deadline),
        None => cx.clone(),
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

fn failed(kind: ErrorKind, name: &str, what: &str) -> Error {
    Error::new(kind, format!("credential helper {name}: {what}"))
}

/// Runs the program to its end.
fn printed_by(run: &Run, name: &str) -> Result<Printed, Error> {
    run.run().map_err(|e| match e.kind() {
        io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied => {
            let what = format!("{} cannot be run: {e}", run.invocation.program.display());
            failed(ErrorKind::InvalidConfig, name, &what)
        }
        _ => failed(ErrorKind::ResourceExhausted, name, &e.to_string()),
    })
}

/// Returns what a program printed.
fn text_of<'a>(printed: &'a Printed, name: &str) -> Result<&'a [u8], Error> {
    printed.text.as_deref().map(Vec::as_slice).ok_or_else(|| {
        let what = format!("it printed more than {MAX_ANSWER_LEN} bytes");
        failed(ErrorKind::Protocol, name, &what)
    })
}

/// Reads what a helper printed.
fn answer_of(printed: &Printed, name: &str) -> Answer {
    let text = text_of(printed, name)?;
    if printed.status.success() {
        read(text).map_err(|what| failed(ErrorKind::Protocol, name, what))
    } else if knows_nothing(text) {
        Ok(None)
    } else {
        Err(failed(ErrorKind::Protocol, name, &printed.status.to_string()))
    }
}

fn knows_nothing(text: &[u8]) -> bool {
    let text = Zeroizing::new(String::from_utf8_lossy(text).to_ascii_lowercase());
    text.contains(NOT_FOUND)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Document {
    username: Secret,
    secret: Secret,
}

fn read(text: &[u8]) -> Result<Option<Credential>, &'static str> {
    // Not serde's own message: it quotes what it finds.
    let document: Document =
        serde_json::from_slice(text).map_err(|_| "its answer is not what the protocol asks for")?;
    let (username, secret) = (document.username.expose(), document.secret.expose());
    if username.chars().chain(secret.chars()).any(char::is_control) {
        return Err("its answer has control characters");
    }
    Ok(match (username, secret) {
        ("", "") => None,
        (TOKEN_USER, token) => Some(Credential::identity_token(token)),
        (username, secret) => Some(Credential::basic(username, secret)),
    })
}

#[cfg(test)]
mod tests;
