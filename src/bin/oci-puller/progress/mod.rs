//! Watches the pulls of one run, and shows them: as bars on a terminal, as lines elsewhere.

mod bars;
mod image;
mod lines;
mod rate;
mod ticker;

use std::io::{IsTerminal, stderr};
use std::sync::Arc;

use clap::ValueEnum;
use oci_puller::PullResult;
use oci_puller::progress::{Progress, ProgressEvent};
use parking_lot::Mutex;

use image::{Image, State};
use ticker::Ticker;

/// How progress is shown.
#[derive(Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Shown {
    /// Bars on a terminal that can show them, else lines
    Auto,
    /// A bar for each image
    Bars,
    /// A line for each event
    Lines,
    /// Nothing
    None,
}

/// Watches the pulls of one run.
pub(crate) struct ProgressView {
    images: Arc<Mutex<Vec<Image>>>,
    ticker: Option<Ticker>,
    has_lines: bool,
}

impl ProgressView {
    /// Watches the pulls of these images.
    pub(crate) fn new<'a>(images: impl IntoIterator<Item = &'a str>, shown: Shown) -> Arc<Self> {
        let images: Arc<Mutex<Vec<_>>> = Arc::new(Mutex::new(images.into_iter().map(Image::new).collect()));
        let can_have_bars =
            stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb");
        let has_bars = shown == Shown::Bars || (shown == Shown::Auto && can_have_bars);
        let shared = Arc::clone(&images);
        let ticker = match shown {
            Shown::None => None,
            _ if has_bars => Ticker::start(move |stopped| bars::draw(&shared, stopped)),
            _ => Ticker::start(move |stopped| lines::repeat(&shared, stopped)),
        };
        let has_lines = shown != Shown::None && !has_bars;
        Arc::new(ProgressView { images, ticker, has_lines })
    }

    /// What the pull of the image at this place is to report to.
    pub(crate) fn progress(self: &Arc<Self>, place: usize) -> Arc<dyn Progress> {
        Arc::new(ImageProgress { view: Arc::clone(self), place })
    }

    /// Shows that the image at this place, whose layers have these bytes, is unpacked.
    #[cfg(feature = "unpack")]
    pub(crate) fn start_unpacking(&self, place: usize, bytes: u64) {
        self.at(place, |image| image.start_unpacking(bytes));
    }

    /// Notes how a pull ended.
    pub(crate) fn ended(&self, place: usize, result: &PullResult) {
        self.at(place, |image| {
            image.end(result.outcome.is_ok(), result.pull_duration);
            if self.has_lines
                && let Ok(pulled) = &result.outcome
            {
                lines::done(image, pulled, result);
            }
        });
    }

    /// Returns the bytes that came for images whose pulls failed, and that were kept.
    pub(crate) fn fetched_in_vain(&self) -> u64 {
        let images = self.images.lock();
        images.iter().filter(|image| image.state == State::Failed).map(|image| image.fetched).sum()
    }

    /// Takes the bars down, and tells no more lines.
    pub(crate) fn end(&self) {
        if let Some(ticker) = &self.ticker {
            ticker.end();
        }
    }

    fn event(&self, place: usize, event: &ProgressEvent) {
        self.at(place, |image| {
            if self.has_lines {
                lines::event(image, event);
            }
            image.event(event);
        });
    }

    fn at(&self, place: usize, act: impl FnOnce(&mut Image)) {
        if let Some(image) = self.images.lock().get_mut(place) {
            act(image);
        }
    }
}

struct ImageProgress {
    view: Arc<ProgressView>,
    place: usize,
}

impl Progress for ImageProgress {
    fn event(&self, event: &ProgressEvent) {
        self.view.event(self.place, event);
    }
}
