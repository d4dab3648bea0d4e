//! `digest`: the digest that a name stands for at its registry.

use clap::Args;
use oci_puller::image::Platform;
use serde::Serialize;

use crate::args;
use crate::exit::Exit;
use crate::output;
use crate::registry_args::RegistryArgs;
use crate::remote::Remote;

const AFTER_HELP: &str = "\
With --json:
  image       as it was given
  digest      digest of the manifest, or of the index
  media_type  of the same
  size        bytes of the same

Examples:
  oci-puller digest alpine:3.22
  oci-puller digest --platform linux/arm64 alpine:3.22";

/// Print the digest that a name stands for at its registry
///
/// The digest is computed from the bytes that the registry sends. Stores nothing.
#[derive(Args)]
#[command(after_long_help = AFTER_HELP)]
pub(crate) struct DigestArgs {
    /// [HOST[:PORT]/]NAME[:TAG], such as alpine or ghcr.io/team/app:1.2
    image: String,
    /// Print the digest of the manifest for this platform. Default: of the index, if there is one
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = args::platform)]
    platform: Option<Platform>,
    /// Print an object in place of the digest; --help lists the fields
    #[arg(long, help_heading = "Common options")]
    json: bool,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// Prints the digest of the image that the arguments name.
pub(crate) fn run(args: &DigestArgs) -> Result<(), Exit> {
    let remote = Remote::new(&args.image, args.platform.as_ref(), &args.registry)?;
    let manifest = match &args.platform {
        None => remote.ask(|service, cx, request| service.fetch_manifest(cx, request))?,
        Some(_) => {
            let plan = remote.ask(|service, cx, request| service.plan(cx, request))?;
            plan.images.into_iter().next().map_or(plan.root, |image| image.manifest)
        }
    };
    let descriptor = &manifest.descriptor;
    match args.json {
        false => output::line(descriptor.digest.as_str()),
        true => output::json(&Line {
            image: &args.image,
            digest: descriptor.digest.as_str(),
            media_type: &descriptor.media_type,
            size: descriptor.size,
        }),
    }
}

/// The JSON of a digest; `--help` documents it.
#[derive(Serialize)]
struct Line<'a> {
    image: &'a str,
    digest: &'a str,
    media_type: &'a str,
    size: u64,
}
