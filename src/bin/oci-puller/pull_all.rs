//! Many pulls through one puller, with someone watching.

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use crossbeam_channel::unbounded;
use oci_puller::{ImagePuller, PullContext, PullRequest, PullResult};

use crate::names::short;
use crate::output::{Align, Table};
use crate::progress::{ProgressView, Shown};
use crate::signals::Signals;
use crate::units::{Bytes, Time};

/// Pulls the images, shows how that goes, and hands over each result as it comes, with the image's
/// place in the list. Returns the bytes that came for images whose pulls failed.
pub(crate) fn pull_all(
    puller: &dyn ImagePuller,
    images: &[String],
    signals: &Signals,
    deadline: Option<Instant>,
    shown: Shown,
    mut each: impl FnMut(usize, PullResult),
) -> u64 {
    let view = ProgressView::new(images.iter().map(String::as_str), shown);
    let (results, answers) = unbounded();
    thread::scope(|scope| {
        // The serial puller makes its caller wait while its queue is full.
        let ask = || {
            for (place, image) in images.iter().enumerate() {
                let cx = context(&view, place, signals, deadline);
                puller.pull_image(cx, PullRequest::new(place as u64, image.as_str()), results.clone());
            }
        };
        scope.spawn(ask);
        for result in answers.iter().take(images.len()) {
            let place = usize::try_from(result.id).unwrap_or_default();
            view.ended(place, &result);
            each(place, result);
        }
    });
    view.end();
    view.fetched_in_vain()
}

fn context(
    view: &Arc<ProgressView>,
    place: usize,
    signals: &Signals,
    deadline: Option<Instant>,
) -> PullContext {
    let cx = PullContext::new().with_cancel(signals.token()).with_progress(view.progress(place));
    match deadline {
        Some(deadline) => cx.with_deadline(deadline),
        None => cx,
    }
}

/// Results of pulls that succeeded.
pub(crate) fn table() -> Table<7> {
    Table::new([
        ("IMAGE", Align::Left),
        ("IMAGE REF", Align::Left),
        ("SIZE", Align::Right),
        ("WAIT", Align::Right),
        ("PULL TIME", Align::Right),
        ("FETCHED", Align::Right),
        ("REUSED", Align::Right),
    ])
}

/// Adds an image, if it came.
pub(crate) fn add(table: &mut Table<7>, image: String, result: &PullResult) {
    let Ok(pulled) = &result.outcome else { return };
    table.row([
        image,
        short(pulled.image_ref.as_str()).to_owned(),
        result.image_size.map_or_else(|| "?".to_owned(), |size| Bytes(size).to_string()),
        Time(result.wait_duration).to_string(),
        Time(result.pull_duration).to_string(),
        Bytes(pulled.bytes_fetched).to_string(),
        Bytes(pulled.bytes_reused).to_string(),
    ]);
}
