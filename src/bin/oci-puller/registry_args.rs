//! The options of each command that asks a registry: hosts, certificates and credentials.

use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args;
use oci_puller::credentials::Credential;
use oci_puller::image::Reference;
use oci_puller::registry::RegistryImageServiceBuilder;

use crate::args;
use crate::certificates;
use crate::exit::Exit;

/// The longest password that is read from standard input, bytes.
const MAX_PASSWORD: u64 = 64 * 1024;

/// The titles of PEM blocks.
const CERTIFICATE: &str = "CERTIFICATE";
const KEY: &str = "PRIVATE KEY";

/// How registries are asked: hosts, certificates and credentials.
#[derive(Args)]
pub(crate) struct RegistryArgs {
    /// Retry N times after a temporary failure; a try that fetched 1 MiB does not count [default: 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=1000), help_heading = "Hosts")]
    retries: Option<u32>,
    /// Wait TIME for a host to begin to answer, or as long as it takes with 0. Default: 5m for blobs, 1m
    /// else
    #[arg(long, value_name = "TIME", value_parser = args::duration_or_zero, help_heading = "Hosts")]
    response_timeout: Option<Duration>,
    /// Mirrors and settings by host: hosts.toml files, as containerd has them in certs.d
    #[arg(long, value_name = "DIR", value_parser = args::existing_dir, help_heading = "Hosts")]
    hosts_dir: Option<PathBuf>,
    /// Use plain HTTP for this host; the default for loopback hosts
    #[arg(long, value_name = "HOST[:PORT]", value_parser = args::host, help_heading = "Hosts")]
    plain_http: Vec<String>,
    /// Use TLS for this loopback host
    #[arg(long, value_name = "HOST[:PORT]", value_parser = args::host, help_heading = "Hosts")]
    tls: Vec<String>,
    /// Accept any certificate of this host; an attacker on the network can then read the credentials
    #[arg(long, value_name = "HOST[:PORT]", value_parser = args::host, help_heading = "Hosts")]
    insecure_skip_verify: Vec<String>,
    /// Follow redirects to this host, even if its address is inside this machine or network
    #[arg(long, value_name = "HOST[:PORT]", value_parser = args::host, help_heading = "Hosts")]
    allow_redirects_to: Vec<String>,
    /// Trust these certificates (PEM) and the public authorities, in place of the system's certificates
    #[arg(long, value_name = "FILE", value_parser = args::existing_file, help_heading = "Hosts")]
    ca: Vec<PathBuf>,
    /// Send this certificate (PEM) to hosts that ask for one
    #[arg(long, value_name = "FILE", value_parser = args::existing_file, help_heading = "Credentials")]
    cert: Option<PathBuf>,
    /// Key of the certificate (PEM). Default: in the certificate's file
    #[arg(long, value_name = "FILE", value_parser = args::existing_file, help_heading = "Credentials")]
    #[arg(requires = "cert")]
    key: Option<PathBuf>,
    /// User at the registries of the images, before all other credentials
    #[arg(long, short, value_name = "USER", help_heading = "Credentials", requires = "password_stdin")]
    username: Option<String>,
    /// Read the user's password or token from standard input, up to its end; a last line break is left out
    #[arg(long, help_heading = "Credentials", requires = "username")]
    password_stdin: bool,
    /// Read credentials from this auth.json of podman. Default: podman's and Docker's own files
    #[arg(long, value_name = "FILE", value_parser = args::existing_file, help_heading = "Credentials")]
    auth_file: Option<PathBuf>,
    /// Read credentials from this config.json of Docker, and run the helpers it names
    #[arg(long, value_name = "FILE", value_parser = args::existing_file, help_heading = "Credentials")]
    pub(crate) registry_config: Option<PathBuf>,
}

impl RegistryArgs {
    /// The arguments that a container runtime has no use for.
    pub(crate) const NOT_FOR_RUNTIMES: [&str; 13] = [
        "retries",
        "response_timeout",
        "hosts_dir",
        "plain_http",
        "tls",
        "insecure_skip_verify",
        "allow_redirects_to",
        "ca",
        "cert",
        "key",
        "username",
        "password_stdin",
        "auth_file",
    ];

    /// Applies the options to a service that asks for these images or repositories.
    pub(crate) fn apply<'i>(
        &self,
        mut builder: RegistryImageServiceBuilder,
        images: impl IntoIterator<Item = &'i str>,
    ) -> Result<RegistryImageServiceBuilder, Exit> {
        type Builder = RegistryImageServiceBuilder;
        builder = self.plain_http.iter().fold(builder, Builder::plain_http);
        builder = self.tls.iter().fold(builder, Builder::tls);
        builder = self.insecure_skip_verify.iter().fold(builder, Builder::insecure_skip_verify);
        builder = self.allow_redirects_to.iter().fold(builder, Builder::allow_redirects_to);
        if let Some(dir) = &self.hosts_dir {
            builder = builder.hosts_dir(dir);
        }
        for file in &self.ca {
            builder = builder.ca_certificate(pem(file, CERTIFICATE)?);
        }
        if self.ca.is_empty() {
            let system = certificates::of_system();
            builder = if system.is_empty() { builder } else { builder.ca_certificate(system) };
        }
        if let Some(cert) = &self.cert {
            let key = self.key.as_ref().unwrap_or(cert);
            builder = builder.client_certificate(pem(cert, CERTIFICATE)?, pem(key, KEY)?);
        }
        if let Some(timeout) = self.response_timeout {
            builder = builder.response_timeout(if timeout.is_zero() { Duration::MAX } else { timeout });
        }
        if let Some(retries) = self.retries {
            builder = builder.tries(retries + 1);
        }
        self.with_credentials(builder, images)
    }

    /// Adds the user, and the named credential files or else the user's own.
    fn with_credentials<'i>(
        &self,
        mut builder: RegistryImageServiceBuilder,
        images: impl IntoIterator<Item = &'i str>,
    ) -> Result<RegistryImageServiceBuilder, Exit> {
        if let Some(user) = &self.username {
            let password = read_password()?;
            // A name that is none fails its pull.
            let parsed = images.into_iter().filter_map(|image| Reference::parse(image).ok());
            let mut hosts: Vec<_> = parsed.map(|reference| reference.domain().to_owned()).collect();
            hosts.sort();
            hosts.dedup();
            for host in hosts {
                builder = builder.credential(host, Credential::basic(user, &password));
            }
        }
        if self.auth_file.is_none() && self.registry_config.is_none() {
            return Ok(builder.default_credential_files());
        }
        if let Some(file) = &self.auth_file {
            builder = builder.podman_auth(file);
        }
        if let Some(file) = &self.registry_config {
            builder = builder.docker_config(file);
        }
        Ok(builder)
    }
}

/// Reads a file that holds a PEM block whose title ends with `title`.
fn pem(path: &Path, title: &str) -> Result<Vec<u8>, Exit> {
    let failed = |what: String| Exit::Own(format!("{}: {what}", path.display()));
    let bytes = std::fs::read(path).map_err(|error| failed(error.to_string()))?;
    match String::from_utf8_lossy(&bytes).contains(&format!("{title}-----")) {
        true => Ok(bytes),
        false => Err(failed(format!("the file has no PEM block of the type {title}"))),
    }
}

/// Reads a password from standard input; the line break that `echo` adds does not belong to it.
fn read_password() -> Result<String, Exit> {
    let failed = |what: &str| Exit::Own(format!("--password-stdin: {what}"));
    let mut text = String::new();
    let mut input = std::io::stdin().lock().take(MAX_PASSWORD + 1);
    input.read_to_string(&mut text).map_err(|error| failed(&error.to_string()))?;
    if text.len() as u64 > MAX_PASSWORD {
        return Err(failed("standard input has more than 64 KiB"));
    }
    let line = text.strip_suffix('\n').unwrap_or(&text);
    let password = line.strip_suffix('\r').unwrap_or(line);
    match password {
        "" => Err(failed("standard input is empty")),
        _ if password.contains(['\r', '\n']) => Err(failed("standard input has more than one line")),
        _ => Ok(password.to_owned()),
    }
}
