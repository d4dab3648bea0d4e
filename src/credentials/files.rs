//! Credentials files of Docker and podman, read again when they change.

use std::env;
use std::ffi::OsString;
use std::fs::{File, Metadata};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use parking_lot::Mutex;
use zeroize::Zeroizing;

use crate::error::{Error, ErrorKind};

use super::docker_config::{DockerConfig, MAX_LEN};
use super::keyring::Keyring;
use super::lookup::SourceKind;
use super::query::CredentialQuery;

/// Docker Hub's name in Docker's files and for its credential helpers.
const DOCKER_HUB_URL: &str = "https://index.docker.io/v1/";

/// The program that wrote a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum FileKind {
    /// Docker's `config.json`.
    Docker,
    /// Podman's `auth.json`, of the same shape.
    Podman,
}

/// A credentials file.
#[derive(Debug)]
pub(crate) struct ConfigFile {
    kind: FileKind,
    path: PathBuf,
    /// Whether a missing file is an error.
    required: bool,
    last: Mutex<Option<(Stamp, Arc<FileContents>)>>,
}

/// A file's content, indexed for lookups.
#[derive(Debug)]
pub(super) struct FileContents {
    keyring: Keyring,
    config: DockerConfig,
}

/// Identifies a version of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    device: u64,
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    fn of(metadata: &Metadata) -> Self {
        Stamp {
            device: metadata.dev(),
            inode: metadata.ino(),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
}

impl ConfigFile {
    /// Creates a source for a file that must exist.
    pub(crate) fn required(kind: FileKind, path: impl Into<PathBuf>) -> Self {
        ConfigFile { kind, path: path.into(), required: true, last: Mutex::new(None) }
    }

    fn optional(kind: FileKind, path: PathBuf) -> Self {
        ConfigFile { required: false, ..Self::required(kind, path) }
    }

    /// Returns Docker's and podman's files at this user's default paths.
    pub(crate) fn defaults() -> Vec<Self> {
        let variable = |name: &str| env::var_os(name).filter(|value| !value.is_empty());
        default_paths(variable, env::home_dir())
            .into_iter()
            .map(|(kind, path)| ConfigFile::optional(kind, path))
            .collect()
    }

    pub(super) fn source(&self) -> SourceKind {
        SourceKind::File(self.path.clone())
    }

    /// Returns the file's current content; `None` for an optional file that does not exist.
    ///
    /// # Errors
    /// `InvalidConfig` with the path, and none of the content.
    pub(super) fn contents(&self) -> Result<Option<Arc<FileContents>>, Error> {
        match self.read() {
            Ok(contents) => contents.map(Some).map_err(|why| self.invalid(&why)),
            Err(e) if !self.required && is_absent(&e) => Ok(None),
            Err(e) if !self.required && e.kind() == io::ErrorKind::PermissionDenied => {
                log::warn!("{} is not used: {e}", self.path.display());
                Ok(None)
            }
            Err(e) => Err(self.invalid(&e.to_string())),
        }
    }

    /// Reads the file. The outer error is the system's, the inner one is about the content.
    fn read(&self) -> io::Result<Result<Arc<FileContents>, String>> {
        // Checked before the file is opened, for opening a FIFO may block.
        if !self.path.metadata()?.is_file() {
            return Ok(Err("not a file".to_owned()));
        }
        let file = File::open(&self.path)?;
        let stamp = Stamp::of(&file.metadata()?);
        let mut last = self.last.lock();
        if let Some((known, contents)) = &*last
            && *known == stamp
        {
            return Ok(Ok(contents.clone()));
        }
        *last = None;
        let Some(text) = read_capped(file)? else {
            return Ok(Err(format!("more than {MAX_LEN} bytes")));
        };
        Ok(DockerConfig::parse(&text).map(|config| {
            let contents = Arc::new(FileContents::new(config));
            *last = Some((stamp, contents.clone()));
            contents
        }))
    }

    /// Returns the helper to ask for `query`, and the server name to ask it for.
    ///
    /// # Errors
    /// `InvalidConfig` if the registry's entry in `credHelpers` cannot be read.
    pub(super) fn helper<'c>(
        &self,
        contents: &'c FileContents,
        query: &CredentialQuery<'_>,
    ) -> Result<Option<(&'c str, String)>, Error> {
        let hub = match self.kind {
            FileKind::Docker => DOCKER_HUB_URL,
            FileKind::Podman => "docker.io",
        };
        let spellings: &[&str] = match query.is_docker_hub() {
            true => &[DOCKER_HUB_URL, "docker.io", "index.docker.io"],
            false => &[query.domain()],
        };
        let own = spellings.iter().find_map(|domain| contents.config.helpers.get(*domain));
        let own = own.map(|name| name.as_ref().map_err(|why| self.broken(query, why))).transpose()?;
        // An empty name selects the file itself, and not the store.
        let Some(name) = own.or(contents.config.store.as_ref()).filter(|name| !name.is_empty()) else {
            return Ok(None);
        };
        let server = if query.is_docker_hub() { hub } else { query.domain() };
        Ok(Some((name, server.to_owned())))
    }

    /// Returns the error of a registry's entry that cannot be read.
    pub(super) fn broken(&self, query: &CredentialQuery<'_>, why: &str) -> Error {
        self.invalid(&format!("{}: {why}", query.domain()))
    }

    fn invalid(&self, why: &str) -> Error {
        Error::new(ErrorKind::InvalidConfig, format!("{}: {why}", self.path.display()))
    }
}

impl FileContents {
    fn new(mut config: DockerConfig) -> Self {
        let mut keyring = Keyring::default();
        for (key, content) in config.auths.drain(..) {
            keyring.add_entry(&key, content);
        }
        FileContents { keyring, config }
    }

    pub(super) fn keyring(&self) -> &Keyring {
        &self.keyring
    }
}

/// Reads a file; `None` if it is too long.
fn read_capped(file: File) -> io::Result<Option<Zeroizing<Vec<u8>>>> {
    // Allocated once: a vector that grows leaves copies of its content behind.
    let mut text = Zeroizing::new(Vec::with_capacity(MAX_LEN + 1));
    file.take(MAX_LEN as u64 + 1).read_to_end(&mut text)?;
    Ok((text.len() <= MAX_LEN).then_some(text))
}

fn is_absent(e: &io::Error) -> bool {
    matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory)
}

fn default_paths(
    variable: impl Fn(&str) -> Option<OsString>,
    home: Option<PathBuf>,
) -> Vec<(FileKind, PathBuf)> {
    let docker = variable("DOCKER_CONFIG")
        .map(PathBuf::from)
        .or_else(|| home.filter(|home| home.is_absolute()).map(|home| home.join(".docker")))
        .map(|folder| folder.join("config.json"));
    let podman = variable("REGISTRY_AUTH_FILE").map(PathBuf::from).or_else(|| {
        variable("XDG_RUNTIME_DIR").map(|folder| Path::new(&folder).join("containers/auth.json"))
    });
    let found = [(FileKind::Docker, docker), (FileKind::Podman, podman)];
    found.into_iter().filter_map(|(kind, path)| Some((kind, path?))).collect()
}

#[cfg(test)]
mod tests {
    use std::fs;

    use tempfile::TempDir;

    use super::*;
    use crate::credentials::credential::Credential;

    fn user(file: &ConfigFile) -> Option<Credential> {
        let contents = file.contents().unwrap()?;
        contents.keyring().lookup_query(&CredentialQuery::new("r.io", "app")).pop()
    }

    fn with_user(name: &str) -> String {
        format!(r#"{{"auths": {{"r.io": {{"username": "{name}"}}}}}}"#)
    }

    #[test]
    fn a_file_is_read_again_when_it_changes_and_only_then() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("config.json");
        let file = ConfigFile::optional(FileKind::Docker, path.clone());
        assert_eq!(user(&file), None);

        fs::write(&path, with_user("first")).unwrap();
        assert_eq!(user(&file), Some(Credential::basic("first", "")));
        let (one, same) = (file.contents().unwrap().unwrap(), file.contents().unwrap().unwrap());
        assert!(Arc::ptr_eq(&one, &same));

        let next = directory.path().join("next");
        fs::write(&next, with_user("other")).unwrap();
        fs::rename(&next, &path).unwrap();
        assert_eq!(user(&file), Some(Credential::basic("other", "")));

        fs::remove_file(&path).unwrap();
        assert_eq!(user(&file), None);
    }

    #[test]
    fn a_file_that_cannot_be_used_is_named_and_nothing_of_it_told() {
        let directory = TempDir::new().unwrap();
        let path = directory.path().join("config.json");
        let file = ConfigFile::optional(FileKind::Docker, path.clone());
        for (text, why) in [
            ("{\"auths\": \"marker\"}".to_owned(), "not a credentials file, at line 1 column 18"),
            ("marker".to_owned(), "not JSON, at line 1 column 1"),
            ("m".repeat(MAX_LEN + 1), "more than 1048576 bytes"),
        ] {
            fs::write(&path, text).unwrap();
            let error = file.contents().unwrap_err();
            assert_eq!(error.kind(), ErrorKind::InvalidConfig);
            assert_eq!(error.message(), format!("{}: {why}", path.display()));
        }
        let folder = ConfigFile::optional(FileKind::Docker, directory.path().to_owned());
        assert!(folder.contents().unwrap_err().message().ends_with(": not a file"));
        let missing = ConfigFile::required(FileKind::Docker, directory.path().join("missing"));
        assert_eq!(missing.contents().unwrap_err().kind(), ErrorKind::InvalidConfig);
    }

    #[test]
    fn the_files_are_where_docker_and_podman_keep_them() {
        let paths = |variables: &[(&str, &str)], home: Option<&str>| -> Vec<String> {
            let variable = |name: &str| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| OsString::from(value))
            };
            let paths = default_paths(variable, home.map(PathBuf::from));
            paths.into_iter().map(|(_, path)| path.display().to_string()).collect()
        };
        assert_eq!(paths(&[], None), [""; 0]);
        assert_eq!(paths(&[], Some("/home/u")), ["/home/u/.docker/config.json"]);
        assert_eq!(
            paths(&[("DOCKER_CONFIG", "/d"), ("XDG_RUNTIME_DIR", "/run/user/1")], Some("/home/u")),
            ["/d/config.json", "/run/user/1/containers/auth.json"]
        );
        assert_eq!(
            paths(&[("REGISTRY_AUTH_FILE", "/a.json"), ("XDG_RUNTIME_DIR", "/run/user/1")], None),
            ["/a.json"]
        );
    }

    #[test]
    fn a_registrys_own_helper_outranks_the_store() {
        let json =
            br#"{"credHelpers": {"r.io": "own", "plain.io": "", "docker.io": "hub"}, "credsStore": "store"}"#;
        let contents = FileContents::new(DockerConfig::parse(json).unwrap());
        let helper = |kind, domain: &str| {
            let file = ConfigFile::optional(kind, PathBuf::new());
            let found = file.helper(&contents, &CredentialQuery::new(domain, "app"));
            found.unwrap().map(|(name, server)| format!("{name} {server}"))
        };
        for (kind, domain, expected) in [
            (FileKind::Docker, "r.io", Some("own r.io")),
            (FileKind::Docker, "r.io:5000", Some("store r.io:5000")),
            (FileKind::Docker, "plain.io", None),
            (FileKind::Docker, "docker.io", Some("hub https://index.docker.io/v1/")),
            (FileKind::Podman, "docker.io", Some("hub docker.io")),
        ] {
            assert_eq!(helper(kind, domain).as_deref(), expected, "{domain}");
        }
    }
}
