//! A node for the image manager: an image service that has images and does as it is told, and a
//! recorder of events.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crossbeam_channel::{Receiver, Sender, unbounded};
use oci_puller::manager::{Event, EventReason, EventSink, ImageManagerBuilder};
use oci_puller::progress::{Progress, ProgressEvent};
use oci_puller::{
    EnsureRequest, EnsureResult, EnsuredImage, Error, ErrorKind, ImageFsInfo, ImageInfo, ImageManager,
    ImagePuller, ImageRef, ImageService, ImageSpec, ParallelImagePuller, PullContext, PullRequest,
    PullSecret, PulledImage, SerialImagePuller,
};

use super::clock::ManualClock;

/// An image service that has images. A pull of an image whose name holds `gate` waits for
/// [`open`](Node::open), of one that holds `deaf` also when it is cancelled; of one that holds `panic`
/// panics; one that was told to fail fails; all others succeed, and the image is there. A look-up of an image
/// whose name holds `held` waits for [`let_look`](Node::let_look).
pub struct Node {
    /// Each pull that begins, by its image.
    pub started: Receiver<String>,
    pub running: AtomicUsize,
    pub most_running: AtomicUsize,
    /// Each pull that ended, and how; but for panics.
    pub ended: Receiver<(String, Option<ErrorKind>)>,
    start: Sender<String>,
    end: Sender<(String, Option<ErrorKind>)>,
    gate: (Sender<()>, Receiver<()>),
    /// Each look-up that begins, by its image.
    pub looked: Receiver<String>,
    look: Sender<String>,
    look_gate: (Sender<()>, Receiver<()>),
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    present: HashSet<String>,
    failures: HashMap<String, Error>,
    inspect_error: Option<Error>,
    calls: Vec<&'static str>,
}

impl Node {
    pub fn new() -> Self {
        let (start, started) = unbounded();
        let (end, ended) = unbounded();
        let (look, looked) = unbounded();
        Node {
            ended,
            end,
            started,
            running: AtomicUsize::new(0),
            most_running: AtomicUsize::new(0),
            start,
            gate: unbounded(),
            looked,
            look,
            look_gate: unbounded(),
            state: Mutex::default(),
        }
    }

    /// The image is there, by the name that the service is asked for it.
    pub fn add(&self, image: &str) {
        self.state.lock().unwrap().present.insert(image.to_owned());
    }

    pub fn remove(&self, image: &str) {
        self.state.lock().unwrap().present.remove(image);
    }

    /// Pulls of the image fail from now on; `None` ends that.
    pub fn fail(&self, image: &str, error: impl Into<Option<Error>>) {
        let failures = &mut self.state.lock().unwrap().failures;
        match error.into() {
            Some(error) => failures.insert(image.to_owned(), error),
            None => failures.remove(image),
        };
    }

    /// Nobody can tell what is there.
    pub fn fail_inspection(&self, error: Error) {
        self.state.lock().unwrap().inspect_error = Some(error);
    }

    /// Lets `pulls` pulls that wait at the gate through, now or later.
    pub fn open(&self, pulls: usize) {
        for _ in 0..pulls {
            self.gate.0.send(()).unwrap();
        }
    }

    /// Lets one look-up that is held go on.
    pub fn let_look(&self) {
        self.look_gate.0.send(()).unwrap();
    }

    /// Waits until this number of look-ups has begun.
    pub fn wait_for_looks(&self, count: usize) {
        (0..count).for_each(|_| drop(self.looked.recv_timeout(super::SOON).expect("a look-up")));
    }

    /// Waits until a pull has begun, and returns its image.
    pub fn next_started(&self) -> String {
        self.started.recv_timeout(super::SOON).expect("a pull begins")
    }

    /// The calls since the last time, in kubelet's names.
    pub fn take_calls(&self) -> Vec<&'static str> {
        std::mem::take(&mut self.state.lock().unwrap().calls)
    }

    fn note(&self, call: &'static str) {
        self.state.lock().unwrap().calls.push(call);
    }

    fn act(&self, cx: &PullContext, image: &str) -> Result<PulledImage, Error> {
        if image.contains("gate") {
            cx.wait_for(&self.gate.1)?;
        }
        if image.contains("deaf") {
            self.gate.1.recv().unwrap();
        }
        if image.contains("panic") {
            panic!("as {image} says");
        }
        let mut state = self.state.lock().unwrap();
        if let Some(error) = state.failures.get(image) {
            return Err(error.clone());
        }
        state.present.insert(image.to_owned());
        let mut pulled = PulledImage::new(id(image));
        pulled.bytes_fetched = 40;
        pulled.bytes_reused = 2;
        Ok(pulled)
    }
}

/// The id of an image of this node.
pub fn id(image: &str) -> ImageRef {
    ImageRef::new(format!("id of {image}"))
}

impl ImageService for Node {
    fn pull_image(&self, cx: &PullContext, request: &PullRequest) -> Result<PulledImage, Error> {
        let image = &request.image.image;
        let now = self.running.fetch_add(1, Ordering::SeqCst) + 1;
        self.most_running.fetch_max(now, Ordering::SeqCst);
        self.note("PullImage");
        self.start.send(image.clone()).unwrap();
        let _running = Running(&self.running);
        let outcome = self.act(cx, image);
        self.end.send((image.clone(), outcome.as_ref().err().map(Error::kind))).unwrap();
        outcome
    }

    fn image_size(&self, _: &PullContext, _: &ImageSpec) -> Result<u64, Error> {
        self.note("GetImageSize");
        Ok(42)
    }

    fn image_ref(&self, cx: &PullContext, image: &ImageSpec) -> Result<Option<ImageRef>, Error> {
        self.note("GetImageRef");
        let _ = self.look.send(image.image.clone());
        if image.image.contains("held") {
            cx.wait_for(&self.look_gate.1)?;
        }
        assert!(!image.image.contains("no-look"), "a panic that is meant");
        let state = self.state.lock().unwrap();
        match &state.inspect_error {
            Some(error) => Err(error.clone()),
            None => Ok(state.present.contains(&image.image).then(|| id(&image.image))),
        }
    }

    fn list_images(&self, _: &PullContext) -> Result<Vec<ImageInfo>, Error> {
        let state = self.state.lock().unwrap();
        Ok(state.present.iter().map(|image| ImageInfo::new(id(image))).collect())
    }

    fn remove_image(&self, _: &PullContext, image: &ImageSpec) -> Result<(), Error> {
        self.remove(&image.image);
        Ok(())
    }

    fn image_fs_info(&self, _: &PullContext) -> Result<ImageFsInfo, Error> {
        Ok(ImageFsInfo::default())
    }
}

struct Running<'a>(&'a AtomicUsize);

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::SeqCst);
    }
}

/// Keeps the events.
pub struct Recorder {
    send: Sender<Event>,
    pub events: Receiver<Event>,
}

impl EventSink for Recorder {
    fn event(&self, event: &Event) {
        self.send.send(event.clone()).unwrap();
    }
}

impl Recorder {
    pub fn new() -> Self {
        let (send, events) = unbounded();
        Recorder { send, events }
    }

    /// The events since the last time.
    pub fn take(&self) -> Vec<Event> {
        self.events.try_iter().collect()
    }

    /// Their reasons.
    pub fn take_reasons(&self) -> Vec<&'static str> {
        self.take().into_iter().map(|event| event.reason.as_str()).collect()
    }

    /// Waits for this number of events with this reason.
    pub fn wait_for(&self, count: usize, reason: EventReason) {
        let mut seen = 0;
        while seen < count {
            let event = self.events.recv_timeout(super::SOON).expect("an event");
            seen += usize::from(event.reason == reason);
        }
    }
}

/// Watches a pull until it waits for its turn, or begins.
pub struct Watch(Sender<&'static str>);

impl Watch {
    /// A context that is watched, and what is seen.
    pub fn context() -> (PullContext, Receiver<&'static str>) {
        let (send, seen) = unbounded();
        (PullContext::new().with_progress(Arc::new(Watch(send))), seen)
    }
}

impl Progress for Watch {
    fn event(&self, event: &ProgressEvent) {
        let seen = match event {
            ProgressEvent::Queued => "queued",
            ProgressEvent::Started => "started",
            _ => return,
        };
        let _ = self.0.send(seen);
    }
}

/// A manager under test, and all that stands around it.
pub struct Bench {
    pub name: &'static str,
    pub manager: ImageManager,
    pub node: Arc<Node>,
    pub clock: Arc<ManualClock>,
    pub events: Arc<Recorder>,
}

/// Which puller the manager is given.
#[derive(Clone, Copy)]
pub enum Kind {
    Serial,
    Parallel(i32),
}

/// The table that each promise is tried on.
pub const BOTH: [Kind; 2] = [Kind::Serial, Kind::Parallel(3)];

impl Bench {
    /// Without throttle and jitter.
    pub fn new(kind: Kind) -> Self {
        Self::with(kind, |builder| builder)
    }

    pub fn with(kind: Kind, set: impl FnOnce(ImageManagerBuilder) -> ImageManagerBuilder) -> Self {
        Self::over(kind, Arc::new(Node::new()), set)
    }

    pub fn over(
        kind: Kind,
        node: Arc<Node>,
        set: impl FnOnce(ImageManagerBuilder) -> ImageManagerBuilder,
    ) -> Self {
        let service = super::served(&node);
        let (name, puller): (_, Arc<dyn ImagePuller>) = match kind {
            Kind::Serial => ("serial", Arc::new(SerialImagePuller::new(Arc::clone(&service)).unwrap())),
            Kind::Parallel(limit) => {
                ("parallel", Arc::new(ParallelImagePuller::new(Arc::clone(&service), Some(limit)).unwrap()))
            }
        };
        let (clock, events) = (Arc::new(ManualClock::new()), Arc::new(Recorder::new()));
        let builder = ImageManager::builder(service)
            .puller(puller)
            .clock(Arc::clone(&clock))
            .events(Arc::clone(&events))
            .qps(0.0)
            .jitter(0.0);
        Bench { name, manager: set(builder).build().unwrap(), node, clock, events }
    }
}

impl Bench {
    /// Has the image, on this thread.
    pub fn ensure(&self, request: &EnsureRequest) -> Result<EnsuredImage, Error> {
        self.manager.ensure_image_exists(&PullContext::new(), request)
    }

    /// Submits the request, and waits until it waits for its turn.
    pub fn enqueue(&self, request: EnsureRequest, results: &Sender<EnsureResult>) {
        let (cx, seen) = Watch::context();
        self.manager.submit(cx, request, results.clone());
        assert_eq!(seen.recv_timeout(super::SOON), Ok("queued"), "{}", self.name);
    }

    /// Submits the request, and waits until its pull has begun.
    pub fn begin(&self, request: EnsureRequest, results: &Sender<EnsureResult>) {
        let image = request.image.image.clone();
        self.manager.submit(PullContext::new(), request, results.clone());
        assert!(self.node.next_started().starts_with(&image), "{}", self.name);
    }
}

/// Pull secrets with this password, for a registry that no test asks. They are no object of an API server.
pub fn secrets(password: &str) -> Vec<PullSecret> {
    let auth = serde_json::json!({ "username": "user", "password": password });
    vec![PullSecret::docker_config_json(serde_json::json!({ "auths": { "elsewhere.io": auth } }).to_string())]
}

/// An error of this kind.
pub fn error(kind: ErrorKind) -> Error {
    Error::new(kind, "as the test says")
}
