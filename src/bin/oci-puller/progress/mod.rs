//! Shows the progress of pulls on standard error: as bars on a terminal, as lines elsewhere, or as JSON.

mod bars;
mod image;
mod json;
mod lines;
mod ticker;

use std::io::{IsTerminal, stderr};
use std::sync::Arc;

use clap::ValueEnum;
use oci_puller::progress::{Progress, ProgressEvent};
use oci_puller::{ErrorKind, PullResult};
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
    /// A JSON object for each event and each message; --help lists the fields
    Json,
    /// Nothing
    None,
}

/// The form in which progress is shown.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    Nothing,
    Bars,
    Lines,
    Json,
}

/// Shows the progress of the pulls of one run.
pub(crate) struct ProgressView {
    images: Arc<Mutex<Vec<Image>>>,
    ticker: Option<Ticker>,
    form: Form,
}

impl ProgressView {
    /// Shows the pulls of these images, until [`end`](Self::end).
    pub(crate) fn new<'a>(images: impl IntoIterator<Item = &'a str>, shown: Shown) -> Arc<Self> {
        let images: Arc<Mutex<Vec<_>>> = Arc::new(Mutex::new(images.into_iter().map(Image::new).collect()));
        let form = match shown {
            Shown::None => Form::Nothing,
            Shown::Json => Form::Json,
            Shown::Bars => Form::Bars,
            Shown::Auto if can_show_bars() => Form::Bars,
            Shown::Auto | Shown::Lines => Form::Lines,
        };
        let shared = Arc::clone(&images);
        let ticker = match form {
            Form::Nothing => None,
            Form::Bars => Ticker::start(move |stopped| bars::draw(&shared, stopped)),
            Form::Lines => Ticker::start(move |stopped| lines::repeat(&shared, stopped)),
            Form::Json => Ticker::start(move |stopped| json::repeat(&shared, stopped)),
        };
        Arc::new(ProgressView { images, ticker, form })
    }

    /// Returns the receiver of events of the image at this place.
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
            if result.outcome.as_ref().is_err_and(|error| error.kind() == ErrorKind::DigestMismatch) {
                image.set_damaged();
            }
            image.end(result.outcome.is_ok(), result.pull_duration);
            match (self.form, &result.outcome) {
                (Form::Lines, Ok(pulled)) => lines::done(image, pulled, result),
                (Form::Json, _) => json::ended(image, result),
                _ => {}
            }
        });
    }

    /// Returns the bytes that came for images whose pulls failed, and that were kept.
    pub(crate) fn fetched_in_vain(&self) -> u64 {
        let images = self.images.lock();
        images.iter().filter(|image| image.state == State::Failed).map(|image| image.received()).sum()
    }

    /// Stops the regular lines, and removes the bars.
    pub(crate) fn end(&self) {
        if let Some(ticker) = &self.ticker {
            ticker.end();
        }
    }

    fn event(&self, place: usize, event: &ProgressEvent) {
        self.at(place, |image| {
            match self.form {
                Form::Lines => lines::event(image, event),
                Form::Json => json::event(image, event),
                Form::Nothing | Form::Bars => {}
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

/// Returns whether standard error is a terminal that can draw bars.
fn can_show_bars() -> bool {
    stderr().is_terminal() && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
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
