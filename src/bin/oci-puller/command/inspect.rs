//! `inspect`: what the manifest and the config of an image say, in the store or in a registry.

use clap::Args;
use oci_puller::image::{Descriptor, Document, Manifest, Platform, Reference};
use oci_puller::registry::{FetchedManifest, PullPlan};
use oci_puller::store::StoredImage;
use oci_puller::{ErrorKind, Store};
use serde::Serialize;
use serde_json::Value;

use crate::args::StoreArgs;
use crate::exit::Exit;
use crate::names;
use crate::output;
use crate::registry_args::RegistryArgs;
use crate::remote::Remote;
use crate::stores;

const AFTER_HELP: &str = "\
Prints an object, on one line with --json:
  image_ref        its id: the digest of its config
  names            list of its names
  repo_digests     list of NAME@DIGEST it was pulled as
  manifest_digest  digest of its manifest
  media_type       of the manifest
  index_digest     digest of the index that lists it, or null
  platforms        platforms of the name's images: those in the store, or with
                   --remote those that the index lists
  size             bytes of manifest, config and layers
  pinned           whether prune keeps it always; not with --remote
  layers           list of layers, each with digest, media_type and size
  config           the config, as it is in the image

Examples:
  oci-puller inspect alpine
  oci-puller inspect --remote --platform linux/arm64 alpine:3.22
  oci-puller inspect --remote --raw alpine:3.22   # the index, if there is one";

/// Show the manifest and the config of an image, in the store or with --remote in its registry
#[derive(Args)]
#[command(after_long_help = AFTER_HELP, mut_group("RegistryArgs", |group| group.requires("remote")))]
pub(crate) struct InspectArgs {
    /// A name, a digest, or the first digits (4 or more) of an image ref
    image: String,
    /// Ask the registry in place of the store, and store nothing; IMAGE is a name then
    #[arg(long)]
    remote: bool,
    /// Print the bytes of the manifest as they are; with --remote and without --platform those of the index,
    /// if the name stands for one
    #[arg(long)]
    raw: bool,
    /// Print the config alone; with --raw its bytes as they are
    #[arg(long)]
    config: bool,
    /// Show the image for this platform. Default: this machine's
    #[arg(long, value_name = "OS/ARCH[/VARIANT]", value_parser = crate::args::platform)]
    platform: Option<Platform>,
    #[command(flatten)]
    store: StoreArgs,
    #[command(flatten)]
    registry: RegistryArgs,
}

/// Shows the image that the arguments name.
pub(crate) fn run(args: &InspectArgs) -> Result<(), Exit> {
    if args.remote {
        return inspect_remote(args);
    }
    let store = stores::open(&args.store.dir()?, args.platform.as_ref())?;
    let (key, image) = names::find(&store, &args.image)?;
    let manifest = store.manifest(&image.manifest.digest)?;
    if args.raw {
        let digest = if args.config { &manifest.config.digest } else { &image.manifest.digest };
        return output::bytes(&store.document(digest)?);
    }
    // The config of an artifact may be anything, or too large to be read.
    let config = store.document(&manifest.config.digest).ok();
    args.print(config.as_deref(), |config| stored(&store, &key, &image, &manifest, config))
}

/// Shows the image in its registry.
fn inspect_remote(args: &InspectArgs) -> Result<(), Exit> {
    let remote = Remote::new(&args.image, args.platform.as_ref(), &args.registry)?;
    if args.raw && !args.config && args.platform.is_none() {
        let manifest = remote.ask(|service, cx, request| service.fetch_manifest(cx, request))?;
        return output::bytes(&manifest.bytes);
    }
    let plan = remote.ask(|service, cx, request| service.plan(cx, request))?;
    let chosen = plan.images.first().map_or(&plan.root, |image| &image.manifest);
    if args.raw && !args.config {
        return output::bytes(&chosen.bytes);
    }
    let Document::Manifest(manifest) = &chosen.document else { return Err(Exit::REPORTED) };
    let config = remote.ask(|service, cx, request| service.fetch_blob(cx, request, &manifest.config));
    let config = match config {
        Ok(config) => Some(config),
        // The config of an artifact may be too large to be read.
        Err(Exit::Failed(error)) if error.kind() == ErrorKind::InvalidManifest && !args.raw => None,
        Err(exit) => return Err(exit),
    };
    if args.raw {
        return output::bytes(&config.unwrap_or_default());
    }
    let reference = Reference::parse(&args.image)?;
    args.print(config.as_deref(), |config| Ok(of_registry(&reference, &plan, chosen, manifest, config)))
}

impl InspectArgs {
    /// Prints the config alone, or the object that is made with it.
    fn print<'a>(
        &self,
        config: Option<&[u8]>,
        object: impl FnOnce(Value) -> Result<Object<'a>, Exit>,
    ) -> Result<(), Exit> {
        let config = config.and_then(|bytes| serde_json::from_slice(bytes).ok()).unwrap_or(Value::Null);
        match (self.config, self.store.json) {
            (true, true) => output::json(&config),
            (true, false) => output::pretty_json(&config),
            (false, true) => output::json(&object(config)?),
            (false, false) => output::pretty_json(&object(config)?),
        }
    }
}

fn stored<'a>(
    store: &Store,
    key: &str,
    image: &'a StoredImage,
    manifest: &'a Manifest,
    config: Value,
) -> Result<Object<'a>, Exit> {
    Ok(Object {
        image_ref: image.id.as_str(),
        names: image.names.clone(),
        repo_digests: image.repo_digests.clone(),
        manifest_digest: image.manifest.digest.as_str(),
        media_type: &image.manifest.media_type,
        index_digest: image.index.as_ref().map(|digest| digest.as_str()),
        platforms: store.platforms_of(key)?.iter().map(ToString::to_string).collect(),
        size: image.size,
        pinned: Some(image.pinned),
        layers: manifest.layers.iter().map(Layer::of).collect(),
        config,
    })
}

fn of_registry<'a>(
    reference: &Reference,
    plan: &'a PullPlan,
    chosen: &'a FetchedManifest,
    manifest: &'a Manifest,
    config: Value,
) -> Object<'a> {
    let root = &plan.root.descriptor.digest;
    let platforms: Vec<_> = match &plan.root.document {
        Document::Index(index) => index.manifests.iter().filter_map(|entry| entry.platform.clone()).collect(),
        Document::Manifest(_) => plan.images.iter().filter_map(|image| image.platform.clone()).collect(),
    };
    let image_ref = match manifest.has_image_config() {
        true => manifest.config.digest.as_str(),
        false => chosen.descriptor.digest.as_str(),
    };
    Object {
        image_ref,
        names: vec![reference.to_string()],
        repo_digests: vec![format!("{}@{root}", reference.name())],
        manifest_digest: chosen.descriptor.digest.as_str(),
        media_type: &chosen.descriptor.media_type,
        index_digest: (*root != chosen.descriptor.digest).then(|| root.as_str()),
        platforms: platforms.iter().map(ToString::to_string).collect(),
        size: plan.images.first().map_or(0, |image| image.size),
        pinned: None,
        layers: manifest.layers.iter().map(Layer::of).collect(),
        config,
    }
}

/// The JSON of an image; `--help` documents it.
#[derive(Serialize)]
struct Object<'a> {
    image_ref: &'a str,
    names: Vec<String>,
    repo_digests: Vec<String>,
    manifest_digest: &'a str,
    media_type: &'a str,
    index_digest: Option<&'a str>,
    platforms: Vec<String>,
    size: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pinned: Option<bool>,
    layers: Vec<Layer<'a>>,
    config: Value,
}

#[derive(Serialize)]
struct Layer<'a> {
    digest: &'a str,
    media_type: &'a str,
    size: u64,
}

impl<'a> Layer<'a> {
    fn of(layer: &'a Descriptor) -> Self {
        Layer { digest: layer.digest.as_str(), media_type: &layer.media_type, size: layer.size }
    }
}
