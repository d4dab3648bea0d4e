//! The path of the runtime's socket: the one given, or the first of the usual ones where a runtime answers.

use std::path::{Path, PathBuf};

use parking_lot::Mutex;

use crate::error::{Error, ErrorKind};

/// The default sockets of containerd, CRI-O and cri-dockerd.
const USUAL: [&str; 3] = ["/run/containerd/containerd.sock", "/run/crio/crio.sock", "/run/cri-dockerd.sock"];

/// The length of a socket's path that Linux accepts, bytes, without the final NUL.
const MAX_PATH: usize = 107;

/// The socket of a runtime.
#[derive(Debug)]
pub(super) enum CriEndpoint {
    At(PathBuf),
    Auto {
        candidates: Vec<PathBuf>,
        /// The candidate that answered last.
        found: Mutex<Option<PathBuf>>,
    },
}

impl CriEndpoint {
    /// Reads `unix:///PATH`, an absolute path, or `auto`.
    pub(super) fn parse(text: &str) -> Result<Self, Error> {
        let invalid = |why: &str| {
            let text = format!("the endpoint {text:?}: {why}; write unix:///PATH, an absolute path, or auto");
            Err(Error::new(ErrorKind::InvalidConfig, text))
        };
        if text == "auto" {
            return Ok(Self::auto(USUAL.map(PathBuf::from).to_vec()));
        }
        let path = match text.split_once(':') {
            Some(("unix", rest)) => rest.strip_prefix("//").unwrap_or(rest),
            Some((scheme, _)) if !scheme.contains('/') => return invalid("its scheme is not unix"),
            _ => text,
        };
        if !path.starts_with('/') {
            return invalid("the path is not absolute");
        }
        if path.len() > MAX_PATH {
            return invalid("the path is longer than 107 bytes");
        }
        if path.contains('\0') {
            return invalid("the path has a NUL");
        }
        Ok(CriEndpoint::At(path.into()))
    }

    pub(super) fn auto(candidates: Vec<PathBuf>) -> Self {
        CriEndpoint::Auto { candidates, found: Mutex::new(None) }
    }

    /// Runs `call` on the socket. For `auto`, on the first candidate where a runtime answers, as `answers` reports; it
    /// is kept until a call fails to connect.
    pub(super) fn with<T>(
        &self,
        answers: impl Fn(&Path) -> Result<(), Error>,
        call: impl FnOnce(&Path) -> Result<T, Error>,
    ) -> Result<T, Error> {
        let (candidates, found) = match self {
            CriEndpoint::At(path) => {
                return call(path).map_err(|error| error.with_host(path.to_string_lossy()));
            }
            CriEndpoint::Auto { candidates, found } => (candidates, found),
        };
        let known = found.lock().clone();
        let path = match known {
            Some(path) => path,
            None => first(candidates, answers)?,
        };
        let called = call(&path).map_err(|error| error.with_host(path.to_string_lossy()));
        let is_gone = called.as_ref().is_err_and(|error| error.kind() == ErrorKind::ConnectionFailed);
        *found.lock() = if is_gone { None } else { Some(path) };
        called
    }
}

/// Returns the first candidate that answers.
fn first(candidates: &[PathBuf], answers: impl Fn(&Path) -> Result<(), Error>) -> Result<PathBuf, Error> {
    let mut failures = Vec::new();
    for path in candidates {
        match answers(path) {
            Ok(()) => return Ok(path.clone()),
            Err(error) if matches!(error.kind(), ErrorKind::Cancelled | ErrorKind::Timeout) => {
                return Err(error);
            }
            Err(error) => failures.push(format!("{}: {}", path.display(), error.message())),
        }
    }
    let text = format!("no CRI runtime answers ({})", failures.join("; "));
    Err(Error::new(ErrorKind::ConnectionFailed, text))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn endpoints_are_absolute_paths() {
        for text in ["unix:///run/x.sock", "/run/x.sock", "unix:/run/x.sock"] {
            let CriEndpoint::At(path) = CriEndpoint::parse(text).unwrap() else { panic!("{text}") };
            assert_eq!(path, Path::new("/run/x.sock"));
        }
        let long = format!("/{}", "x".repeat(107));
        for text in
            ["", "x.sock", "tcp://1.2.3.4:5", "npipe://./pipe/x", "unix://x.sock", "AUTO", &long, "/a\0"]
        {
            let error = CriEndpoint::parse(text).unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig, "{text}");
        }
    }

    #[test]
    fn auto_takes_the_first_that_answers_and_looks_again_when_it_is_gone() {
        let endpoint = CriEndpoint::auto(["/a", "/b", "/c"].map(PathBuf::from).to_vec());
        let failed = |kind| Err(Error::new(kind, "it failed"));
        let answers = |path: &Path| match path.to_str() {
            Some("/a") => failed(ErrorKind::Unsupported),
            _ => Ok(()),
        };
        let used = endpoint.with(answers, |path| Ok(path.to_owned())).unwrap();
        assert_eq!(used, Path::new("/b"));
        let error = endpoint
            .with(|_| panic!("it is known"), |_| failed(ErrorKind::ConnectionFailed) as Result<(), _>);
        assert_eq!(error.unwrap_err().host(), Some("/b"));
        let error = endpoint.with(|_| failed(ErrorKind::ConnectionFailed), |_| Ok(())).unwrap_err();
        assert!(error.message().contains("/a: it failed; /b: it failed"), "{error}");
    }
}
