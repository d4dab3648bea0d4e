//! Implements the trait for pointers to pullers.

use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::Sender;

use super::image_puller::{ImagePuller, PullerStats};
use super::rejected::Rejected;
use super::result::PullResult;
use crate::context::PullContext;
use crate::service::PullRequest;

macro_rules! forward_image_puller {
    ($pointer:ty) => {
        impl<P: ImagePuller + ?Sized> ImagePuller for $pointer {
            fn pull_image(&self, cx: PullContext, request: PullRequest, results: Sender<PullResult>) {
                (**self).pull_image(cx, request, results);
            }
            fn try_pull_image(
                &self,
                cx: PullContext,
                request: PullRequest,
                results: Sender<PullResult>,
            ) -> Result<(), Rejected> {
                (**self).try_pull_image(cx, request, results)
            }
            fn capacity(&self) -> Option<usize> {
                (**self).capacity()
            }
            fn stats(&self) -> PullerStats {
                (**self).stats()
            }
            fn shutdown(&self, grace: Duration) {
                (**self).shutdown(grace);
            }
        }
    };
}

forward_image_puller!(&P);
forward_image_puller!(Arc<P>);
forward_image_puller!(Box<P>);
