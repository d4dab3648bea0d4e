//! `demo`: both pullers at work, with a registry of their own.

use std::path::Path;
use std::time::{Duration, Instant};

use clap::Args;
use oci_puller::image::Platform;
use oci_puller::testing::images::{Image, ImageBuilder};
use oci_puller::testing::{Action, Fault, Registry, Target};
use oci_puller::{ImagePuller, ParallelImagePuller, PullResult, RegistryImageService, SerialImagePuller};

use crate::exit::Exit;
use crate::names::{brief, short};
use crate::output;
use crate::progress::Shown;
use crate::pull_all::{self, pull_all};
use crate::signals::Signals;
use crate::stderr::say_error;
use crate::temp_folder::TempFolder;
use crate::units::{Bytes, Time};

/// Bytes a second on each connection, so that there is something to see.
const PACE: u64 = 4_000_000;
/// How many images the parallel puller pulls at a time.
const PARALLEL: i32 = 3;
/// Where the connection that brings one of the layers breaks, bytes.
const CUT: u64 = 3_000_000;

/// Layers that several images have: seed, bytes.
const SYSTEM: (u64, usize) = (1, 4_000_000);
const RUNTIME: (u64, usize) = (2, 3_000_000);

/// Show both pullers at work with a registry of their own: no network, nothing to install
///
/// Starts a registry on 127.0.0.1, fills it with generated images that share layers, makes it misbehave a
/// little, and pulls all images, first in parallel, then one at a time, into two stores in a temporary folder,
/// which is removed at the end.
#[derive(Args)]
pub(crate) struct DemoArgs {}

/// Pulls generated images through both pullers.
pub(crate) fn run(_: DemoArgs) -> Result<(), Exit> {
    let signals = Signals::watch()?;
    let folder = TempFolder::create()?;
    let registry = Registry::start().map_err(|error| Exit::Own(format!("no registry: {error}")))?;
    let images = images();
    let names: Vec<_> = images.iter().map(|(image, tag)| registry.push(image, tag)).collect();
    output::raw(&format!("{}\n", introduction(&registry, &images)))?;

    registry.fault(Fault::on(Target::Blob).with(Action::Pace(PACE)));
    let faults = misbehave(&registry, &images);
    output::line(&format!("ParallelImagePuller, {PARALLEL} images at a time"))?;
    let puller = ParallelImagePuller::new(service(&folder.path().join("parallel"))?, Some(PARALLEL))?;
    pull(&puller, &names, &signals)?;
    output::raw(&format!("{}\n\n", faults.told(&registry)))?;

    output::line("SerialImagePuller, one image at a time, in the order asked")?;
    let puller = SerialImagePuller::new(service(&folder.path().join("serial"))?)?;
    pull(&puller, &names, &signals)
}

fn images() -> [(Image, &'static str); 6] {
    let on_system = |name: &str| ImageBuilder::new(name).layer_shared(SYSTEM.0, SYSTEM.1);
    let on_runtime = |name: &str| on_system(name).layer_shared(RUNTIME.0, RUNTIME.1);
    [
        (on_runtime("shop/api").layer(8_000_000).layer(300_000).build(), "2.0"),
        (on_runtime("shop/web").layer(4_000_000).build(), "1.4"),
        (on_runtime("shop/worker").layer(3_000_000).layer(200_000).build(), "2.0"),
        (on_system("tools/probe").layer(4_000_000).platforms(platforms()).build(), "0.9"),
        (on_runtime("lang/python").layer(3_000_000).build(), "3.14"),
        (on_system("base/system").build(), "12"),
    ]
}

/// Some, this machine's among them.
fn platforms() -> Vec<String> {
    let mut platforms = ["linux/amd64", "linux/arm64", "linux/arm/v7"].map(str::to_owned).to_vec();
    let own = Platform::host().to_string();
    if !platforms.contains(&own) {
        platforms.push(own);
    }
    platforms
}

fn introduction(registry: &Registry, images: &[(Image, &str)]) -> String {
    let mut layers: Vec<_> = images.iter().flat_map(|(image, _)| image.layers()).collect();
    let bytes =
        |parts: &[&oci_puller::testing::images::Part]| Bytes(parts.iter().map(|part| part.size()).sum());
    let listed = bytes(&layers);
    layers.sort_by_key(|layer| &layer.digest);
    layers.dedup();
    format!(
        "A registry on {} serves {} images, one of them for several\n\
         platforms. Their layers have {listed}, {} without the repeated ones; each\n\
         connection brings {} a second.\n",
        registry.host(),
        images.len(),
        bytes(&layers),
        Bytes(PACE),
    )
}

fn service(store: &Path) -> Result<RegistryImageService, Exit> {
    Ok(RegistryImageService::builder(store).build()?)
}

fn pull(puller: &dyn ImagePuller, names: &[String], signals: &Signals) -> Result<(), Exit> {
    let began = Instant::now();
    let mut results: Vec<Option<PullResult>> = vec![None; names.len()];
    pull_all(puller, names, signals, None, Shown::Auto, |place, result| {
        if let Some(slot) = results.get_mut(place) {
            *slot = Some(result);
        }
    });
    let took = began.elapsed();
    puller.shutdown(Duration::ZERO);
    signals.check()?;
    tell(results.iter().flatten(), took)
}

fn tell<'a>(results: impl Iterator<Item = &'a PullResult>, took: Duration) -> Result<(), Exit> {
    let mut table = pull_all::table();
    let mut outcome = Ok(());
    for result in results {
        pull_all::add(&mut table, brief(&result.image.image), result);
        if let Err(error) = &result.outcome {
            say_error(error);
            outcome = Err(Exit::REPORTED);
        }
    }
    output::raw(&format!("{table}All in {}.\n", Time(took)))?;
    outcome
}

/// What goes wrong in the parallel pull.
struct Faults {
    image: String,
    layer: String,
}

/// One connection breaks in the middle of a layer; one question is one too many.
fn misbehave(registry: &Registry, images: &[(Image, &str); 6]) -> Faults {
    let [(api, tag), ..] = images;
    let layer = api.layers()[2].digest.to_string();
    registry.fault(Fault::on(Target::Blob).path_containing(&layer).times(1).with(Action::Cut(CUT)));
    registry.fault(
        Fault::on(Target::Manifest)
            .path_containing("tools/probe")
            .times(1)
            .with(Action::Status(429))
            .with(Action::header("Retry-After", "1")),
    );
    Faults { image: format!("{}:{tag}", api.repository()), layer }
}

impl Faults {
    /// How it went on, as the registry saw it.
    fn told(&self, registry: &Registry) -> String {
        let requests = registry.requests();
        let of_layer = requests.iter().filter(|request| request.path.contains(&self.layer));
        let range = of_layer.filter_map(|request| request.header("range")).next().unwrap_or("nothing");
        format!(
            "On the way, layer {} of {} was cut off after {}, and\n\
             went on with \"Range: {range}\". One question was answered with 429,\n\
             \"Retry-After: 1\", and the registry was left alone for that second.",
            short(&self.layer),
            self.image,
            Bytes(CUT),
        )
    }
}
