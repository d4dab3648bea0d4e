//! Common mistakes, and the exact text that each gets on standard error.
//!
//! In arguments and texts, `{dir}` is the folder of the test, `{host}` its registry, `{other}` a port where no server
//! listens, `{layer}` the digest of the image's layer, and `{digest}` any other.

mod arguments;
mod files;
mod registries;

use std::num::NonZero;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread;

use oci_puller::image::Platform;
use oci_puller::testing::images::ImageBuilder;
use oci_puller::testing::{Action, Fault, Registry, Target};

use parking_lot::Mutex;

use crate::bench::{Bench, Ran};

#[derive(Clone, Copy)]
struct Case {
    /// The words of the command line.
    args: &'static str,
    /// The exit code.
    code: i32,
    /// Standard error, without the lines about progress.
    told: &'static str,
    /// A fault of the registry, and the requests that it strikes.
    fault: Option<(Target, fn() -> Action)>,
    files: &'static [(&'static str, &'static str)],
    variables: &'static [(&'static str, &'static str)],
    /// Whether the registry asks for the user `me` with the password `secret`.
    needs_user: bool,
}

const fn case(args: &'static str, code: i32, told: &'static str) -> Case {
    Case { args, code, told, fault: None, files: &[], variables: &[], needs_user: false }
}

const fn faulty(
    args: &'static str,
    target: Target,
    action: fn() -> Action,
    code: i32,
    told: &'static str,
) -> Case {
    Case { fault: Some((target, action)), ..case(args, code, told) }
}

#[test]
fn each_mistake_has_its_text() {
    // As many at a time as there are processors: most of the time is spent in processes.
    let cases = [arguments::CASES, files::CASES, registries::CASES].concat();
    let next = AtomicUsize::new(0);
    let wrong = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for _ in 0..thread::available_parallelism().map_or(1, NonZero::get) {
            scope.spawn(|| {
                while let Some(case) = cases.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (code, told) = told(case);
                    if code != Some(case.code) || told != case.told {
                        wrong.lock().push(format!("{} ends with {code:?}:\n{told}\n", case.args));
                    }
                }
            });
        }
    });
    let wrong = wrong.into_inner();
    assert!(cases.len() >= 60 && wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Makes the mistake. Returns the exit code, and the lines on standard error but those about progress.
fn told(case: &Case) -> (Option<i32>, String) {
    let (bench, registry) = (Bench::new(), Registry::start().unwrap());
    let image = ImageBuilder::new("app").layer(20_000).platforms(["linux/amd64", "linux/arm64"]).build();
    registry.push(&image, "latest");
    if case.needs_user {
        registry.require_basic("me", "secret");
    }
    let host = Platform::host().to_string();
    let variant = image.variant(&host).unwrap_or(&image.variants()[0]);
    let layer = variant.layers[0].digest.to_string();
    if let Some((target, action)) = &case.fault {
        let fault = Fault::on(*target).with(action());
        registry.fault(if *target == Target::Blob { fault.path_containing(&layer) } else { fault });
    }
    let other = Registry::start().unwrap().host();
    let folder = bench.path("");
    let names = [
        ("{dir}", folder.to_str().unwrap().trim_end_matches('/').to_owned()),
        ("{host}", registry.host()),
        ("{other}", other),
        ("{layer}", layer),
    ];
    let fill =
        |text: &str| names.iter().fold(text.to_owned(), |text, (name, value)| text.replace(name, value));
    for (name, content) in case.files {
        bench.file(name, fill(content));
    }
    let mut command =
        bench.command(fill(case.args).split(' ').map(|word| if word == "{empty}" { "" } else { word }));
    command
        .env("OCI_PULLER_LOG", "error")
        .envs(case.variables.iter().map(|(name, value)| (name, fill(value))));
    let ran = Ran::of(&mut command);
    let is_progress = |line: &&str| {
        let is_summary = line.contains(" images in ") || line.contains(" of the failed images were fetched");
        is_summary || line.starts_with("app:latest: ")
    };
    let lines: Vec<_> = ran.stderr.trim_end().lines().filter(|line| !is_progress(line)).collect();
    let told = names.iter().fold(lines.join("\n"), |text, (name, value)| text.replace(value, name));
    (ran.status.code(), without_digests(&told))
}

/// Replaces the digests in a text.
fn without_digests(text: &str) -> String {
    let mut parts = text.split("sha256:");
    let mut replaced = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        match part.get(..64).is_some_and(|hex| hex.bytes().all(|byte| byte.is_ascii_hexdigit())) {
            true => replaced += &format!("{{digest}}{}", &part[64..]),
            false => replaced += &format!("sha256:{part}"),
        }
    }
    replaced
}
