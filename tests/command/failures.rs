use oci_puller::testing::images::ImageBuilder;
use oci_puller::testing::{Action, Fault, Registry, Stage, Target};

use crate::bench::{Bench, image, registry_with};

#[test]
fn each_failure_is_one_line_with_image_host_and_cause() {
    let status = |status| Some(Action::Status(status));
    for (action, target, code, cause) in [
        (status(401), Target::Manifest, 1, "unauthorized: "),
        (status(403), Target::Manifest, 1, "denied: "),
        (status(404), Target::Manifest, 1, "not found: "),
        (status(404), Target::Blob, 1, "not found: "),
        (status(429), Target::Manifest, 3, "rate limited: "),
        (status(503), Target::Blob, 3, "unavailable: "),
        (Some(Action::Cut(10)), Target::Blob, 3, "connection failed: "),
        (Some(Action::Corrupt(600)), Target::Blob, 3, "digest mismatch: "),
        (Some(Action::Body(b"<html>".to_vec())), Target::Manifest, 1, "protocol error: HTML came"),
    ] {
        let (bench, (registry, name)) = (Bench::new(), registry_with("app"));
        let fault = action.into_iter().fold(Fault::on(target), Fault::with);
        registry.fault(fault);
        let ran = bench.run(["pull", "--retries", "0", &name]).exits(code);
        let [error] = ran.errors()[..] else { panic!("{cause}: {ran:#?}") };
        assert!(error.starts_with(&format!("error: {name}: ")), "{cause}: {error}");
        assert!(error.contains(&registry.host()) && error.contains(cause), "{cause}: {error}");
        assert_eq!(ran.stdout, "", "{cause}");
    }
}

#[test]
fn a_registry_that_is_not_there_is_named() {
    let host = {
        let gone = Registry::start().unwrap();
        gone.host()
    };
    let ran = Bench::new().run(["pull", "--retries=0", &format!("{host}/app")]).exits(3);
    let errors = ran.errors();
    assert!(errors[0].contains(&host) && errors[0].contains("connection failed"), "{ran:#?}");
}

#[test]
fn one_image_that_fails_does_not_keep_the_others_from_coming() {
    let (bench, (registry, name)) = (Bench::new(), registry_with("app"));
    let ran = bench.run(["pull", "Not/A/Name", &format!("{}/missing", registry.host()), &name]).exits(1);
    assert_eq!(ran.errors().len(), 2, "{ran:#?}");
    assert_eq!(ran.stdout.lines().count(), 2, "{ran:#?}");
    assert!(ran.stderr.contains("1 of 3 images"), "{ran:#?}");
}

#[test]
fn of_several_hosts_each_has_a_line() {
    let (bench, (registry, name)) = (Bench::new(), registry_with("app"));
    let mirror = Registry::start().unwrap();
    mirror.push(&image("app"), "1.0");
    for (host, status) in [(&mirror, 503), (&registry, 404)] {
        host.fault(Fault::on(Target::Manifest).with(Action::Status(status)));
    }
    let hosts = format!("server = \"{}\"\n[host.\"{}\"]\n", registry.url(), mirror.url());
    bench.file(&format!("hosts/{}/hosts.toml", registry.host()), hosts);

    let hosts_dir = bench.path("hosts");
    let ran = bench.run(["pull", "--hosts-dir", hosts_dir.to_str().unwrap(), &name]).exits(1);
    let of = |host: &Registry| format!("\n  {}: ", host.host());
    assert_eq!(ran.errors().len(), 1, "{ran:#?}");
    assert!(ran.stderr.contains(&format!("{}unavailable: status 503", of(&mirror))), "{ran:#?}");
    assert!(ran.stderr.contains(&format!("{}not found: status 404", of(&registry))), "{ran:#?}");

    mirror.clear_faults();
    bench.run(["pull", "--hosts-dir", hosts_dir.to_str().unwrap(), &name]).exits(0);
}

#[test]
fn retries_are_as_many_as_was_said() {
    let (bench, (registry, name)) = (Bench::new(), registry_with("app"));
    let broken = registry.fault(Fault::on(Target::Manifest).with(Action::Status(503)));
    let ran = bench.run(["pull", "--retries", "1", &name]).exits(3);
    assert_eq!(broken.fired(), 2);
    let wait = format!("app:1.0: {}: unavailable: status 503", registry.host());
    assert!(ran.stderr.contains(&wait) && ran.stderr.contains("; next try in "), "{ran:#?}");
}

#[test]
fn a_deadline_ends_a_pull_from_a_silent_registry() {
    let (bench, (registry, name)) = (Bench::new(), registry_with("app"));
    registry.fault(Fault::on(Target::Blob).with(Action::Hold(Stage::BeforeHead)));
    let ran = bench.run(["pull", "--deadline", "300ms", &name]).exits(3);
    assert!(ran.errors()[0].contains("timed out"), "{ran:#?}");
}

#[test]
fn a_layer_that_breaks_off_goes_on_where_it_broke_and_that_is_told() {
    let (bench, registry) = (Bench::new(), Registry::start().unwrap());
    let image = ImageBuilder::new("app").layer(400_000).build();
    let name = registry.push(&image, "1");
    let layer = image.layers()[0].digest.as_str();
    registry.fault(Fault::on(Target::Blob).path_containing(layer).times(1).with(Action::Cut(100_000)));
    let ran = bench.run(["pull", &name]).exits(0);
    let told = format!("resumed at 100.0 kB of 401.9 kB, from {}", registry.host());
    assert!(ran.stderr.contains(&told), "{ran:#?}");
}

#[test]
fn a_pull_that_waits_tells_for_whom_and_why() {
    let (bench, (registry, name)) = (Bench::new(), registry_with("app"));
    let limit = Fault::on(Target::Manifest).times(1).with(Action::Status(429));
    registry.fault(limit.with(Action::header("Retry-After", "1")));
    let ran = bench.run(["pull", &name]).exits(0);
    let told = format!("app:1.0: {}: rate limited: status 429", registry.host());
    assert!(ran.stderr.contains(&told), "{ran:#?}");
}

#[test]
fn a_reader_that_has_had_enough_is_no_accident() {
    let bench = Bench::new();
    let mut child = bench.command(["--help"]);
    child.stdout(std::process::Stdio::piped()).stderr(std::process::Stdio::piped());
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let ran = child.stdout(writer).output().unwrap();
    assert_eq!(ran.status.code(), Some(1));
    assert_eq!(String::from_utf8_lossy(&ran.stderr), "");
}

#[test]
fn a_large_layer_that_comes_in_pieces_is_told_of_once_and_again_when_it_breaks() {
    for cuts in [0, 1] {
        let (bench, registry) = (Bench::new(), Registry::start().unwrap());
        let image = ImageBuilder::new("app").layer(20_000_000).build();
        let name = registry.push(&image, "1");
        let layer = image.layers()[0].digest.as_str();
        registry
            .fault(Fault::on(Target::Blob).path_containing(layer).times(cuts).with(Action::Cut(2_000_000)));
        let ran = bench.run(["pull", &name]).exits(0);
        assert_eq!(ran.stderr.matches("resumed at").count() as u64, cuts, "{ran:#?}");
    }
}

#[test]
fn what_a_failed_pull_fetched_is_told() {
    let (bench, registry) = (Bench::new(), Registry::start().unwrap());
    let image = ImageBuilder::new("app").layer(400_000).build();
    let name = registry.push(&image, "1");
    let layer = image.layers()[0].digest.as_str();
    registry.fault(Fault::on(Target::Blob).path_containing(layer).with(Action::Cut(100_000)));
    let ran = bench.run(["pull", "--retries=0", &name]).exits(3);
    assert!(ran.stderr.contains(" of the failed images were fetched and are kept"), "{ran:#?}");
}

#[test]
fn progress_as_json_is_an_object_on_each_line_of_standard_error() {
    let (bench, registry) = (Bench::new(), Registry::start().unwrap());
    let image = ImageBuilder::new("app").layer(400_000).build();
    let name = registry.push(&image, "1");
    let layer = image.layers()[0].digest.as_str();
    registry.fault(Fault::on(Target::Blob).path_containing(layer).times(1).with(Action::Cut(100_000)));
    let missing = format!("{}/missing", registry.host());
    let ran = bench.run(["pull", "--progress=json", "--serial", &name, &missing, &name]).exits(1);
    let help = bench.run(["pull", "--help"]).stdout;
    let mut events = Vec::new();
    for line in ran.stderr.lines() {
        let object: serde_json::Value = serde_json::from_str(line).expect(line);
        let fields = object.as_object().unwrap();
        let event = object["event"].as_str().unwrap().to_owned();
        let documented = help.lines().find(|line| line.starts_with(&format!("  {event} "))).expect(&event);
        let is_documented = |field: &&String| {
            ["event", "image"].contains(&field.as_str()) || documented.contains(field.as_str())
        };
        assert!(fields.keys().all(|field| is_documented(&field)), "{line}");
        assert!(
            event == "message" || [&name, &missing].contains(&&object["image"].as_str().unwrap().to_owned())
        );
        events.push((event, object));
    }
    let of = |wanted: &str| {
        events.iter().filter(|(event, _)| event == wanted).map(|(_, object)| object).collect::<Vec<_>>()
    };
    assert_eq!((of("started").len(), of("resolved").len(), of("ended").len()), (3, 2, 3), "{ran:#?}");
    assert!(of("blob_started").iter().any(|object| object["offset"] == 100_000), "{ran:#?}");
    assert!(
        !of("blob_done").is_empty() && !of("blob_reused").is_empty() && !of("message").is_empty(),
        "{ran:#?}"
    );
    assert!(of("message").iter().any(|object| object["text"].as_str().unwrap().contains("2 of 3 images")));
}

#[test]
fn progress_is_shown_as_asked() {
    for (shown, has_lines) in [("lines", true), ("auto", true), ("none", false)] {
        let (bench, (_registry, name)) = (Bench::new(), registry_with("app"));
        let ran = bench.run(["pull", "--progress", shown, &name]).exits(0);
        assert_eq!(ran.stderr.contains("done in"), has_lines, "{shown}: {ran:#?}");
        assert!(ran.stderr.contains("1 of 1 images"), "{shown}: {ran:#?}");
    }
    Bench::new().run(["pull", "--progress", "none", "--quiet", "app"]).exits(2);
}
