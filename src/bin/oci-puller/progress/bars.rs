//! Bars on a terminal: a line for each image, drawn ten times a second.

use std::convert::Infallible;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle};
use parking_lot::Mutex;

use super::image::{Image, State, amount, joined};
use crate::stderr;

const FRAME: Duration = Duration::from_millis(100);
/// Columns and rows of a terminal that does not report its size.
const USUAL_SIZE: (usize, usize) = (80, 24);

/// The widest bar, columns.
const MAX_BAR: usize = 60;

/// In fewer columns, the note about a host that is waited for takes the place of the bar.
const NARROW: usize = 60;

/// Draws the images until the end.
pub(super) fn draw(images: &Mutex<Vec<Image>>, stopped: &Receiver<Infallible>) {
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
            line.set_message(joined(summed(images), columns));
        }
    }

    /// Adds or removes lines, so that there are `wanted`.
    fn fit(&mut self, wanted: usize) {
        while self.lines.len() < wanted {
            // The default style would be drawn for a moment.
            let line = ProgressBar::new(0).with_style(style("{wide_msg}", true));
            self.lines.push(self.bars.add(line));
        }
        for line in self.lines.drain(wanted..) {
            self.bars.remove(&line);
        }
    }
}

/// The widths and styles of one frame.
struct Layout {
    columns: usize,
    /// Columns of the names.
    name: usize,
    /// Columns of the text beside a bar.
    room: usize,
    is_ascii: bool,
    running: ProgressStyle,
    done: ProgressStyle,
    failed: ProgressStyle,
    /// A note without a bar.
    note: ProgressStyle,
    count: ProgressStyle,
}

impl Layout {
    fn new(images: &[Image], columns: usize) -> Self {
        let longest = images.iter().map(|image| image.name.chars().count()).max().unwrap_or(0);
        let name = longest.min(columns * 28 / 100);
        // Percent and bytes; from 60 columns on also rate and time left, from 100 on the host.
        let text = match columns {
            0..NARROW => 20,
            NARROW..100 => 49,
            _ => 72,
        };
        let bar = columns.saturating_sub(name + 3 + text).clamp(6, MAX_BAR);
        let is_ascii = !shows_unicode(|name| std::env::var(name).ok());
        let has_colours = std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty());
        let style = |colour: &str| {
            let colour = if has_colours { colour } else { "" };
            style(&format!("{{prefix}}  {{bar:{bar}{colour}}} {{wide_msg}}"), is_ascii)
        };
        Layout {
            columns,
            name,
            room: columns.saturating_sub(name + 3 + bar),
            is_ascii,
            running: style(".cyan/black.bright"),
            done: style(".green/black.bright"),
            failed: style(".red/black.bright"),
            note: self::style("{prefix}  {wide_msg}", is_ascii),
            count: self::style(if has_colours { "{wide_msg:.dim}" } else { "{wide_msg}" }, is_ascii),
        }
    }

    fn draw(&self, line: &ProgressBar, image: &Image, now: Instant) {
        let name = fitted(&image.name, self.name, self.is_ascii);
        line.set_prefix(format!("{name:<width$}", width = self.name));
        if self.columns < NARROW && image.is_waiting(now) {
            line.set_style(self.note.clone());
            line.set_message(image.note(now, self.columns.saturating_sub(self.name + 2)));
            return;
        }
        line.set_style(match image.state {
            State::Queued | State::Running => self.running.clone(),
            State::Pulled(_) => self.done.clone(),
            State::Failed => self.failed.clone(),
        });
        line.set_length(image.total().max(1));
        line.set_position(match image.state {
            State::Pulled(_) => image.total().max(1),
            _ => image.position(),
        });
        line.set_message(image.note(now, self.room));
    }
}

fn style(template: &str, is_ascii: bool) -> ProgressStyle {
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    style.progress_chars(if is_ascii { "=>-" } else { "━╾─" })
}

/// Returns whether locale and terminal can show more than ASCII.
fn shows_unicode(variable: impl Fn(&str) -> Option<String>) -> bool {
    let set = |name: &&str| variable(name).is_some_and(|value| !value.is_empty());
    let locale = ["LC_ALL", "LC_CTYPE", "LANG"].into_iter().find(set).and_then(&variable);
    let is_utf8 = locale.is_some_and(|locale| {
        let locale = locale.to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    });
    let terminal = variable("TERM").unwrap_or_default();
    is_utf8 && !["linux", "ansi", "dumb"].contains(&&*terminal) && !terminal.starts_with("vt")
}

/// Returns the images that fit on the screen, in the order given. Of those that have begun, the complete ones are
/// left out first, from the earliest on.
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

/// Returns the parts that describe all images together, the most important first.
fn summed(images: &[Image]) -> Vec<String> {
    let sum = |of: &dyn Fn(&Image) -> u64| images.iter().map(of).fold(0, u64::saturating_add);
    let (done, total) = (sum(&Image::position), sum(&|image| image.total()));
    let has = |state: fn(&State) -> bool| images.iter().filter(|image| state(&image.state)).count();
    let pulled = has(|state| matches!(state, State::Pulled(_)));
    let failed = has(|state| *state == State::Failed);
    let queued = has(|state| *state == State::Queued);
    let mut parts = vec![format!("{pulled} of {} images", images.len())];
    parts.extend((failed > 0).then(|| format!("{failed} failed")));
    if total > 0 {
        parts.extend(amount(done, total, sum(&|image| image.per_second())));
    }
    parts.extend((queued > 0).then(|| format!("{queued} waiting")));
    parts
}

/// Returns the name, or as much of its end as fits.
fn fitted(name: &str, width: usize, is_ascii: bool) -> String {
    let length = name.chars().count();
    if length <= width {
        return name.to_owned();
    }
    let cut = if is_ascii { "~" } else { "…" };
    let end: String = name.chars().skip(length + 1 - width).collect();
    format!("{cut}{end}")
}

/// Returns the terminal's columns and rows.
fn size() -> (usize, usize) {
    match rustix::termios::tcgetwinsize(std::io::stderr()) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => (size.ws_col.into(), size.ws_row.into()),
        _ => USUAL_SIZE,
    }
}

#[cfg(test)]
mod tests {
    use oci_puller::image::Digest;
    use oci_puller::progress::ProgressEvent;

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
    fn running_images_are_shown_before_complete_ones() {
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
    fn the_sum_line_leaves_out_what_does_not_fit() {
        let states = [State::Pulled(Duration::ZERO), State::Failed, State::Queued, State::Running];
        let mut images = images(&states);
        let sum = |images: &[Image], columns| joined(summed(images), columns);
        assert_eq!(sum(&images, 80), "1 of 4 images  1 failed  1 waiting");
        images[3].event(&ProgressEvent::Resolved {
            host: String::new(),
            manifest: Digest::sha256(b"1"),
            blobs: 1,
            bytes: 25_000_000,
        });
        assert_eq!(sum(&images, 80), "1 of 4 images  1 failed    0%    0.0/25.0 MB  1 waiting");
        assert_eq!(sum(&images, 40), "1 of 4 images  1 failed    0%");
        assert_eq!(sum(&images[..1], 40), "1 of 1 images");
    }

    #[test]
    fn the_end_of_a_long_name_is_shown() {
        assert_eq!(fitted("team/app:1.2", 12, false), "team/app:1.2");
        assert_eq!(fitted("team/app:1.2", 8, false), "…app:1.2");
        assert_eq!(fitted("team/app:1.2", 8, true), "~app:1.2");
    }

    #[test]
    fn locale_and_terminal_decide_between_ascii_and_unicode() {
        for (variables, expected) in [
            (&[("LANG", "en_GB.UTF-8"), ("TERM", "xterm-256color")][..], true),
            (&[("LC_ALL", "C"), ("LANG", "en_GB.UTF-8"), ("TERM", "xterm")], false),
            (&[("LC_ALL", ""), ("LC_CTYPE", "C.utf8"), ("TERM", "screen")], true),
            (&[("LANG", "en_GB.UTF-8"), ("TERM", "linux")], false),
            (&[("LANG", "en_GB.UTF-8"), ("TERM", "vt100")], false),
            (&[("TERM", "xterm")], false),
        ] {
            let variable = |wanted: &str| {
                let found = variables.iter().find(|(name, _)| *name == wanted);
                found.map(|(_, value)| (*value).to_owned())
            };
            assert_eq!(shows_unicode(variable), expected, "{variables:?}");
        }
    }
}
