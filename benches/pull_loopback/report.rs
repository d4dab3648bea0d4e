//! The figures, as text, for the README, and as JSON.

use serde_json::{Value, json};

use super::measure::Usage;
use super::rounds::{Figures, Measured};
use super::settings::Settings;
use super::units::{bytes_for_people, median, megabytes, ratio, seconds};
use super::wide::WideArea;

impl Figures {
    fn median_of(&self, what: impl Fn(&Usage) -> f64) -> f64 {
        median(self.runs.iter().map(what))
    }

    fn wall(&self) -> f64 {
        self.median_of(|run| run.wall.as_secs_f64())
    }

    fn cpu(&self) -> Option<f64> {
        self.if_seen(self.median_of(|run| run.cpu.as_secs_f64()))
    }

    fn memory(&self) -> Option<f64> {
        self.if_seen(self.median_of(|run| run.memory as f64))
    }

    fn calls(&self) -> Option<f64> {
        self.if_seen(self.calls?.count as f64)
    }

    fn copied(&self) -> Option<f64> {
        self.if_seen(self.calls?.copied as f64)
    }

    /// Nothing, where another process does the work.
    fn if_seen(&self, figure: f64) -> Option<f64> {
        self.contender.works_by_itself().then_some(figure)
    }
}

impl Measured {
    fn named(&self, name: &str) -> Option<&Figures> {
        self.figures.iter().find(|figures| figures.contender.name() == name)
    }

    /// How many times the floor's: the median of what it was in each round.
    fn ratio(&self, figures: &Figures, what: impl Fn(&Usage) -> f64) -> Option<f64> {
        let floor = self.named(&figures.contender.floor())?;
        Some(median(figures.runs.iter().zip(&floor.runs).map(|(run, floor)| what(run) / what(floor))))
    }

    fn wall_ratio(&self, figures: &Figures) -> Option<f64> {
        self.ratio(figures, |run| run.wall.as_secs_f64())
    }

    fn cpu_ratio(&self, figures: &Figures) -> Option<f64> {
        figures.cpu()?;
        self.ratio(figures, |run| run.cpu.as_secs_f64())
    }
}

/// A number, or `-` where there is none.
fn or_dash(number: Option<f64>, print: impl Fn(f64) -> String) -> String {
    number.map_or_else(|| "-".to_owned(), print)
}

// ---- for people ----

pub(crate) fn heading(settings: &Settings) -> String {
    let place = match settings.wide {
        Some(WideArea { round_trip, rate }) => {
            format!("{round_trip} ms away, with {rate} Mbit/s a connection and slow start")
        }
        None => "on the loopback device".to_owned(),
    };
    format!(
        "Served by {} {place},
at {} of the full size; medians of {} rounds. Wall and CPU are in seconds, and as many times the
floor's of the same round (×); peak memory and the bytes copied between program and system are in MB.",
        settings.server.name(),
        settings.scale,
        settings.rounds,
    )
}

pub(crate) fn table(measured: &Measured) -> String {
    let mut text = format!(
        "\n{}\n{:<31}{:>8}{:>8}{:>9}{:>8}{:>9}{:>9}{:>9}\n",
        measured.title, "", "wall", "×", "CPU", "×", "memory", "calls", "copied"
    );
    for figures in &measured.figures {
        text += &format!(
            "{:<31}{:>8}{:>8}{:>9}{:>8}{:>9}{:>9}{:>9}\n",
            figures.contender.name(),
            seconds(figures.wall()),
            or_dash(measured.wall_ratio(figures), ratio),
            or_dash(figures.cpu(), seconds),
            or_dash(measured.cpu_ratio(figures), ratio),
            or_dash(figures.memory(), megabytes),
            or_dash(figures.calls(), |count| count.to_string()),
            or_dash(figures.copied(), megabytes),
        );
    }
    text
}

// ---- for the README ----

/// A row a work, and the sums; a column for each contender that was measured on every work.
pub(crate) fn markdown(all: &[Measured]) -> String {
    let Some(first) = all.first() else { return String::new() };
    let names = first.figures.iter().map(|figures| figures.contender.name());
    let names: Vec<_> = names.filter(|name| all.iter().all(|work| work.named(name).is_some())).collect();
    let mut rows: Vec<(String, Vec<String>)> = all
        .iter()
        .map(|work| (work.title.clone(), names.iter().map(|name| wall_cell(work, name)).collect()))
        .collect();
    let mut row = |title: &str, cell: &dyn Fn(&str) -> String| {
        rows.push((title.to_owned(), names.iter().map(|name| cell(name)).collect()));
    };
    row("CPU seconds, all of these", &|name| cpu_cell(all, name));
    row("peak memory, MB, the highest of these", &|name| {
        or_dash(
            each(all, name, Figures::memory).map(|peaks| peaks.into_iter().fold(0.0, f64::max)),
            megabytes,
        )
    });
    row("system calls, all of these", &|name| {
        or_dash(total(all, name, Figures::calls), |count| count.to_string())
    });
    row("MB copied to and from the system", &|name| {
        or_dash(total(all, name, Figures::copied), |bytes| format!("{:.0}", bytes / 1e6))
    });

    // What was not looked at on any work has no row.
    rows.retain(|(_, cells)| cells.iter().any(|cell| cell != "-"));
    let mut text = format!("| wall seconds | {} |\n|---|{}\n", names.join(" | "), "--:|".repeat(names.len()));
    for (title, cells) in rows {
        text += &format!("| {title} | {} |\n", cells.join(" | "));
    }
    text
}

fn wall_cell(work: &Measured, name: &str) -> String {
    let Some(figures) = work.named(name) else { return "-".into() };
    with_ratio(figures, figures.wall(), work.wall_ratio(figures))
}

fn cpu_cell(all: &[Measured], name: &str) -> String {
    let Some(figures) = all.first().and_then(|work| work.named(name)) else { return "-".into() };
    let Some(own) = total(all, name, Figures::cpu) else { return "-".into() };
    let floor = total(all, &figures.contender.floor(), Figures::cpu);
    with_ratio(figures, own, floor.map(|floor| own / floor))
}

/// A floor is not compared with itself.
fn with_ratio(figures: &Figures, value: f64, compared: Option<f64>) -> String {
    let is_floor = figures.contender.name() == figures.contender.floor();
    match compared.filter(|_| !is_floor) {
        Some(compared) => format!("{} ({})", seconds(value), ratio(compared)),
        None => seconds(value),
    }
}

fn each(all: &[Measured], name: &str, what: impl Fn(&Figures) -> Option<f64>) -> Option<Vec<f64>> {
    all.iter().map(|work| what(work.named(name)?)).collect()
}

fn total(all: &[Measured], name: &str, what: impl Fn(&Figures) -> Option<f64>) -> Option<f64> {
    Some(each(all, name, what)?.into_iter().sum())
}

// ---- for machines ----

pub(crate) fn json(settings: &Settings, all: &[Measured]) -> Value {
    let work = |measured: &Measured| {
        json!({
            "work": measured.work.letter(),
            "title": measured.title,
            "layers": bytes_for_people(measured.work.bytes(settings.scale)),
            "contenders": measured.figures.iter().map(|figures| contender(measured, figures)).collect::<Vec<_>>(),
        })
    };
    json!({
        "scale": settings.scale,
        "rounds": settings.rounds,
        "server": settings.server.name(),
        "wide_area": settings.wide.map(|WideArea { round_trip, rate }| json!({
            "round_trip_milliseconds": round_trip,
            "megabits_per_second_and_connection": rate,
        })),
        "works": all.iter().map(work).collect::<Vec<_>>(),
    })
}

fn contender(measured: &Measured, figures: &Figures) -> Value {
    let each = |what: &dyn Fn(&Usage) -> f64| figures.runs.iter().map(what).collect::<Vec<_>>();
    json!({
        "name": figures.contender.name(),
        "floor": figures.contender.floor(),
        "wall_seconds": { "median": figures.wall(), "runs": each(&|run| run.wall.as_secs_f64()) },
        "wall_times_floor": measured.wall_ratio(figures),
        "cpu_seconds": { "median": figures.cpu(), "runs": each(&|run| run.cpu.as_secs_f64()) },
        "cpu_times_floor": measured.cpu_ratio(figures),
        "peak_memory_bytes": { "median": figures.memory(), "runs": each(&|run| run.memory as f64) },
        "system_calls": figures.calls(),
        "bytes_copied": figures.copied(),
    })
}
