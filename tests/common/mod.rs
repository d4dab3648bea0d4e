//! Helpers that several test files share; none of them uses all.
#![allow(dead_code, clippy::unwrap_used, unreachable_pub, missing_docs, missing_debug_implementations)]

use std::sync::Arc;
use std::time::Duration;

use oci_puller::ImageService;

pub mod clock;
#[cfg(feature = "cri")]
mod cri_peer;
pub mod node;
#[cfg(feature = "cri")]
mod over_cri;
pub mod pulls;
pub mod service;
pub mod threads;

/// Long enough for anything that should happen, also on a machine that is busy with other things.
pub const SOON: Duration = Duration::from_secs(20);

/// Returns the service that the code under test gets: `service`, or a CRI runtime that asks it in the targets whose
/// names end in `_over_cri`.
pub fn served<S: ImageService + 'static>(service: &Arc<S>) -> Arc<dyn ImageService> {
    #[cfg(feature = "cri")]
    if is_over_cri() {
        return Arc::new(over_cri::OverCri::new(Arc::clone(service) as _));
    }
    Arc::clone(service) as _
}

/// Reports whether this target runs its tables over the image service of a CRI runtime.
pub fn is_over_cri() -> bool {
    env!("CARGO_CRATE_NAME").ends_with("_over_cri")
}
