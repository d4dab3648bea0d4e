//! `--pull`: whether the registry is asked for an image that is in the store.

use clap::ValueEnum;
use oci_puller::image::{Digest, Platform};
use oci_puller::{
    Error, ErrorKind, ImageRef, ImageService, ImageSpec, PullContext, PullRequest, PulledImage, Store,
};

use crate::names;

/// When an image is pulled.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Choice {
    /// Ask the registry what the name stands for, and fetch what is missing
    Always,
    /// Ask the registry only for images that are not in the store
    Missing,
    /// Ask no registry; an image that is not in the store is an error
    Never,
    /// As always; while no registry answers, take the image that is in the store
    IfPossible,
}

/// An image service that pulls by choice.
pub(super) struct ByChoice<S> {
    pub(super) service: S,
    pub(super) choice: Choice,
    /// The store of the service; `None` for a container runtime.
    pub(super) store: Option<Store>,
    /// The platforms that an image in the store must have, if they are several.
    pub(super) platforms: Vec<Platform>,
}

impl<S: ImageService> ByChoice<S> {
    /// Returns the image as it is in the store; `None` if it is not there for each platform.
    fn present(&self, cx: &PullContext, request: &PullRequest) -> Result<Option<PulledImage>, Error> {
        let Some(id) = self.service.image_ref(cx, &request.image)? else { return Ok(None) };
        if !self.has_all_platforms(&request.image.image)? {
            return Ok(None);
        }
        let mut image = PulledImage::new(ImageRef::new(id.as_str()));
        image.bytes_reused = self.service.image_size(cx, &request.image)?;
        if let Some(store) = &self.store
            && let Some(found) = store.find(id.as_str())?
        {
            let name = oci_puller::image::Reference::parse(&request.image.image)?.name().to_owned();
            let is_its_own = |listed: &&String| listed.rsplit_once('@').is_some_and(|(of, _)| of == name);
            image.repo_digest = found.repo_digests.iter().find(is_its_own).cloned();
            let digest = image.repo_digest.as_deref().and_then(|listed| listed.rsplit_once('@'));
            image.manifest_digest = digest.and_then(|(_, digest)| Digest::parse(digest).ok());
        }
        Ok(Some(image))
    }

    fn has_all_platforms(&self, image: &str) -> Result<bool, Error> {
        let (Some(store), false) = (&self.store, self.platforms.is_empty()) else { return Ok(true) };
        let present = store.platforms_of(&names::key_of(image)?)?;
        let is_there =
            |wanted: &Platform| present.iter().any(|platform| wanted.preference(platform).is_some());
        Ok(self.platforms.iter().all(is_there))
    }

    /// Pulls the image, or returns the one in the store if the error is worth a retry.
    fn pull_or_present(&self, cx: &PullContext, request: &PullRequest) -> Result<PulledImage, Error> {
        let error = match self.service.pull_image(cx, request) {
            Err(error) if error.is_retryable() => error,
            outcome => return outcome,
        };
        match self.present(&PullContext::new(), request) {
            Ok(Some(image)) => {
                log::warn!("{error}; the image in the store is taken as it is");
                Ok(image)
            }
            _ => Err(error),
        }
    }
}

impl<S: ImageService> ImageService for ByChoice<S> {
    fn pull_image(&self, cx: &PullContext, request: &PullRequest) -> Result<PulledImage, Error> {
        let named = |error: Error| error.with_image(&request.image.image);
        match self.choice {
            Choice::Always => self.service.pull_image(cx, request),
            Choice::IfPossible => self.pull_or_present(cx, request),
            Choice::Missing => match self.present(cx, request).map_err(named)? {
                Some(image) => Ok(image),
                None => self.service.pull_image(cx, request),
            },
            Choice::Never => match self.present(cx, request).map_err(named)? {
                Some(image) => Ok(image),
                None => Err(named(self.service.image_refusal(cx, &request.image)?.unwrap_or_else(|| {
                    let text =
                        "it is not in the store, and --pull never asks no registry; use --pull missing";
                    Error::new(ErrorKind::NotFound, text)
                }))),
            },
        }
    }

    fn image_size(&self, cx: &PullContext, image: &ImageSpec) -> Result<u64, Error> {
        self.service.image_size(cx, image)
    }
}
