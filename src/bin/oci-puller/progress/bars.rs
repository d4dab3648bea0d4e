//! Bars on a terminal: a line an image, drawn ten times a second.

use std::convert::Infallible;
use std::sync::Arc;
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;

use super::image::{Image, State};
use crate::stderr;

const FRAME: Duration = Duration::from_millis(100);
/// Where the terminal does not tell its size: columns, rows.
const USUAL_SIZE: (usize, usize) = (80, 24);

/// The thread that draws.
pub(super) struct Bars(Mutex<Option<(Sender<Infallible>, JoinHandle<()>)>>);

impl Bars {
    /// Draws the images until the end; `None` if no thread is to be had.
    pub(super) fn start(images: &Arc<Mutex<Vec<Image>>>) -> Option<Self> {
        let images = Arc::clone(images);
        let (stop, stopped) = bounded(0);
        let thread =
            thread::Builder::new().name("bars".into()).spawn(move || draw(&images, &stopped)).ok()?;
        Some(Bars(Mutex::new(Some((stop, thread)))))
    }

    /// Takes the bars down.
    pub(super) fn end(&self) {
        if let Some((stop, thread)) = self.0.lock().take() {
            drop(stop);
            // One that panicked has drawn its last.
            drop(thread.join());
        }
    }
}

impl Drop for Bars {
    fn drop(&mut self) {
        self.end();
    }
}

fn draw(images: &Mutex<Vec<Image>>, stopped: &Receiver<Infallible>) {
    let bars = MultiProgress::with_draw_target(ProgressDrawTarget::stderr());
    stderr::show_bars(Some(bars.clone()));
    let mut lines = Lines { bars, lines: Vec::new() };
    while stopped.recv_timeout(FRAME) == Err(RecvTimeoutError::Timeout) {
        lines.draw(&images.lock(), Instant::now());
    }
    stderr::show_bars(None);
    drop(lines.bars.clear());
}

/// The lines that are on the screen.
struct Lines {
    bars: MultiProgress,
    lines: Vec<ProgressBar>,
}

impl Lines {
    fn draw(&mut self, images: &[Image], now: Instant) {
        let (columns, rows) = size();
        let layout = Layout::new(images, columns);
        // One row for the count, and one for the cursor.
        let shown = shown(images, rows.saturating_sub(2).max(1));
        let count = usize::from(images.len() > 1);
        self.fit(shown.len() + count);
        for (line, image) in self.lines.iter().zip(shown) {
            layout.draw(line, image, now);
        }
        if let (1, Some(line)) = (count, self.lines.last()) {
            line.set_style(layout.count.clone());
            line.set_message(counted(images));
        }
    }

    /// Sees to it that there are so many lines.
    fn fit(&mut self, wanted: usize) {
        while self.lines.len() < wanted {
            self.lines.push(self.bars.add(ProgressBar::new(0)));
        }
        for line in self.lines.drain(wanted..) {
            self.bars.remove(&line);
        }
    }
}

/// How wide what is, in this frame.
struct Layout {
    name: usize,
    running: ProgressStyle,
    done: ProgressStyle,
    failed: ProgressStyle,
    count: ProgressStyle,
}

impl Layout {
    fn new(images: &[Image], columns: usize) -> Self {
        let longest = images.iter().map(|image| image.name.chars().count()).max().unwrap_or(0);
        let name = longest.min(columns / 3);
        let bar = (columns / 5).clamp(6, 30);
        let style = |colour: &str| style(&format!("{{prefix}}  {{bar:{bar}.{colour}}} {{wide_msg}}"));
        Layout {
            name,
            running: style("cyan/black.bright"),
            done: style("green/black.bright"),
            failed: style("red/black.bright"),
            count: style_of_count(),
        }
    }

    fn draw(&self, line: &ProgressBar, image: &Image, now: Instant) {
        line.set_style(match image.state {
            State::Queued | State::Running => self.running.clone(),
            State::Pulled(_) => self.done.clone(),
            State::Failed => self.failed.clone(),
        });
        line.set_prefix(format!("{:<width$}", fitted(&image.name, self.name), width = self.name));
        line.set_length(image.total.max(1));
        line.set_position(match image.state {
            // A repeated layer, or one that another pull fetched, is not counted twice.
            State::Pulled(_) => image.total.max(1),
            _ => image.done().min(image.total),
        });
        line.set_message(image.note(now));
    }
}

fn style(template: &str) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.progress_chars("━╾─")
}

fn style_of_count() -> ProgressStyle {
    style("{wide_msg:.dim}")
}

/// The images that have room on the screen, in the order asked: of those that were begun, the done
/// ones make room first, the earliest before all.
fn shown(images: &[Image], room: usize) -> Vec<&Image> {
    let mut shown: Vec<_> = images.iter().filter(|image| image.state != State::Queued).collect();
    let mut excess = shown.len().saturating_sub(room);
    shown.retain(|image| {
        let goes = excess > 0 && image.state != State::Running;
        excess -= usize::from(goes);
        !goes
    });
    shown.truncate(room);
    shown
}

fn counted(images: &[Image]) -> String {
    let has = |state: fn(&State) -> bool| images.iter().filter(|image| state(&image.state)).count();
    let done = has(|state| matches!(state, State::Pulled(_)));
    let failed = has(|state| *state == State::Failed);
    let queued = has(|state| *state == State::Queued);
    let mut text = format!("{done} of {} images", images.len());
    if queued > 0 {
        text += &format!(", {queued} waiting");
    }
    if failed > 0 {
        text += &format!(", {failed} failed");
    }
    text
}

/// The name, or what fits of its end.
fn fitted(name: &str, width: usize) -> String {
    let length = name.chars().count();
    if length <= width {
        return name.to_owned();
    }
    let end: String = name.chars().skip(length + 1 - width).collect();
    format!("…{end}")
}

/// The terminal's columns and rows.
fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(std::io::stderr()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => USUAL_SIZE,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images(states: &[State]) -> Vec<Image> {
        let numbered = states.iter().enumerate();
        numbered
            .map(|(number, state)| {
                let mut image = Image::new(&number.to_string());
                image.state = *state;
                image
            })
            .collect()
    }

    #[test]
    fn what_runs_is_shown_before_what_is_done() {
        let done = State::Pulled(Duration::ZERO);
        let (queued, running) = (State::Queued, State::Running);
        for (states, room, expected) in [
            (&[done, running, done, queued][..], 9, &["0:latest", "1:latest", "2:latest"][..]),
            (&[done, running, done, queued], 2, &["1:latest", "2:latest"]),
            (&[done, running, done, running], 2, &["1:latest", "3:latest"]),
            (&[running, running, running], 2, &["0:latest", "1:latest"]),
        ] {
            let images = images(states);
            let names: Vec<_> = shown(&images, room).iter().map(|image| image.name.as_str()).collect();
            assert_eq!(names, expected);
        }
    }

    #[test]
    fn images_are_counted() {
        let states = [State::Pulled(Duration::ZERO), State::Failed, State::Queued, State::Running];
        assert_eq!(counted(&images(&states)), "1 of 4 images, 1 waiting, 1 failed");
        assert_eq!(counted(&images(&states[..1])), "1 of 1 images");
    }

    #[test]
    fn of_a_long_name_the_end_is_shown() {
        assert_eq!(fitted("team/app:1.2", 12), "team/app:1.2");
        assert_eq!(fitted("team/app:1.2", 8), "…app:1.2");
    }
}
