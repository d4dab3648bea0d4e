//! Docker's credential helpers: programs `docker-credential-NAME`, asked by
//! [Docker's protocol](https://docs.docker.com/reference/cli/docker/login/#credential-helper-protocol).

use std::path::PathBuf;

use serde::Deserialize;
use zeroize::Zeroizing;

use super::process::{Invocation, Printed, failed};
use super::runner::{Helpers, check_name};
use crate::context::PullContext;
use crate::credentials::credential::{Credential, Secret};
use crate::error::{Error, ErrorKind};

/// Maximum length of a server's URL, bytes.
const MAX_SERVER_LEN: usize = 2 * 1024;
/// The user name that marks the secret as an identity token.
const TOKEN_USER: &str = "<token>";
/// The output of a helper that has no credential; its exit code is not 0 then.
const NOT_FOUND: &str = "credentials not found";

/// A helper's credential for a server, if it has one.
type HelperAnswer = Result<Option<Credential>, Error>;

impl Helpers {
    /// Asks the helper `name` for the credential of `server`; `None` if it has none.
    ///
    /// # Errors
    /// As of [`run`](Self::run); `InvalidConfig` for a name or a server that no helper is asked for, `Protocol`
    /// for output that the protocol does not know.
    pub(crate) fn get(&self, cx: &PullContext, name: &str, server: &str) -> HelperAnswer {
        check_name(name)?;
        check_server(server)?;
        let program = self.program(name);
        let invocation =
            Invocation { program, args: vec!["get".into()], env: Vec::new(), input: server.to_owned() };
        answer_of(&*self.run(cx, name, invocation, self.timeout)?, name)
    }

    fn program(&self, name: &str) -> PathBuf {
        let program = format!("docker-credential-{name}");
        self.directory.as_ref().map_or_else(|| PathBuf::from(&program), |directory| directory.join(&program))
    }
}

/// Refuses a server that would break the protocol, which is lines of text.
fn check_server(server: &str) -> Result<(), Error> {
    if server.len() <= MAX_SERVER_LEN && !server.chars().any(char::is_control) {
        return Ok(());
    }
    Err(Error::new(ErrorKind::InvalidConfig, format!("credential helpers are not asked for {server:?}")))
}

/// Reads a helper's output and exit status.
pub(super) fn answer_of(printed: &Printed, name: &str) -> HelperAnswer {
    let text = printed.text(name)?;
    if printed.status.success() {
        read(text).map_err(|what| failed(ErrorKind::Protocol, name, what))
    } else if says_not_found(text) {
        Ok(None)
    } else {
        Err(failed(ErrorKind::Protocol, name, &printed.status.to_string()))
    }
}

fn says_not_found(text: &[u8]) -> bool {
    let text = Zeroizing::new(String::from_utf8_lossy(text).to_ascii_lowercase());
    text.contains(NOT_FOUND)
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperOutput {
    username: Secret,
    secret: Secret,
}

fn read(text: &[u8]) -> Result<Option<Credential>, &'static str> {
    // serde's own message would quote the output, which may be a password.
    let output: HelperOutput =
        serde_json::from_slice(text).map_err(|_| "its answer does not follow the helper protocol")?;
    let (username, secret) = (output.username.expose(), output.secret.expose());
    if username.chars().chain(secret.chars()).any(char::is_control) {
        return Err("its answer has control characters");
    }
    Ok(match (username, secret) {
        ("", "") => None,
        (TOKEN_USER, token) => Some(Credential::identity_token(token)),
        (username, secret) => Some(Credential::basic(username, secret)),
    })
}
