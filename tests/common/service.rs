//! An image service whose behaviour depends on the image's name.

use std::fs;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, unbounded};
use oci_puller::{
    Error, ErrorKind, ImageFsInfo, ImageInfo, ImageRef, ImageService, ImageSpec, PullContext, PullRequest,
    PulledImage,
};

/// The beginning of an image's name decides the outcome of its pull:
///
/// | name | what its pull does |
/// |---|---|
/// | `gate/…` | waits for [`open`](Scripted::open), or its context |
/// | `named/NAME` | gives its thread this name, and waits for [`open`](Scripted::open), or its context |
/// | `deaf/…` | waits for [`open`](Scripted::open) only |
/// | `panic/…` | panics |
/// | `sizepanic/…` | succeeds, and panics when asked for the size |
/// | `fail/…` | fails with `NotFound` |
/// | `anonymous/…` | succeeds with an empty ref |
/// | `sizeless/…` | succeeds; its size is an error |
/// | `slow/…` | succeeds after 2 ms |
/// | else | succeeds, 42 bytes |
pub struct Scripted {
    pub started: Receiver<String>,
    pub running: AtomicUsize,
    pub most_running: AtomicUsize,
    pub size_asked: AtomicUsize,
    start: Sender<String>,
    gate: (Sender<()>, Receiver<()>),
}

impl Scripted {
    pub fn new() -> Self {
        let (start, started) = unbounded();
        Scripted {
            started,
            running: AtomicUsize::new(0),
            most_running: AtomicUsize::new(0),
            size_asked: AtomicUsize::new(0),
            start,
            gate: unbounded(),
        }
    }

    /// Lets `pulls` pulls that wait at the gate through, now or later.
    pub fn open(&self, pulls: usize) {
        for _ in 0..pulls {
            self.gate.0.send(()).unwrap();
        }
    }

    /// Waits until a pull has begun, and returns its image.
    pub fn next_started(&self) -> String {
        self.started.recv_timeout(super::SOON).expect("a pull begins")
    }

    fn act(&self, cx: &PullContext, image: &str) -> Result<PulledImage, Error> {
        let (script, rest) = image.split_once('/').unwrap_or_default();
        match script {
            "gate" => cx.wait_for(&self.gate.1).map(drop)?,
            "named" => {
                fs::write("/proc/thread-self/comm", rest).unwrap();
                cx.wait_for(&self.gate.1).map(drop)?;
            }
            "deaf" => self.gate.1.recv().unwrap(),
            "panic" => panic!("as {image} says"),
            "fail" => return Err(Error::new(ErrorKind::NotFound, "as its name says")),
            "anonymous" => return Ok(PulledImage::new(ImageRef::default())),
            "slow" => cx.sleep(Duration::from_millis(2))?,
            _ => {}
        }
        Ok(PulledImage::new(ImageRef::new(format!("id of {image}"))))
    }
}

/// Counts a pull that runs, also when it panics.
struct Running<'a>(&'a Scripted);

impl<'a> Running<'a> {
    fn begin(service: &'a Scripted) -> Self {
        let now = service.running.fetch_add(1, Ordering::SeqCst) + 1;
        service.most_running.fetch_max(now, Ordering::SeqCst);
        Running(service)
    }
}

impl Drop for Running<'_> {
    fn drop(&mut self) {
        self.0.running.fetch_sub(1, Ordering::SeqCst);
    }
}

impl ImageService for Scripted {
    fn pull_image(&self, cx: &PullContext, request: &PullRequest) -> Result<PulledImage, Error> {
        let _running = Running::begin(self);
        self.start.send(request.image.image.clone()).unwrap();
        self.act(cx, &request.image.image)
    }

    fn image_size(&self, _: &PullContext, image: &ImageSpec) -> Result<u64, Error> {
        self.size_asked.fetch_add(1, Ordering::SeqCst);
        match image.image.split('/').next().unwrap_or("") {
            "sizeless" => Err(Error::new(ErrorKind::Store, "as its name says")),
            "sizepanic" => panic!("as {} says", image.image),
            _ => Ok(42),
        }
    }

    fn image_ref(&self, _: &PullContext, _: &ImageSpec) -> Result<Option<ImageRef>, Error> {
        Ok(None)
    }

    fn list_images(&self, _: &PullContext) -> Result<Vec<ImageInfo>, Error> {
        Ok(Vec::new())
    }

    fn remove_image(&self, _: &PullContext, _: &ImageSpec) -> Result<(), Error> {
        Ok(())
    }

    fn image_fs_info(&self, _: &PullContext) -> Result<ImageFsInfo, Error> {
        Ok(ImageFsInfo::default())
    }
}
