//! Looks up whether an image is present, and whether a request may use it.

use super::credential_hash::SecretMark;
use super::inner::{ManagerInner, catch_panic};
use super::shared_pull::ParsedRequest;
use crate::context::PullContext;
use crate::error::{Error, ErrorKind};
use crate::service::ImageRef;

/// Whether an image is there, for one request.
#[derive(Debug)]
pub(super) enum Presence {
    Absent,
    Usable(ImageRef),
    /// The image is there; no record shows that this request could have pulled it.
    Unproven,
}

impl ManagerInner {
    pub(super) fn look(&self, cx: &PullContext, request: &ParsedRequest) -> Result<Presence, Error> {
        let image_ref = self.image_ref(cx, request)?;
        Ok(image_ref.map_or(Presence::Absent, |image_ref| self.prove(request, image_ref)))
    }

    /// Asks the service for the image. A service that does not support the question knows no image.
    pub(super) fn image_ref(
        &self,
        cx: &PullContext,
        request: &ParsedRequest,
    ) -> Result<Option<ImageRef>, Error> {
        match catch_panic("the image service", || self.service.image_ref(cx, &request.image)) {
            Ok(image_ref) => Ok(image_ref.filter(|image_ref| !image_ref.is_empty())),
            Err(error) if error.kind() == ErrorKind::Unsupported => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks the service why an image that is there counts as absent.
    pub(super) fn image_refusal(
        &self,
        cx: &PullContext,
        request: &ParsedRequest,
    ) -> Result<Option<Error>, Error> {
        catch_panic("the image service", || self.service.image_refusal(cx, &request.image))
    }

    /// Checks whether the request may use the image that is there, as far as the policy asks for proof.
    pub(super) fn prove(&self, request: &ParsedRequest, image_ref: ImageRef) -> Presence {
        let Some(records) = &self.records else { return Presence::Usable(image_ref) };
        let was_pulled = records.was_pulled(&image_ref, &request.image.image);
        let may_use = !self.verification.is_needed(&request.reference, was_pulled) || {
            let marks: Vec<_> = request.request.pull_secrets.iter().map(SecretMark::of).collect();
            records.may_use(&image_ref, &request.reference, &marks)
        };
        if may_use { Presence::Usable(image_ref) } else { Presence::Unproven }
    }
}
