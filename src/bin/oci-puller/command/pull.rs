//! `pull`: images from registries into the store.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use oci_puller::{
    Attempt, Error, ErrorKind, ImagePuller, ParallelImagePuller, Platform, PullResult, RegistryImageService,
    RegistryImageServiceBuilder, SerialImagePuller,
};
use serde::Serialize;

use crate::args::{Args, Token};
use crate::output;
use crate::pulling::{self, pull_all};
use crate::screen::{say, say_error};
use crate::signals::Signals;
use crate::stop::Stop;
use crate::units::{Bytes, Time};

/// How many images are pulled at a time, unless it is said.
const PARALLEL: u32 = 4;
/// No puller takes a higher limit.
const MOST_PARALLEL: u32 = 4096;
const MOST_RETRIES: u32 = 1000;

/// Pulls what the arguments name.
pub(crate) fn run(args: &mut Args) -> Result<(), Stop> {
    let options = Options::read(args)?;
    let store = args.store_dir()?;
    let signals = Signals::watch()?;
    let puller = options.puller(&store)?;
    let mut report = Report::new(args.json(), options.images.len());
    let deadline = options.deadline.and_then(|timeout| Instant::now().checked_add(timeout));
    pull_all(&*puller, &options.images, &signals, deadline, |place, result| report.take(place, result));
    puller.shutdown(Duration::ZERO);
    report.end(&signals, &store)
}

struct Options {
    images: Vec<String>,
    order: Order,
    platform: Option<Platform>,
    plain_http: Vec<String>,
    auth_file: Option<PathBuf>,
    registry_config: Option<PathBuf>,
    hosts_dir: Option<PathBuf>,
    authorities: Vec<Vec<u8>>,
    deadline: Option<Duration>,
    retries: Option<u32>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Order {
    Parallel(u32),
    Serial,
}

impl Options {
    fn read(args: &mut Args) -> Result<Self, Stop> {
        let mut options = Options {
            images: Vec::new(),
            order: Order::Parallel(PARALLEL),
            platform: None,
            plain_http: Vec::new(),
            auth_file: None,
            registry_config: None,
            hosts_dir: None,
            authorities: Vec::new(),
            deadline: None,
            retries: None,
        };
        let mut orders = Vec::new();
        while let Some(token) = args.next()? {
            let option = match token {
                Token::Option(option) => option,
                Token::Word(word) => {
                    options.images.push(args.readable(word)?);
                    continue;
                }
            };
            match option.as_str() {
                "--parallel" => orders.push(Order::Parallel(args.number(&option, 1, MOST_PARALLEL)?)),
                "--serial" => orders.push(Order::Serial),
                "--platform" => options.platform = Some(platform(args)?),
                "--plain-http" => options.plain_http.push(args.text()?),
                "--auth-file" => options.auth_file = Some(args.path()?),
                "--registry-config" => options.registry_config = Some(args.path()?),
                "--hosts-dir" => options.hosts_dir = Some(args.path()?),
                "--ca" => options.authorities.push(pem(&args.path()?)?),
                "--deadline" => options.deadline = Some(args.duration(&option)?),
                "--retries" => options.retries = Some(args.number(&option, 0, MOST_RETRIES)?),
                _ => return Err(args.unknown_option(&option)),
            }
        }
        options.order = match orders.as_slice() {
            [] => options.order,
            [order] => *order,
            _ => return Err(args.usage("say one of --parallel N and --serial, and once")),
        };
        if options.images.is_empty() {
            return Err(args.usage("no image was named"));
        }
        Ok(options)
    }

    fn puller(&self, store: &Path) -> Result<Box<dyn ImagePuller>, Error> {
        let service = self.configured(RegistryImageService::builder(store)).build()?;
        Ok(match self.order {
            Order::Parallel(limit) => {
                Box::new(ParallelImagePuller::new(service, Some(i32::try_from(limit).unwrap_or(i32::MAX)))?)
            }
            Order::Serial => Box::new(SerialImagePuller::new(service)?),
        })
    }

    fn configured(&self, mut builder: RegistryImageServiceBuilder) -> RegistryImageServiceBuilder {
        if let Some(platform) = &self.platform {
            builder = builder.platform(platform.clone());
        }
        builder = self.plain_http.iter().fold(builder, RegistryImageServiceBuilder::plain_http);
        if let Some(dir) = &self.hosts_dir {
            builder = builder.hosts_dir(dir);
        }
        for authority in &self.authorities {
            builder = builder.ca_certificate(authority.as_slice());
        }
        if let Some(retries) = self.retries {
            builder = builder.tries(retries + 1);
        }
        self.with_credentials(builder)
    }

    /// Files that are named are used instead of those that this user has.
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

fn platform(args: &mut Args) -> Result<Platform, Stop> {
    let text = args.text()?;
    Platform::parse(&text).map_err(|error| args.usage(format!("--platform: {}", error.message())))
}

fn pem(path: &Path) -> Result<Vec<u8>, Stop> {
    std::fs::read(path).map_err(|error| Stop::Own(format!("{}: {error}", path.display())))
}

/// Tells the results: JSON as they come, the table when all are there.
struct Report {
    is_json: bool,
    began: Instant,
    /// By place.
    results: Vec<Option<PullResult>>,
    /// The first line that could not be written.
    output: Result<(), Stop>,
}

impl Report {
    fn new(is_json: bool, images: usize) -> Self {
        Report { is_json, began: Instant::now(), results: vec![None; images], output: Ok(()) }
    }

    fn take(&mut self, place: usize, result: PullResult) {
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

    fn end(self, signals: &Signals, store: &Path) -> Result<(), Stop> {
        self.output?;
        let asked = self.results.len();
        let mut table = pulling::table();
        let (mut came, mut fetched, mut reused) = (0, 0, 0);
        for result in self.results.iter().flatten() {
            pulling::add(&mut table, result.image.image.clone(), result);
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
                store.display()
            ));
            return signals.check();
        }
        say(&format!(
            "{came} of {asked} images in {}: {} fetched, {} reused",
            Time(self.began.elapsed()),
            Bytes(fetched),
            Bytes(reused)
        ));
        if came == asked { Ok(()) } else { Err(Stop::Told) }
    }
}

/// One result, for programs; `--help` documents it.
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
