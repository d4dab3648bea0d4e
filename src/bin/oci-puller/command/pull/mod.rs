//! `pull`: pulls images from registries into the store.

mod choice;
mod dry_run;
mod failure;
mod limits;
mod platforms;
mod report;
#[cfg(feature = "unpack")]
mod unpacking;

use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use oci_puller::cri::CriImageService;
use oci_puller::registry::RegistryImageServiceBuilder;
use oci_puller::{
    ImagePuller, ImageService, ParallelImagePuller, RegistryImageService, SerialImagePuller, Store,
};

use crate::args::{self, StoreArgs, usage};
use crate::command::cri::CriArgs;
use crate::exit::Exit;
use crate::progress::Shown;
use crate::pull_all::pull_all;
use crate::registry_args::RegistryArgs;
use crate::signals::Signals;
use crate::signature_args::SignatureArgs;
use crate::stderr;
use crate::stores;
use crate::temp_folder::TempFolder;

use choice::{ByChoice, Choice};
use limits::LimitArgs;
use platforms::PlatformArgs;
use report::{Form, Report};
#[cfg(feature = "unpack")]
use unpacking::UnpackingArgs;

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
With --unpack or --layers, an object for each image follows: see unpack --help.
With --json and --dry-run, an object for each image and platform:
  image, ok          as above
  platform           what the image is for, or null
  manifest_digest    digest of the manifest for this platform
  size               bytes of manifest, config and layers
  bytes_to_fetch     bytes that the store lacks
  error              as above, in place of the four fields after ok

With --progress json, standard error has an object on each line, with a field
event and, but for messages, the image as it was given:
  started            the pull begins
  resolved           host, manifest_digest, blobs, bytes: the manifest is known
  other_platform     offered, wanted: the image is for another platform
  blob_reused        digest, size: the blob is in the store
  blob_started       digest, size, offset, host: the blob is fetched from offset
  blob_restarted     digest, bytes: so many bytes are thrown away
  blob_done          digest: the blob is whole and verified
  waiting            host, reason, seconds: the time until the next try
  progress           done, total, bytes_per_second: bytes, every second
  ended              ok, seconds: the pull is over
  message            text: a warning, an error or the summary

Credentials: there is no login. The files that docker login, podman login and
their credential helpers write are read, unless --username, --auth-file or
--registry-config say otherwise.

Mirrors: hosts.toml files, with --hosts-dir. The registries.conf of podman is
not read: its short names and rewritten prefixes change which image a name
stands for.

Examples:
  oci-puller pull alpine ghcr.io/team/app:1.2
  oci-puller pull --platform linux/arm64 --deadline 10m alpine
  oci-puller pull --platform linux/amd64 --platform linux/arm64 alpine
  oci-puller pull --dry-run --all-platforms alpine
  oci-puller pull --pull missing alpine   # asks no registry if it is there
  oci-puller pull --require-key docker.io/team=cosign.pub team/app
  oci-puller pull --hosts-dir /etc/containerd/certs.d --json alpine";

/// Pull images into the store
///
/// Blobs that are in the store are not fetched again, broken downloads resume, and only verified bytes are
/// stored. Exits with 0 only if every image was pulled.
#[derive(Args)]
#[command(after_long_help = AFTER_HELP)]
#[command(mut_arg("cri", |cri| cri.conflicts_with_all(not_with_cri())))]
pub(crate) struct PullArgs {
    /// [HOST[:PORT]/]NAME[:TAG][@DIGEST], such as alpine or ghcr.io/team/app:1.2
    #[arg(value_name = "IMAGE", required = true, value_parser = NonEmptyStringValueParser::new())]
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
    #[command(flatten)]
    platforms: PlatformArgs,
    /// Cancel what is not done after TIME, such as 90s or 1h30m. Default: none
    #[arg(long, value_name = "TIME", value_parser = args::duration)]
    deadline: Option<Duration>,
    /// Whether to pull an image that is there
    #[arg(long, value_name = "WHEN", value_enum, default_value_t = Choice::Always)]
    pull: Choice,
    /// Print what would be fetched, for each image and platform, and fetch no layer
    #[arg(long, conflicts_with_all = ["cri", "quiet", "progress", "pull", "policy", "require_key"])]
    dry_run: bool,
    /// Print nothing but errors, and the image refs
    #[arg(long, short)]
    quiet: bool,
    /// How progress is shown, on standard error
    #[arg(long, value_name = "HOW", value_enum, default_value_t = Shown::Auto, conflicts_with = "quiet")]
    progress: Shown,
    #[command(flatten)]
    registry: RegistryArgs,
    #[command(flatten)]
    signatures: SignatureArgs,
    #[command(flatten)]
    limits: LimitArgs,
    #[cfg(feature = "unpack")]
    #[command(flatten)]
    unpacking: UnpackingArgs,
}

/// Returns the arguments that a container runtime has no use for.
fn not_with_cri() -> impl IntoIterator<Item = &'static str> {
    let all = PlatformArgs::ALL.into_iter().chain(RegistryArgs::NOT_FOR_RUNTIMES).chain(SignatureArgs::ALL);
    let all = all.chain(LimitArgs::ALL);
    #[cfg(feature = "unpack")]
    let all = all.chain(UnpackingArgs::ALL);
    all
}

/// Pulls the images that the arguments name.
pub(crate) fn run(args: &PullArgs) -> Result<(), Exit> {
    if args.progress == Shown::Json {
        stderr::write_json();
    }
    if args.platforms.all() && args.pull != Choice::Always {
        return Err(usage("pull", "only a registry tells all platforms of an image: use --pull always"));
    }
    if args.dry_run {
        return args.dry_run();
    }
    #[cfg(feature = "unpack")]
    args.unpacking.check(args.images.len(), args.platforms.all() || !args.platforms.several().is_empty())?;
    let signals = Signals::watch()?;
    let (puller, place, _store) = match &args.runtime.cri {
        Some(endpoint) => {
            let service = args.runtime(endpoint)?;
            (args.puller(service, None)?, endpoint.clone(), None)
        }
        None => {
            let dir = args.store.dir()?;
            let service = args.configure(RegistryImageService::builder(&dir))?.build()?;
            let store = Some(service.store().clone());
            (args.puller(service, store.clone())?, dir.display().to_string(), store)
        }
    };
    let mut report = Report::new(args.form(), args.quiet, args.images.len());
    let deadline = args.deadline();
    let shown = if args.quiet { Shown::None } else { args.progress };
    let each = |place, result| report.add(place, result);
    let kept = pull_all(&*puller, &args.images, &signals, deadline, shown, each);
    puller.shutdown(Duration::ZERO);
    report.finish(&signals, &place, kept)?;
    #[cfg(feature = "unpack")]
    if let Some(store) = _store {
        args.unpacking.finish(&store, &args.images, &signals, args.store.json)?;
    }
    Ok(())
}

impl PullArgs {
    /// Prints what would be fetched. A store that is not there is not created.
    fn dry_run(&self) -> Result<(), Exit> {
        let signals = Signals::watch()?;
        let (mut dir, mut _folder) = (self.store.dir()?, None);
        if !stores::exists(&dir) {
            let folder = TempFolder::create()?;
            dir = folder.path().to_owned();
            _folder = Some(folder);
        }
        let service = self.configure(RegistryImageService::builder(&dir))?.build()?;
        dry_run::run(&service, &self.images, &signals, self.deadline(), self.store.json)
    }

    fn deadline(&self) -> Option<Instant> {
        self.deadline.and_then(|timeout| Instant::now().checked_add(timeout))
    }

    fn form(&self) -> Form {
        match (self.store.json, self.quiet) {
            (true, _) => Form::Json,
            (false, true) => Form::Ids,
            (false, false) => Form::Table,
        }
    }

    /// Builds the service of a runtime, which takes no settings of ours but the credentials.
    fn runtime(&self, endpoint: &str) -> Result<CriImageService, Exit> {
        let builder = CriImageService::builder(endpoint);
        Ok(match &self.registry.registry_config {
            Some(file) => builder.docker_config(file),
            None => builder.default_credential_files(),
        }
        .build()?)
    }

    fn puller(
        &self,
        service: impl ImageService + 'static,
        store: Option<Store>,
    ) -> Result<Box<dyn ImagePuller>, Exit> {
        let platforms = self.platforms.several().to_vec();
        let service = ByChoice { service, choice: self.pull, store, platforms };
        Ok(if self.serial {
            Box::new(SerialImagePuller::new(service)?)
        } else {
            Box::new(ParallelImagePuller::new(service, Some(i32::from(self.parallel)))?)
        })
    }

    fn configure(&self, builder: RegistryImageServiceBuilder) -> Result<RegistryImageServiceBuilder, Exit> {
        let mut builder = self.limits.apply(self.platforms.apply(builder));
        if let Some(policy) = self.signatures.policy()? {
            builder = builder.verifier(Arc::new(policy));
        }
        #[cfg(feature = "unpack")]
        {
            builder = self.unpacking.apply(builder)?;
        }
        self.registry.apply(builder, self.images.iter().map(String::as_str))
    }
}
