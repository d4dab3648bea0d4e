//! The required and default methods of the traits, and pointers, which forward all.

use std::sync::{Arc, Mutex};
use std::time::Duration;

use crossbeam_channel::{Sender, unbounded};
use oci_puller::puller::{PullerStats, Rejected};
use oci_puller::{
    Error, ErrorKind, ImageFsInfo, ImageInfo, ImagePuller, ImageRef, ImageService, ImageSpec,
    ParallelImagePuller, PullContext, PullRequest, PullResult, PulledImage,
};

use crate::{kind, next};

/// Notes the calls that come through.
#[derive(Default)]
struct Noting(Mutex<Vec<&'static str>>);

impl Noting {
    fn note(&self, call: &'static str) {
        self.0.lock().unwrap().push(call);
    }

    fn calls(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.0.lock().unwrap())
    }
}

impl ImagePuller for Noting {
    fn pull_image(&self, _: PullContext, _: PullRequest, _: Sender<PullResult>) {
        self.note("pull_image");
    }
    fn try_pull_image(&self, _: PullContext, _: PullRequest, _: Sender<PullResult>) -> Result<(), Rejected> {
        self.note("try_pull_image");
        Ok(())
    }
    fn capacity(&self) -> Option<usize> {
        self.note("capacity");
        Some(7)
    }
    fn stats(&self) -> PullerStats {
        self.note("stats");
        PullerStats::default()
    }
    fn shutdown(&self, _: Duration) {
        self.note("shutdown");
    }
}

impl ImageService for Noting {
    fn pull_image(&self, _: &PullContext, _: &PullRequest) -> Result<PulledImage, Error> {
        self.note("pull_image");
        Ok(PulledImage::new(ImageRef::new("id")))
    }
    fn image_size(&self, _: &PullContext, _: &ImageSpec) -> Result<u64, Error> {
        self.note("image_size");
        Ok(1)
    }
    fn image_ref(&self, _: &PullContext, _: &ImageSpec) -> Result<Option<ImageRef>, Error> {
        self.note("image_ref");
        Ok(None)
    }
    fn list_images(&self, _: &PullContext) -> Result<Vec<ImageInfo>, Error> {
        self.note("list_images");
        Ok(Vec::new())
    }
    fn remove_image(&self, _: &PullContext, _: &ImageSpec) -> Result<(), Error> {
        self.note("remove_image");
        Ok(())
    }
    fn image_fs_info(&self, _: &PullContext) -> Result<ImageFsInfo, Error> {
        self.note("image_fs_info");
        Ok(ImageFsInfo::default())
    }
}

fn call_puller(puller: impl ImagePuller) {
    let (results, _) = unbounded();
    puller.pull_image(PullContext::new(), PullRequest::default(), results.clone());
    puller.try_pull_image(PullContext::new(), PullRequest::default(), results).unwrap();
    let _ = (puller.capacity(), puller.stats());
    puller.shutdown(Duration::ZERO);
}

fn call_service(service: impl ImageService) {
    let (cx, image) = (PullContext::new(), ImageSpec::from("alpine"));
    service.pull_image(&cx, &PullRequest::default()).unwrap();
    service.image_size(&cx, &image).unwrap();
    service.image_ref(&cx, &image).unwrap();
    service.list_images(&cx).unwrap();
    service.remove_image(&cx, &image).unwrap();
    service.image_fs_info(&cx).unwrap();
}

#[test]
fn a_pointer_to_a_puller_forwards_every_call() {
    let noting = Arc::new(Noting::default());
    let all = ["pull_image", "try_pull_image", "capacity", "stats", "shutdown"];
    call_puller(&*noting);
    assert_eq!(noting.calls(), all, "a reference");
    call_puller(Arc::clone(&noting));
    assert_eq!(noting.calls(), all, "an Arc");
    call_puller(Arc::clone(&noting) as Arc<dyn ImagePuller>);
    assert_eq!(noting.calls(), all, "an Arc of any puller");
    call_puller(Box::new(Arc::clone(&noting)) as Box<dyn ImagePuller>);
    assert_eq!(noting.calls(), all, "a Box of any puller");
}

#[test]
fn a_pointer_to_a_service_forwards_every_call() {
    let noting = Arc::new(Noting::default());
    let all = ["pull_image", "image_size", "image_ref", "list_images", "remove_image", "image_fs_info"];
    call_service(&*noting);
    assert_eq!(noting.calls(), all, "a reference");
    call_service(Arc::clone(&noting));
    assert_eq!(noting.calls(), all, "an Arc");
    call_service(Arc::clone(&noting) as Arc<dyn ImageService>);
    assert_eq!(noting.calls(), all, "an Arc of any service");
    call_service(Box::new(Arc::clone(&noting)) as Box<dyn ImageService>);
    assert_eq!(noting.calls(), all, "a Box of any service");
}

/// A puller of one method.
struct OneMethod;

impl ImagePuller for OneMethod {
    fn pull_image(&self, _: PullContext, request: PullRequest, results: Sender<PullResult>) {
        let puller = ParallelImagePuller::new(TwoMethods, 1).unwrap();
        let (own, answers) = unbounded();
        puller.pull_image(PullContext::new(), request, own);
        results.send(next(&answers)).unwrap();
    }
}

/// A service of two methods.
struct TwoMethods;

impl ImageService for TwoMethods {
    fn pull_image(&self, _: &PullContext, _: &PullRequest) -> Result<PulledImage, Error> {
        Ok(PulledImage::new(ImageRef::new("id")))
    }
    fn image_size(&self, _: &PullContext, _: &ImageSpec) -> Result<u64, Error> {
        Ok(1)
    }
}

#[test]
fn a_puller_of_one_method_and_a_service_of_two_are_enough() {
    let puller: Arc<dyn ImagePuller> = Arc::new(OneMethod);
    let (results, answers) = unbounded();
    puller.try_pull_image(PullContext::new(), PullRequest::new(3, "alpine"), results).unwrap();
    let result = next(&answers);
    assert_eq!((result.id, kind(&result), result.image_size), (3, None, Some(1)));
    assert_eq!((puller.capacity(), puller.stats()), (None, PullerStats::default()));
    puller.shutdown(Duration::ZERO);

    let (cx, image) = (PullContext::new(), ImageSpec::from("alpine"));
    let errors = [
        TwoMethods.image_ref(&cx, &image).unwrap_err(),
        TwoMethods.list_images(&cx).unwrap_err(),
        TwoMethods.remove_image(&cx, &image).unwrap_err(),
        TwoMethods.image_fs_info(&cx).unwrap_err(),
    ];
    for error in errors {
        assert_eq!(error.kind(), ErrorKind::Unsupported);
        assert!(!error.is_retryable(), "{error}");
    }
}
