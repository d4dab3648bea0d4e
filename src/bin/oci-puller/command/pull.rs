//! `pull`: pulls images from registries into the store.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use clap::Args;
use oci_puller::cri::CriImageService;
use oci_puller::{
    Attempt, Error, ErrorKind, ImagePuller, ImageService, ParallelImagePuller, Platform, PullResult,
    RegistryImageService, RegistryImageServiceBuilder, SerialImagePuller,
};
use serde::Serialize;

use super::pull_limits::LimitArgs;
use crate::args::{self, StoreArgs};
use crate::certificates;
use crate::command::cri::CriArgs;
use crate::exit::Exit;
use crate::output;
use crate::pull_all::{self, pull_all};
use crate::signals::Signals;
use crate::stderr::{say, say_error};
use crate::units::{Bytes, Time};

const AFTER_HELP: &str = "\
On a terminal, each image has a bar; elsewhere, events are lines. The table that
follows shows how long each image waited for its turn, how long its pull took,
and how many of its bytes were fetched, or reused from the store.

With --json, an object for each image, as soon as it is done:
  image              as it was given
  ok                 whether the pull succeeded
  image_ref          its id: the digest of its config
  manifest_digest    digest that the name stands for: of a manifest or an index
  repo_digest        NAME@DIGEST of the same
  size               bytes of manifest, config and layers
  bytes_fetched      bytes that came over the network
  bytes_reused       bytes that were in the store
  wait_seconds       time until its turn
  pull_seconds       time from then on
  error              if the pull failed, in place of the six fields after ok:
    kind             such as NotFound, Unauthorized, ConnectionFailed, Timeout
    message          the whole message on one line
    host, phase      where it failed, or null
    retryable        whether a later try may succeed
    retry_after_seconds
                     the delay that the registry asked for, if it did
    attempts         each try: its host, kind and message

Examples:
  oci-puller pull alpine ghcr.io/team/app:1.2
  oci-puller pull --platform linux/arm64 --deadline 10m alpine
  oci-puller pull --hosts-dir /etc/containerd/certs.d --json alpine";

/// Pull images into the store
///
/// Blobs that are in the store are not fetched again, broken downloads resume, and only verified bytes are
/// stored. Exits with 0 only if every image was pulled.
#[derive(Args)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct PullArgs {
    /// [HOST[:PORT]/]NAME[:TAG][@DIGEST], such as alpine or ghcr.io/team/app:1.2
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    runtime: CriArgs,
    /// Pull N images at a time
    #[arg(long, value_name = "N", default_value_t = 4)]
    #[arg(value_parser = clap::value_parser!(u16).range(1..=4096), conflicts_with = "serial")]
    parallel: u16,
    /// Pull one image at a time, in the order given
    #[arg(long)]
    serial: bool,
    /// Pull for this platform. Default: this machine's
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = args::platform)]
    #[arg(conflicts_with = "cri")]
    platform: Option<Platform>,
    /// Cancel what is not done after TIME, such as 90s or 1h30m. Default: none
    #[arg(long, value_name = "TIME", value_parser = args::duration)]
    deadline: Option<Duration>,
    /// Retry N times after a temporary failure; a try that fetched 1 MiB does not count [default: 4]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(..=1000))]
    #[arg(conflicts_with = "cri")]
    retries: Option<u32>,
    /// Wait TIME for a host to begin to answer, or as long as it takes with 0. Default: 5m for blobs, 1m
    /// else
    #[arg(long, value_name = "TIME", value_parser = args::duration)]
    #[arg(conflicts_with = "cri")]
    response_timeout: Option<Duration>,
    /// Mirrors and settings by host: hosts.toml files, as containerd has them in certs.d
    #[arg(long, value_name = "DIR", value_parser = args::existing_dir, help_heading = "Hosts")]
    #[arg(conflicts_with = "cri")]
    hosts_dir: Option<PathBuf>,
    /// Ask this host without TLS; loopback hosts are asked so by default
    #[arg(long, value_name = "HOST[:PORT]", help_heading = "Hosts")]
    #[arg(conflicts_with = "cri")]
    plain_http: Vec<String>,
    /// Follow redirects to this host even to an address inside this machine or network
    #[arg(long, value_name = "HOST[:PORT]", help_heading = "Hosts")]
    #[arg(conflicts_with = "cri")]
    allow_redirects_to: Vec<String>,
    /// Trust these certificates (PEM) and the public authorities, in place of the system's certificates
    #[arg(long, value_name = "FILE", value_parser = args::existing_file, help_heading = "Hosts")]
    #[arg(conflicts_with = "cri")]
    ca: Vec<PathBuf>,
    /// Read credentials from this auth.json of podman. Default: podman's and Docker's own files
    #[arg(long, value_name = "FILE", value_parser = args::existing_file, help_heading = "Credentials")]
    #[arg(conflicts_with = "cri")]
    auth_file: Option<PathBuf>,
    /// Read credentials from this config.json of Docker, and run the helpers it names
    #[arg(long, value_name = "FILE", value_parser = args::existing_file, help_heading = "Credentials")]
    registry_config: Option<PathBuf>,
    #[command(flatten)]
    limits: LimitArgs,
}

/// Pulls the images that the arguments name.
pub(crate) fn run(args: &PullArgs) -> Result<(), Exit> {
    let signals = Signals::watch()?;
    let (puller, place) = match &args.runtime.cri {
        Some(endpoint) => (args.puller(args.runtime(endpoint)?)?, endpoint.clone()),
        None => {
            let store = args.store.dir()?;
            let service = args.configure(RegistryImageService::builder(&store))?.build()?;
            (args.puller(service)?, store.display().to_string())
        }
    };
    let mut report = Report::new(args.store.json, args.images.len());
    let deadline = args.deadline.and_then(|timeout| Instant::now().checked_add(timeout));
    pull_all(&*puller, &args.images, &signals, deadline, |place, result| report.add(place, result));
    puller.shutdown(Duration::ZERO);
    report.finish(&signals, &place)
}

impl PullArgs {
    /// Builds the service of a runtime, which takes no settings of ours but the credentials.
    fn runtime(&self, endpoint: &str) -> Result<CriImageService, Exit> {
        let builder = CriImageService::builder(endpoint);
        Ok(match &self.registry_config {
            Some(file) => builder.docker_config(file),
            None => builder.default_credential_files(),
        }
        .build()?)
    }

    fn puller(&self, service: impl ImageService + 'static) -> Result<Box<dyn ImagePuller>, Exit> {
        Ok(if self.serial {
            Box::new(SerialImagePuller::new(service)?)
        } else {
            Box::new(ParallelImagePuller::new(service, Some(i32::from(self.parallel)))?)
        })
    }

    fn configure(
        &self,
        mut builder: RegistryImageServiceBuilder,
    ) -> Result<RegistryImageServiceBuilder, Exit> {
        if let Some(platform) = &self.platform {
            builder = builder.platform(platform.clone());
        }
        builder = self.plain_http.iter().fold(builder, RegistryImageServiceBuilder::plain_http);
        builder =
            self.allow_redirects_to.iter().fold(builder, RegistryImageServiceBuilder::allow_redirects_to);
        if let Some(dir) = &self.hosts_dir {
            builder = builder.hosts_dir(dir);
        }
        for file in &self.ca {
            builder = builder.ca_certificate(pem(file)?);
        }
        if self.ca.is_empty() {
            let system = certificates::of_system();
            builder = if system.is_empty() { builder } else { builder.ca_certificate(system) };
        }
        if let Some(timeout) = self.response_timeout {
            builder = builder.response_timeout(if timeout.is_zero() { Duration::MAX } else { timeout });
        }
        if let Some(retries) = self.retries {
            builder = builder.tries(retries + 1);
        }
        Ok(self.with_credentials(self.limits.apply(builder)))
    }

    /// Adds the named credential files, or else the user's own.
    fn with_credentials(&self, mut builder: RegistryImageServiceBuilder) -> RegistryImageServiceBuilder {
        if self.auth_file.is_none() && self.registry_config.is_none() {
            return builder.default_credential_files();
        }
        if let Some(file) = &self.auth_file {
            builder = builder.podman_auth(file);
        }
        if let Some(file) = &self.registry_config {
            builder = builder.docker_config(file);
        }
        builder
    }
}

fn pem(path: &Path) -> Result<Vec<u8>, Exit> {
    std::fs::read(path).map_err(|error| Exit::Own(format!("{}: {error}", path.display())))
}

/// Prints the results: JSON as they arrive, the table at the end.
struct Report {
    is_json: bool,
    began: Instant,
    /// By the position of the image on the command line.
    results: Vec<Option<PullResult>>,
    /// The first line that could not be written.
    output: Result<(), Exit>,
}

impl Report {
    fn new(is_json: bool, images: usize) -> Self {
        Report { is_json, began: Instant::now(), results: vec![None; images], output: Ok(()) }
    }

    fn add(&mut self, place: usize, result: PullResult) {
        if self.is_json && self.output.is_ok() {
            self.output = output::json(&Line::of(&result));
        }
        if let Err(error) = &result.outcome
            && error.kind() != ErrorKind::Cancelled
        {
            say_error(error);
        }
        if let Some(slot) = self.results.get_mut(place) {
            *slot = Some(result);
        }
    }

    fn finish(self, signals: &Signals, place: &str) -> Result<(), Exit> {
        self.output?;
        let asked = self.results.len();
        let mut table = pull_all::table();
        let (mut came, mut fetched, mut reused) = (0, 0, 0);
        for result in self.results.iter().flatten() {
            pull_all::add(&mut table, result.image.image.clone(), result);
            if let Ok(pulled) = &result.outcome {
                came += 1;
                fetched += pulled.bytes_fetched;
                reused += pulled.bytes_reused;
            }
        }
        if !self.is_json && !table.is_empty() {
            output::raw(&table.to_string())?;
        }
        if signals.came() {
            say(&format!(
                "cancelled: {came} of {asked} images are in {}; what came of the others is kept for a day, and the \
                 next pull goes on there",
                place
            ));
            return signals.check();
        }
        say(&format!(
            "{came} of {asked} images in {}: {} fetched, {} reused",
            Time(self.began.elapsed()),
            Bytes(fetched),
            Bytes(reused)
        ));
        if came == asked {
            return Ok(());
        }
        let mut errors = self.results.iter().flatten().filter_map(|result| result.outcome.as_ref().err());
        Err(Exit::Reported { retryable: errors.all(Error::is_retryable) })
    }
}

/// The JSON of one result; `--help` documents it.
#[derive(Serialize)]
struct Line<'a> {
    image: &'a str,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    image_ref: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    manifest_digest: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    repo_digest: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_fetched: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_reused: Option<u64>,
    wait_seconds: f64,
    pull_seconds: f64,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure<'a>>,
}

impl<'a> Line<'a> {
    fn of(result: &'a PullResult) -> Self {
        let pulled = result.outcome.as_ref().ok();
        Line {
            image: &result.image.image,
            ok: pulled.is_some(),
            image_ref: pulled.map(|pulled| pulled.image_ref.as_str()),
            manifest_digest: pulled.and_then(|pulled| Some(pulled.manifest_digest.as_ref()?.as_str())),
            repo_digest: pulled.and_then(|pulled| pulled.repo_digest.as_deref()),
            size: result.image_size,
            bytes_fetched: pulled.map(|pulled| pulled.bytes_fetched),
            bytes_reused: pulled.map(|pulled| pulled.bytes_reused),
            wait_seconds: result.wait_duration.as_secs_f64(),
            pull_seconds: result.pull_duration.as_secs_f64(),
            error: result.outcome.as_ref().err().map(Failure::of),
        }
    }
}

#[derive(Serialize)]
struct Failure<'a> {
    /// The name of an `ErrorKind`.
    kind: String,
    message: String,
    host: Option<&'a str>,
    phase: Option<String>,
    retryable: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    retry_after_seconds: Option<f64>,
    attempts: Vec<Tried<'a>>,
}

#[derive(Serialize)]
struct Tried<'a> {
    host: &'a str,
    kind: String,
    message: &'a str,
}

impl<'a> Failure<'a> {
    fn of(error: &'a Error) -> Self {
        let tried = |attempt: &'a Attempt| Tried {
            host: &attempt.host,
            kind: format!("{:?}", attempt.error.kind()),
            message: attempt.error.message(),
        };
        Failure {
            kind: format!("{:?}", error.kind()),
            message: error.to_string(),
            host: error.host(),
            phase: error.phase().map(|phase| phase.to_string()),
            retryable: error.is_retryable(),
            retry_after_seconds: error.retry_after().map(|delay| delay.as_secs_f64()),
            attempts: error.attempts().iter().map(tried).collect(),
        }
    }
}
