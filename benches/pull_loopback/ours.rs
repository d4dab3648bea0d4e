//! This crate, in a process of its own.

use crossbeam_channel::unbounded;
use oci_puller::store::Durability;
use oci_puller::{ImagePuller, ParallelImagePuller, PullContext, PullRequest, RegistryImageService};

use super::catalog::Catalog;
use super::roles::Task;
use super::{AT_ONCE, Outcome};

/// Pulls all images into a store that is not there yet; otherwise as the library comes.
pub(crate) fn pull(task: &Task) -> Outcome<()> {
    let catalog = Catalog::read(&task.catalog)?;
    let durability = if task.terms.is_durable { Durability::Full } else { Durability::Relaxed };
    let mut builder = RegistryImageService::builder(&task.folder).durability(durability);
    if let Some(connections) = task.terms.connections {
        builder = builder.connections_per_host(connections);
    }
    let puller = ParallelImagePuller::new(builder.build()?, Some(i32::try_from(AT_ONCE)?))?;
    let (results, answers) = unbounded();
    for (id, reference) in (0..).zip(catalog.references()) {
        puller.pull_image(PullContext::new(), PullRequest::new(id, reference), results.clone());
    }
    for result in answers.iter().take(catalog.images.len()) {
        result.outcome?;
    }
    Ok(())
}
