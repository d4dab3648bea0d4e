//! This crate, in a process of its own.

use std::path::Path;

use crossbeam_channel::unbounded;
use oci_puller::{
    Durability, ImagePuller, ParallelImagePuller, PullContext, PullRequest, RegistryImageService,
};

use super::catalog::Catalog;
use super::{AT_ONCE, Outcome};

/// Pulls all images into a store that is not there yet; otherwise as the library comes.
pub(crate) fn pull(catalog: &Path, folder: &Path, durability: Durability) -> Outcome<()> {
    let catalog = Catalog::read(catalog)?;
    let service = RegistryImageService::builder(folder).durability(durability).build()?;
    let puller = ParallelImagePuller::new(service, Some(i32::try_from(AT_ONCE)?))?;
    let (results, answers) = unbounded();
    for (id, reference) in (0..).zip(catalog.references()) {
        puller.pull_image(PullContext::new(), PullRequest::new(id, reference), results.clone());
    }
    for result in answers.iter().take(catalog.images.len()) {
        result.outcome?;
    }
    Ok(())
}
