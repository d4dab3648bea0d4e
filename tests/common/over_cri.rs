//! A CRI runtime between the code under test and the service of a test.

use std::collections::{BTreeMap, HashMap};
use std::fmt::Debug;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use oci_puller::cri::CriImageService;
use oci_puller::{
    Error, ErrorKind, ImageFsInfo, ImageInfo, ImageRef, ImageService, ImageSpec, PullContext, PullRequest,
    PulledImage,
};
use parking_lot::Mutex;
use prost::Message;

use super::cri_peer::{self, Call, Peer, field};

/// The annotation that tells the runtime which call of the caller it answers: `METHOD NUMBER`. Only the look-up that
/// follows a pull has the number of another call.
const CALL: &str = "call";

/// A [`CriImageService`] before a runtime that asks another service.
///
/// Answers as that service does, also where CRI cannot: it has no byte counts, no time to retry after, and codes for few
/// kinds of errors. Such answers do not go through the socket, but each is compared with the one that does. Panics are
/// those of the other service; pulls of `deaf` images ignore their context, as that service does.
pub struct OverCri {
    service: CriImageService,
    calls: AtomicU64,
    answers: Arc<Answers>,
    _runtime: Peer,
}

/// What the service behind the runtime answered, by the number of the call; `None` if it panicked.
type ByCall<T> = Mutex<HashMap<String, Option<Result<T, Error>>>>;

#[derive(Default)]
struct Answers {
    pulls: ByCall<PulledImage>,
    sizes: ByCall<u64>,
    refs: ByCall<Option<ImageRef>>,
}

impl OverCri {
    pub fn new(service: Arc<dyn ImageService>) -> Self {
        let answers = Arc::new(Answers::default());
        let kept = Arc::clone(&answers);
        let runtime = Peer::start(move |call| answer(&*service, &kept, call).into());
        let service = CriImageService::builder(runtime.path().to_str().unwrap()).build().unwrap();
        OverCri { service, calls: AtomicU64::new(0), answers, _runtime: runtime }
    }

    /// Returns the number of a new call, and the image with the annotation that holds it.
    fn numbered(&self, method: &str, image: &ImageSpec) -> (String, ImageSpec) {
        let number = format!("{method} {}", self.calls.fetch_add(1, Ordering::Relaxed));
        let mut image = image.clone();
        image.annotations.insert(CALL.to_owned(), number.clone());
        (number, image)
    }
}

impl ImageService for OverCri {
    fn pull_image(&self, cx: &PullContext, request: &PullRequest) -> Result<PulledImage, Error> {
        let cx = if request.image.image.contains("deaf") { &PullContext::new() } else { cx };
        let mut request = request.clone();
        let (number, image) = self.numbered("pull", &request.image);
        request.image = image;
        let outcome = self.service.pull_image(cx, &request);
        compared(outcome, self.answers.pulls.lock().remove(&number), |pulled| pulled.image_ref.clone())
    }

    fn image_size(&self, cx: &PullContext, image: &ImageSpec) -> Result<u64, Error> {
        let (number, image) = self.numbered("size", image);
        let outcome = self.service.image_size(cx, &image);
        compared(outcome, self.answers.sizes.lock().remove(&number), |size| *size)
    }

    fn image_ref(&self, cx: &PullContext, image: &ImageSpec) -> Result<Option<ImageRef>, Error> {
        let (number, image) = self.numbered("ref", image);
        let outcome = self.service.image_ref(cx, &image);
        compared(outcome, self.answers.refs.lock().remove(&number), Clone::clone)
    }

    fn list_images(&self, cx: &PullContext) -> Result<Vec<ImageInfo>, Error> {
        self.service.list_images(cx)
    }

    fn remove_image(&self, cx: &PullContext, image: &ImageSpec) -> Result<(), Error> {
        self.service.remove_image(cx, image)
    }

    fn image_fs_info(&self, cx: &PullContext) -> Result<ImageFsInfo, Error> {
        self.service.image_fs_info(cx)
    }
}

/// Returns the answer of the service behind the runtime, after a comparison with what came through the socket; what came,
/// if the call ended before the answer.
fn compared<T, P: PartialEq + Debug>(
    came: Result<T, Error>,
    answer: Option<Option<Result<T, Error>>>,
    part: impl Fn(&T) -> P,
) -> Result<T, Error> {
    let ended = came.as_ref().is_err_and(|error| {
        matches!(error.kind(), ErrorKind::Cancelled | ErrorKind::Timeout | ErrorKind::InvalidReference)
    });
    let Some(answer) = answer.filter(|_| !ended) else { return came };
    let answer = answer.expect("the service panicked");
    match (&came, &answer) {
        (Ok(came), Ok(answer)) => assert_eq!(part(came), part(answer)),
        (Err(came), Err(answer)) if code(answer.kind()) != UNKNOWN => assert_eq!(came.kind(), answer.kind()),
        (Err(came), Err(_)) => assert_eq!(came.kind(), ErrorKind::Unavailable),
        // An image ref that is empty, which kubelet takes for a broken answer.
        (Err(came), Ok(_)) => assert_eq!(came.kind(), ErrorKind::Protocol),
        (Ok(_), Err(answer)) => panic!("{answer}"),
    }
    answer
}

/// The requests of ImageService, which all have the image in their first field.
#[derive(Clone, PartialEq, Message)]
struct AnyRequest {
    #[prost(message, optional, tag = "1")]
    image: Option<RequestedImage>,
}

#[derive(Clone, PartialEq, Message)]
struct RequestedImage {
    #[prost(string, tag = "1")]
    image: String,
    #[prost(btree_map = "string, string", tag = "2")]
    annotations: BTreeMap<String, String>,
}

/// Answers a call as a runtime does, and keeps what the service answered.
fn answer(service: &dyn ImageService, answers: &Answers, call: &Call) -> Vec<u8> {
    let cx = PullContext::new().with_cancel(&call.token);
    let mut image = AnyRequest::decode(&call.message[..]).unwrap().image.unwrap_or_default();
    let number = image.annotations.remove(CALL).unwrap_or_default();
    let mut spec = ImageSpec::from(image.image.as_str());
    spec.annotations = image.annotations;
    let found =
        |id: &ImageRef, size: u64| field(1, [field(1, id.as_str()), cri_peer::number(4, size)].concat());
    match (call.method(), number.split(' ').next()) {
        ("PullImage", _) => {
            let mut request = PullRequest::new(1, spec.image.as_str());
            request.image = spec;
            let pulled = || service.pull_image(&cx, &request);
            kept(&answers.pulls, number, pulled, |pulled| field(1, pulled.image_ref.as_str()))
        }
        ("ImageStatus", Some("size")) => {
            let size = || service.image_size(&cx, &spec);
            kept(&answers.sizes, number, size, |size| found(&ImageRef::new("id"), *size))
        }
        ("ImageStatus", Some("ref")) => {
            let id = || service.image_ref(&cx, &spec);
            kept(&answers.refs, number, id, |id| id.as_ref().map_or(Vec::new(), |id| found(id, 1)))
        }
        ("ImageStatus", _) => cri_peer::message(&[]),
        ("ListImages", _) => {
            let images = service.list_images(&cx).unwrap().into_iter();
            let listed = images.flat_map(|image| field(1, field(1, image.image_ref.as_str())));
            cri_peer::message(&listed.collect::<Vec<u8>>())
        }
        (method, _) => panic!("{method} is not answered"),
    }
}

/// Asks the service, keeps its answer under the number of the call, and returns it as bytes.
fn kept<T: Clone>(
    answers: &ByCall<T>,
    number: String,
    ask: impl FnOnce() -> Result<T, Error>,
    message: impl FnOnce(&T) -> Vec<u8>,
) -> Vec<u8> {
    let answer = catch_unwind(AssertUnwindSafe(ask)).ok();
    let bytes = match &answer {
        Some(Ok(answer)) => cri_peer::message(&message(answer)),
        Some(Err(error)) => cri_peer::status(code(error.kind()), error.message()),
        None => cri_peer::status(UNKNOWN, "the service panicked"),
    };
    answers.lock().insert(number, answer);
    bytes
}

const UNKNOWN: &str = "2";

/// The code that a runtime gives for an error of this kind: Unknown, unless there is one of its own.
fn code(kind: ErrorKind) -> &'static str {
    match kind {
        ErrorKind::InvalidReference => "3",
        ErrorKind::Timeout => "4",
        ErrorKind::NotFound => "5",
        ErrorKind::Denied => "7",
        ErrorKind::RateLimited => "8",
        ErrorKind::Unsupported => "12",
        ErrorKind::Unavailable => "14",
        ErrorKind::Unauthorized => "16",
        _ => UNKNOWN,
    }
}
