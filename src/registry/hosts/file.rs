//! Reads a `hosts.toml`.
//!
//! Reads the parsed tree and does not use serde: the order of `[host."URL"]` is the order to try, and each
//! error has its line.

use std::path::{Path, PathBuf};
use std::time::Duration;

use toml::Spanned;
use toml::de::{DeString, DeTable, DeValue};

use crate::credentials::Secret;
use crate::credentials::go_duration;
use crate::registry::http::{HeaderName, HeaderValue};

use super::host::{Capabilities, Host, TlsSettings};
use super::location::{Location, Scheme};

/// The content of a `hosts.toml`.
#[derive(Debug, Default)]
pub(super) struct HostsFile {
    /// In file order.
    pub(super) mirrors: Vec<Host>,
    /// The location of the registry itself; `None` for its own name.
    pub(super) server: Option<Location>,
    /// The settings of the registry itself.
    pub(super) root: HostSettings,
}

impl HostsFile {
    pub(super) fn with_tls(tls: TlsSettings) -> Self {
        HostsFile { root: HostSettings { tls, ..HostSettings::default() }, ..HostsFile::default() }
    }
}

/// The settings of a host; at the top of the file, those of the registry itself.
#[derive(Debug, Default)]
pub(super) struct HostSettings {
    capabilities: Option<Capabilities>,
    headers: Vec<(String, Secret)>,
    tls: TlsSettings,
    override_path: bool,
    dial_timeout: Option<Duration>,
}

impl HostSettings {
    pub(super) fn applied_to(self, location: Location) -> Host {
        Host {
            location,
            capabilities: self.capabilities.unwrap_or(Capabilities::ALL),
            headers: self.headers,
            tls: self.tls,
            dial_timeout: self.dial_timeout,
            is_registry_itself: false,
        }
    }
}

/// An error in the file, with its line. A header's value is never part of it.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {message}")]
pub(super) struct HostsFileError {
    pub(super) line: usize,
    pub(super) message: String,
}

/// Headers that cannot be configured, in lower case, and the reason. `authorization` can be: containerd's
/// documentation gives a host its credentials so. A credential that the host asks for replaces it.
const REFUSED_HEADERS: [(&str, &str); 10] = [
    ("accept-encoding", "digests are of bodies that are not encoded"),
    ("connection", "the client manages its connections"),
    ("content-length", "it would break the framing of requests"),
    ("expect", "requests have no body that could wait"),
    ("host", "it follows from the URL of the host"),
    ("range", "the client chooses the part of a blob"),
    ("te", "the client manages its connections"),
    ("trailer", "it would break the framing of requests"),
    ("transfer-encoding", "it would break the framing of requests"),
    ("upgrade", "the client manages its connections"),
];

type TomlKey<'a> = Spanned<DeString<'a>>;
type TomlValue<'a> = Spanned<DeValue<'a>>;

/// Reads the `hosts.toml` in `folder`; `default_scheme` is for hosts that are written without one.
pub(super) fn parse(
    text: &str,
    folder: &Path,
    default_scheme: &dyn Fn(&str) -> Scheme,
) -> Result<HostsFile, HostsFileError> {
    let reader = HostsFileReader { text, folder, default_scheme };
    // Not the error's own `Display`: that shows the line, which may hold a header's value.
    let root = DeTable::parse(text)
        .map_err(|e| reader.fault(e.span().map_or(0, |span| span.start), e.message().to_owned()))?;
    reader.file(root.get_ref())
}

/// Reads a `hosts.toml`, for a fuzz target.
#[cfg(fuzzing)]
pub(in crate::registry) fn fuzz(text: &str, folder: &Path) {
    let _ = parse(text, folder, &|_| Scheme::Https);
}

struct HostsFileReader<'a> {
    text: &'a str,
    /// The folder that relative paths start from.
    folder: &'a Path,
    default_scheme: &'a dyn Fn(&str) -> Scheme,
}

impl HostsFileReader<'_> {
    fn file(&self, root: &DeTable<'_>) -> Result<HostsFile, HostsFileError> {
        let mut file = HostsFile::default();
        let mut server = None;
        for (key, value) in root {
            match key.get_ref().as_ref() {
                "server" => server = Some((value, self.string(value, "server")?)),
                "host" => file.mirrors = self.mirrors(value)?,
                _ => self.setting(&mut file.root, key, value)?,
            }
        }
        if let Some((value, url)) = server {
            file.server = Some(self.location(value.span().start, url, file.root.override_path)?);
        }
        Ok(file)
    }

    fn mirrors(&self, value: &TomlValue<'_>) -> Result<Vec<Host>, HostsFileError> {
        let mut in_file_order: Vec<_> = self.table(value, "host")?.iter().collect();
        in_file_order.sort_by_key(|(url, _)| url.span().start);
        in_file_order.into_iter().map(|(url, value)| self.mirror(url, value)).collect()
    }

    fn mirror(&self, url: &TomlKey<'_>, value: &TomlValue<'_>) -> Result<Host, HostsFileError> {
        let mut settings = HostSettings::default();
        for (key, value) in self.table(value, "host")? {
            self.setting(&mut settings, key, value)?;
        }
        let location = self.location(url.span().start, url.get_ref(), settings.override_path)?;
        Ok(settings.applied_to(location))
    }

    fn setting(
        &self,
        settings: &mut HostSettings,
        key: &TomlKey<'_>,
        value: &TomlValue<'_>,
    ) -> Result<(), HostsFileError> {
        match key.get_ref().as_ref() {
            "capabilities" => settings.capabilities = self.capabilities(value)?,
            "ca" => settings.tls.ca = self.ca(value)?,
            "client" => settings.tls.client = self.client(value)?,
            "skip_verify" => settings.tls.skip_verify = self.boolean(value, "skip_verify")?,
            "header" => settings.headers = self.headers(value)?,
            "override_path" => settings.override_path = self.boolean(value, "override_path")?,
            "dial_timeout" => settings.dial_timeout = self.dial_timeout(value)?,
            unknown => {
                let (folder, line) = (self.folder.display(), self.line(key.span().start));
                log::warn!("{folder}/hosts.toml: line {line}: {unknown:?} is not known, and ignored");
            }
        }
        Ok(())
    }

    /// Reads a list of capabilities. An empty list means all of them, as for containerd.
    fn capabilities(&self, value: &TomlValue<'_>) -> Result<Option<Capabilities>, HostsFileError> {
        let list = self.array(value, "capabilities")?;
        let mut capabilities = Capabilities { pull: false, resolve: false };
        for value in list {
            let name = self.string(value, "capabilities")?;
            match name.to_ascii_lowercase().as_str() {
                "pull" => capabilities.pull = true,
                "resolve" => capabilities.resolve = true,
                // Capabilities that this client does not use.
                "push" | "referrers" => {}
                _ => return Err(self.fault(value.span().start, format!("unknown capability {name:?}"))),
            }
        }
        Ok((!list.is_empty()).then_some(capabilities))
    }

    fn ca(&self, value: &TomlValue<'_>) -> Result<Vec<PathBuf>, HostsFileError> {
        match value.get_ref() {
            DeValue::Array(list) => list.iter().map(|path| self.path(path, "ca")).collect(),
            _ => Ok(vec![self.path(value, "ca")?]),
        }
    }

    /// Reads one path, a list of paths, or a list of pairs.
    fn client(&self, value: &TomlValue<'_>) -> Result<Vec<(PathBuf, Option<PathBuf>)>, HostsFileError> {
        match value.get_ref() {
            DeValue::Array(list) => list.iter().map(|entry| self.client_entry(entry)).collect(),
            _ => Ok(vec![self.client_entry(value)?]),
        }
    }

    fn client_entry(&self, value: &TomlValue<'_>) -> Result<(PathBuf, Option<PathBuf>), HostsFileError> {
        let DeValue::Array(pair) = value.get_ref() else {
            return Ok((self.path(value, "client")?, None));
        };
        let mut entries = pair.iter();
        let (Some(certificate), Some(key), None) = (entries.next(), entries.next(), entries.next()) else {
            return Err(
                self.fault(value.span().start, "client: a pair is a certificate and a key".to_owned())
            );
        };
        let has_key = !self.string(key, "client")?.is_empty();
        let key = has_key.then(|| self.path(key, "client")).transpose()?;
        Ok((self.path(certificate, "client")?, key))
    }

    fn headers(&self, value: &TomlValue<'_>) -> Result<Vec<(String, Secret)>, HostsFileError> {
        let mut headers = Vec::new();
        for (name, value) in self.table(value, "header")? {
            let at = name.span().start;
            let parsed = HeaderName::from_bytes(name.get_ref().as_bytes())
                .map_err(|_| self.fault(at, format!("{:?} is no header's name", name.get_ref())))?;
            if let Some((_, why)) = REFUSED_HEADERS.iter().find(|(refused, _)| parsed.as_str() == *refused) {
                return Err(self.fault(at, format!("the header {parsed} cannot be configured: {why}")));
            }
            let values = match value.get_ref() {
                DeValue::Array(list) => list.iter().collect(),
                _ => vec![value],
            };
            for value in values {
                headers.push((name.get_ref().to_string(), self.header_value(name, value)?));
            }
        }
        Ok(headers)
    }

    fn header_value(&self, name: &TomlKey<'_>, value: &TomlValue<'_>) -> Result<Secret, HostsFileError> {
        let text = self.string(value, name.get_ref())?;
        match HeaderValue::from_str(text) {
            Ok(_) => Ok(Secret::from(text.to_owned())),
            Err(_) => {
                let message =
                    format!("the value of header {} has characters that no header has", name.get_ref());
                Err(self.fault(value.span().start, message))
            }
        }
    }

    fn dial_timeout(&self, value: &TomlValue<'_>) -> Result<Option<Duration>, HostsFileError> {
        let text = self.string(value, "dial_timeout")?;
        let timeout = go_duration::parse(text).ok_or_else(|| {
            self.fault(value.span().start, format!("dial_timeout: {text:?} is no duration like 3s or 500ms"))
        })?;
        Ok((!timeout.is_zero()).then_some(timeout))
    }

    fn location(&self, at: usize, url: &str, override_path: bool) -> Result<Location, HostsFileError> {
        // The URL is not quoted: it may hold a password.
        Location::parse(url, override_path, self.default_scheme)
            .map_err(|why| self.fault(at, format!("the URL of a host: {why}")))
    }

    fn path(&self, value: &TomlValue<'_>, key: &str) -> Result<PathBuf, HostsFileError> {
        let path = self.string(value, key)?;
        if path.is_empty() {
            return Err(self.fault(value.span().start, format!("{key}: the path is empty")));
        }
        Ok(self.folder.join(path))
    }

    fn string<'v>(&self, value: &'v TomlValue<'_>, key: &str) -> Result<&'v str, HostsFileError> {
        value.get_ref().as_str().ok_or_else(|| self.wrong_type(value, key, "a string"))
    }

    fn boolean(&self, value: &TomlValue<'_>, key: &str) -> Result<bool, HostsFileError> {
        value.get_ref().as_bool().ok_or_else(|| self.wrong_type(value, key, "true or false"))
    }

    fn array<'v, 'i>(
        &self,
        value: &'v TomlValue<'i>,
        key: &str,
    ) -> Result<&'v [TomlValue<'i>], HostsFileError> {
        match value.get_ref() {
            DeValue::Array(list) => Ok(list),
            _ => Err(self.wrong_type(value, key, "a list")),
        }
    }

    fn table<'v, 'i>(&self, value: &'v TomlValue<'i>, key: &str) -> Result<&'v DeTable<'i>, HostsFileError> {
        match value.get_ref() {
            DeValue::Table(table) => Ok(table),
            _ => Err(self.wrong_type(value, key, "a table")),
        }
    }

    fn wrong_type(&self, value: &TomlValue<'_>, key: &str, wanted: &str) -> HostsFileError {
        self.fault(value.span().start, format!("{key}: {wanted} is wanted"))
    }

    fn fault(&self, at: usize, message: String) -> HostsFileError {
        HostsFileError { line: self.line(at), message }
    }

    fn line(&self, at: usize) -> usize {
        self.text.bytes().take(at).filter(|&byte| byte == b'\n').count() + 1
    }
}
