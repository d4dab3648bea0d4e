//! The trait that pullers call.

use std::sync::Arc;

use super::request::{ImageSpec, PullRequest};
use super::result::{ImageFsInfo, ImageInfo, ImageRef, PulledImage};
use crate::context::PullContext;
use crate::error::{Error, ErrorKind};

/// Pulls images and knows which are present: a registry with a store, a node's container runtime, or a test
/// double.
///
/// The pullers call [`pull_image`](Self::pull_image) and [`image_size`](Self::image_size), which an
/// implementation must provide. The other methods return [`Unsupported`](ErrorKind::Unsupported) by default.
///
/// A call must return soon after its context ends, with [`Cancelled`](ErrorKind::Cancelled) or
/// [`Timeout`](ErrorKind::Timeout). A call may panic: the puller turns the panic into an error.
pub trait ImageService: Send + Sync {
    /// Pulls the image, unless it is present and unchanged.
    ///
    /// # Errors
    /// Any [`ErrorKind`]. A failed pull leaves no visible image.
    fn pull_image(&self, cx: &PullContext, request: &PullRequest) -> Result<PulledImage, Error>;

    /// Returns the image's size in bytes.
    ///
    /// # Errors
    /// [`NotFound`](ErrorKind::NotFound) if the image is absent; [`Unsupported`](ErrorKind::Unsupported) if the
    /// service does not know sizes.
    fn image_size(&self, cx: &PullContext, image: &ImageSpec) -> Result<u64, Error>;

    /// Returns the image's id, or `None` if the image is absent. Uses no network.
    ///
    /// # Errors
    /// [`InvalidReference`](ErrorKind::InvalidReference), [`Store`](ErrorKind::Store);
    /// [`Unsupported`](ErrorKind::Unsupported) by default: an image manager then treats the image as absent.
    fn image_ref(&self, cx: &PullContext, image: &ImageSpec) -> Result<Option<ImageRef>, Error> {
        let _ = cx;
        Err(unsupported("which images it has").with_image(&image.image))
    }

    /// Returns why [`image_ref`](Self::image_ref) reports a present image as absent, for example the denial of a
    /// signature policy; `None` for any other image. Uses no network. Default: `None`.
    ///
    /// # Errors
    /// Those of [`image_ref`](Self::image_ref).
    fn image_refusal(&self, cx: &PullContext, image: &ImageSpec) -> Result<Option<Error>, Error> {
        let _ = (cx, image);
        Ok(None)
    }

    /// Returns the images that are present.
    ///
    /// # Errors
    /// [`Store`](ErrorKind::Store); [`Unsupported`](ErrorKind::Unsupported) by default.
    fn list_images(&self, cx: &PullContext) -> Result<Vec<ImageInfo>, Error> {
        let _ = cx;
        Err(unsupported("which images it has"))
    }

    /// Removes an image. An absent image is no error.
    ///
    /// # Errors
    /// [`InvalidReference`](ErrorKind::InvalidReference), [`Store`](ErrorKind::Store);
    /// [`Unsupported`](ErrorKind::Unsupported) by default.
    fn remove_image(&self, cx: &PullContext, image: &ImageSpec) -> Result<(), Error> {
        let _ = cx;
        let text = "the image service cannot remove images";
        Err(Error::new(ErrorKind::Unsupported, text).with_image(&image.image))
    }

    /// Returns the file system that holds the images.
    ///
    /// # Errors
    /// [`Store`](ErrorKind::Store); [`Unsupported`](ErrorKind::Unsupported) by default.
    fn image_fs_info(&self, cx: &PullContext) -> Result<ImageFsInfo, Error> {
        let _ = cx;
        Err(unsupported("where its images are"))
    }
}

fn unsupported(what: &str) -> Error {
    Error::new(ErrorKind::Unsupported, format!("the image service does not tell {what}"))
}

macro_rules! forward_image_service {
    ($pointer:ty) => {
        impl<S: ImageService + ?Sized> ImageService for $pointer {
            fn pull_image(&self, cx: &PullContext, request: &PullRequest) -> Result<PulledImage, Error> {
                (**self).pull_image(cx, request)
            }
            fn image_size(&self, cx: &PullContext, image: &ImageSpec) -> Result<u64, Error> {
                (**self).image_size(cx, image)
            }
            fn image_ref(&self, cx: &PullContext, image: &ImageSpec) -> Result<Option<ImageRef>, Error> {
                (**self).image_ref(cx, image)
            }
            fn image_refusal(&self, cx: &PullContext, image: &ImageSpec) -> Result<Option<Error>, Error> {
                (**self).image_refusal(cx, image)
            }
            fn list_images(&self, cx: &PullContext) -> Result<Vec<ImageInfo>, Error> {
                (**self).list_images(cx)
            }
            fn remove_image(&self, cx: &PullContext, image: &ImageSpec) -> Result<(), Error> {
                (**self).remove_image(cx, image)
            }
            fn image_fs_info(&self, cx: &PullContext) -> Result<ImageFsInfo, Error> {
                (**self).image_fs_info(cx)
            }
        }
    };
}

forward_image_service!(&S);
forward_image_service!(Arc<S>);
forward_image_service!(Box<S>);
