//! `--dry-run`: what a pull would fetch.

use std::collections::HashSet;
use std::time::Instant;

use oci_puller::image::Digest;
use oci_puller::registry::{PlannedImage, PullPlan};
use oci_puller::{Error, PullContext, PullRequest, RegistryImageService};
use serde::Serialize;

use super::failure::Failure;
use crate::exit::Exit;
use crate::output::{self, Align, Table};
use crate::signals::Signals;
use crate::stderr::{say, say_error};
use crate::units::Bytes;

/// Prints what a pull of the images would fetch.
pub(super) fn run(
    service: &RegistryImageService,
    images: &[String],
    signals: &Signals,
    deadline: Option<Instant>,
    is_json: bool,
) -> Result<(), Exit> {
    let mut table = Table::new([
        ("IMAGE", Align::Left),
        ("PLATFORM", Align::Left),
        ("MANIFEST", Align::Left),
        ("SIZE", Align::Right),
        ("TO FETCH", Align::Right),
    ]);
    let (mut errors, mut sum) = (Vec::new(), Sum::default());
    for image in images {
        let cx = PullContext::new().with_cancel(signals.token());
        let cx = deadline.into_iter().fold(cx, PullContext::with_deadline);
        let planned = service.plan(&cx, &PullRequest::new(0, image.as_str()));
        signals.check()?;
        match planned {
            Ok(plan) => {
                sum.add(&plan);
                for planned in &plan.images {
                    match is_json {
                        true => output::json(&Line::of(image, planned))?,
                        false => table.row(row(image, planned)),
                    }
                }
            }
            Err(error) => {
                if is_json {
                    output::json(&Line { error: Some(Failure::of(&error)), ..Line::new(image) })?;
                }
                say_error(&error);
                errors.push(error);
            }
        }
    }
    if !is_json && !table.is_empty() {
        output::raw(&table.to_string())?;
    }
    say(&format!(
        "dry run: {} of {} images; {} to fetch in {} blobs and manifests",
        images.len() - errors.len(),
        images.len(),
        Bytes(sum.bytes),
        sum.seen.len()
    ));
    match errors.is_empty() {
        true => Ok(()),
        false => Err(Exit::Reported { retryable: errors.iter().all(Error::is_retryable) }),
    }
}

/// What all images together lack; what several lack counts once.
#[derive(Default)]
struct Sum {
    seen: HashSet<Digest>,
    bytes: u64,
}

impl Sum {
    fn add(&mut self, plan: &PullPlan) {
        for missing in plan.images.iter().flat_map(|image| &image.missing) {
            if self.seen.insert(missing.digest.clone()) {
                self.bytes = self.bytes.saturating_add(missing.size);
            }
        }
    }
}

fn to_fetch(planned: &PlannedImage) -> u64 {
    planned.missing.iter().map(|missing| missing.size).fold(0, u64::saturating_add)
}

fn row(image: &str, planned: &PlannedImage) -> [String; 5] {
    [
        image.to_owned(),
        planned.platform.as_ref().map_or_else(|| "?".to_owned(), ToString::to_string),
        planned.manifest.descriptor.digest.to_string(),
        Bytes(planned.size).to_string(),
        Bytes(to_fetch(planned)).to_string(),
    ]
}

/// The JSON of one image for one platform; `--help` documents it.
#[derive(Serialize)]
struct Line<'a> {
    image: &'a str,
    ok: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    platform: Option<Option<String>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    manifest_digest: Option<&'a str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    size: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    bytes_to_fetch: Option<u64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Failure<'a>>,
}

impl<'a> Line<'a> {
    fn new(image: &'a str) -> Self {
        Line {
            image,
            ok: false,
            platform: None,
            manifest_digest: None,
            size: None,
            bytes_to_fetch: None,
            error: None,
        }
    }

    fn of(image: &'a str, planned: &'a PlannedImage) -> Self {
        Line {
            ok: true,
            platform: Some(planned.platform.as_ref().map(ToString::to_string)),
            manifest_digest: Some(planned.manifest.descriptor.digest.as_str()),
            size: Some(planned.size),
            bytes_to_fetch: Some(to_fetch(planned)),
            ..Line::new(image)
        }
    }
}
