//! The store against the real thing: other tools, killed processes, failing system calls, full disks,
//! and power cuts.
//!
//! What a machine has not (a tool, root) shows as ignored, unless `OCI_PULLER_REQUIRE_REAL` is set:
//! then it fails, and what runs for a time runs longer.

#![allow(clippy::unwrap_used)]

mod archives;

use std::collections::BTreeSet;
use std::fs;
use std::io::{BufRead, BufReader, Read};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Output, Stdio};
use std::time::{Duration, Instant};

use archives::{Image, image};
use libtest_mimic::{Arguments, Failed, Trial};
use oci_puller::{Error, PrunePolicy, PullContext, Store};

/// Set in the processes that these tests start: what they are to do.
const WORKER: &str = "OCI_PULLER_TEST_WORKER";

type Outcome = Result<(), Failed>;

fn main() -> ExitCode {
    if let Ok(work) = std::env::var(WORKER) {
        return worker(&work);
    }
    let trials = vec![
        trial("skopeo_and_umoci_read_what_is_pulled", &["skopeo", "umoci"], other_tools_read),
        trial(
            "stores_of_skopeo_and_umoci_are_opened_and_pulled_into",
            &["skopeo", "umoci"],
            stores_of_others,
        ),
        trial("skopeo_accepts_an_export_and_its_archives_come_in", &["skopeo"], archives_of_skopeo),
        trial("a_process_may_be_killed_at_every_system_call", &["strace"], killed_at_every_call),
        trial("every_system_call_may_fail", &["strace"], every_call_fails),
        trial("open_files_that_run_out_are_waited_for", &["prlimit"], few_open_files),
        trial("a_full_disk_is_told_and_left_usable", &["mount", "umount"], full_disk),
        trial("a_read_only_folder_is_read_and_not_written", &["mount", "umount"], read_only),
        trial(
            "power_cuts_lose_nothing_that_was_answered",
            &["mkfs.ext4", "mount", "umount", "perl"],
            power_cuts,
        ),
        trial("processes_share_a_store_while_some_are_killed", &["skopeo"], many_processes),
    ];
    libtest_mimic::run(&Arguments::from_args(), trials).exit_code()
}

/// A test that needs these tools; mounting needs root.
fn trial(name: &str, tools: &'static [&'static str], test: fn(&Path) -> Outcome) -> Trial {
    let lacking: Vec<_> = tools.iter().filter(|tool| !is_installed(tool)).collect();
    let lacks_root = tools.contains(&"mount") && !is_root();
    let cannot_run = !lacking.is_empty() || lacks_root;
    let lacks = format!("it needs {lacking:?}, and root: {lacks_root}");
    let must_run = is_thorough();
    Trial::test(name, move || {
        if cannot_run {
            return Err(lacks.into());
        }
        let dir = tempfile::tempdir()?;
        test(dir.path())
    })
    .with_ignored_flag(cannot_run && !must_run)
}

fn is_thorough() -> bool {
    std::env::var_os("OCI_PULLER_REQUIRE_REAL").is_some()
}

fn is_installed(tool: &str) -> bool {
    let paths = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&paths)
        .chain([PathBuf::from("/usr/sbin"), PathBuf::from("/sbin")])
        .any(|dir| dir.join(tool).is_file())
}

fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    fs::metadata("/proc/self").is_ok_and(|this| this.uid() == 0)
}

fn run(command: &mut Command) -> Result<Output, Failed> {
    let output = command.output()?;
    if output.status.success() {
        return Ok(output);
    }
    Err(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)).into())
}

fn tool(line: &str) -> Command {
    let mut parts = line.split(' ');
    let mut command = Command::new(parts.next().unwrap());
    command.args(parts);
    command
}

fn cx() -> PullContext {
    PullContext::new()
}

fn images() -> Vec<Image> {
    vec![
        image("docker.io/library/one:latest", &[b"a layer that is shared", b"only one"]),
        image("localhost:5000/two:v1", &[b"a layer that is shared", &[2; 5000]]),
    ]
}

/// Whether the image is there by its name, and every blob reads as it was.
fn check(store: &Store, image: &Image) -> Result<(), String> {
    let found = store.find(&image.name).map_err(|error| error.to_string())?;
    let found = found.ok_or_else(|| format!("{} is gone", image.name))?;
    if found.manifest.digest != image.manifest || found.id != image.id {
        return Err(format!("{} is another image", image.name));
    }
    for (digest, bytes) in &image.layers {
        let mut content = Vec::new();
        let blob = store.open_blob(digest).map_err(|error| format!("{}: {error}", image.name))?;
        { blob }.read_to_end(&mut content).map_err(|error| error.to_string())?;
        if content != *bytes {
            return Err(format!("{} of {} is not what it was", digest, image.name));
        }
    }
    Ok(())
}

fn check_all(dir: &Path, images: &[Image]) -> Outcome {
    let store = Store::open(dir)?;
    images.iter().try_for_each(|image| check(&store, image))?;
    let report = store.verify(&cx())?;
    if report.is_sound() { Ok(()) } else { Err(format!("{report:?}").into()) }
}

// What the started processes do.

/// `import DIR ARCHIVE…` or `random DIR SEED`.
fn worker(work: &str) -> ExitCode {
    let mut words = work.split(' ');
    let (kind, dir) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let outcome = match kind {
        "import" => import_all(dir, words),
        _ => work_at_random(dir, words.next().and_then(|seed| seed.parse().ok()).unwrap_or(0)),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(why) => {
            eprintln!("{why}");
            ExitCode::FAILURE
        }
    }
}

/// Imports one archive after the other, and says so when each is answered.
fn import_all<'a>(dir: &str, archives: impl Iterator<Item = &'a str>) -> Result<(), String> {
    let told = |error: Error| format!("{:?}: {error}", error.kind());
    let store = Store::open(dir).map_err(told)?;
    for path in archives {
        let archive = fs::File::open(path).map_err(|error| error.to_string())?;
        store.import(&cx(), BufReader::new(archive)).map_err(told)?;
        println!("{path}");
    }
    Ok(())
}

/// Pulls, removes and prunes until it is killed. Only it changes its own names: what it has pulled
/// must be there until it removes it.
fn work_at_random(dir: &str, seed: u64) -> Result<(), String> {
    let told = |error: Error| format!("{:?}: {error}", error.kind());
    let store = Store::open(dir).map_err(told)?;
    let names: Vec<_> = (0..4).map(|at| format!("example.com/worker-{seed}:{at}")).collect();
    let mut random = fastrand::Rng::with_seed(seed ^ u64::from(std::process::id()));
    let mut there: Vec<Image> = Vec::new();
    loop {
        let name = random.choice(&names).unwrap();
        match random.u8(..10) {
            0..6 => {
                let own = vec![random.u8(..3); 40_000];
                let pulled = image(name, &[b"a layer that all share", &[random.u8(..2)], &own]);
                store.import(&cx(), &pulled.archive[..]).map_err(told)?;
                there.retain(|image| image.name != *name);
                there.push(pulled);
            }
            6..8 => {
                there.retain(|image| image.name != *name);
                store.remove(&cx(), name).map_err(told)?;
            }
            8 => {
                let policy = PrunePolicy::default().min_age(Duration::ZERO).thresholds(100, 100);
                store.prune(&cx(), &policy).map_err(told)?;
            }
            _ => drop(store.images().map_err(told)?),
        }
        there.iter().try_for_each(|image| check(&store, image))?;
    }
}

fn start(work: &str) -> Command {
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.env(WORKER, work);
    command
}

/// Starts a worker under another tool, like `strace`.
fn start_under(line: &str, work: &str) -> Command {
    let mut command = tool(line);
    command.arg(std::env::current_exe().unwrap()).env(WORKER, work);
    command
}

/// Writes the images' archives beside the store.
fn write_archives(dir: &Path, images: &[Image]) -> Result<Vec<String>, Failed> {
    let mut paths = Vec::new();
    for (at, image) in images.iter().enumerate() {
        let path = dir.join(format!("archive-{at}.tar"));
        fs::write(&path, &image.archive)?;
        paths.push(path.display().to_string());
    }
    Ok(paths)
}

// Other tools.

fn other_tools_read(dir: &Path) -> Outcome {
    let path = dir.join("store");
    let store = Store::open(&path)?;
    for image in images() {
        store.import(&cx(), &image.archive[..])?;
        let raw = run(&mut tool(&format!("skopeo inspect --raw oci:{}:{}", path.display(), image.name)))?;
        assert_eq!(oci_puller::Digest::sha256(&raw.stdout), image.manifest);
        run(&mut tool(&format!("skopeo inspect --config oci:{}:{}", path.display(), image.name)))?;
    }
    let listed = run(&mut tool(&format!("umoci list --layout {}", path.display())))?;
    let listed = String::from_utf8(listed.stdout)?;
    for image in images() {
        assert!(listed.contains(&image.name), "{listed}");
    }
    // What another tool collects, it collects by the same rules.
    run(&mut tool(&format!("umoci gc --layout {}", path.display())))?;
    check_all(&path, &images())
}

fn stores_of_others(dir: &Path) -> Outcome {
    let (umoci, skopeo) = (dir.join("umoci"), dir.join("skopeo"));
    run(&mut tool(&format!("umoci init --layout {}", umoci.display())))?;
    run(&mut tool(&format!("umoci new --image {}:theirs", umoci.display())))?;
    let archives = write_archives(dir, &images())?;
    run(&mut tool(&format!(
        "skopeo copy --insecure-policy --preserve-digests oci-archive:{} oci:{}:theirs",
        archives[0],
        skopeo.display()
    )))?;
    for path in [umoci, skopeo] {
        let store = Store::open(&path)?;
        images().iter().try_for_each(|image| store.import(&cx(), &image.archive[..]).map(drop))?;
        check_all(&path, &images())?;
        for name in [&*images()[0].name, "theirs"] {
            run(&mut tool(&format!("skopeo inspect --raw oci:{}:{name}", path.display())))?;
        }
        run(&mut tool(&format!("umoci tag --image {}:{} copy", path.display(), images()[1].name)))?;
        assert!(Store::open(&path)?.find("copy")?.is_some());
    }
    Ok(())
}

fn archives_of_skopeo(dir: &Path) -> Outcome {
    let original = image("docker.io/library/one:latest", &[&real_layer()]);
    let store = Store::open(dir.join("store"))?;
    store.import(&cx(), &original.archive[..])?;
    let exported = dir.join("exported.tar");
    store.export(&cx(), &original.name, fs::File::create(&exported)?)?;
    let copied = dir.join("copied");
    run(&mut tool(&format!(
        "skopeo copy --insecure-policy --preserve-digests oci-archive:{} oci:{}:one",
        exported.display(),
        copied.display()
    )))?;
    let found = Store::open(&copied)?.find("one")?.ok_or("the copy is gone")?;
    assert_eq!((found.id, found.manifest.digest), (original.id.clone(), original.manifest.clone()));
    for kind in ["docker-archive", "oci-archive"] {
        let path = dir.join(kind);
        let keep = if kind == "oci-archive" { "--preserve-digests " } else { "" };
        let target = format!("{kind}:{}:docker.io/library/one:latest", path.display());
        run(&mut tool(&format!(
            "skopeo copy --insecure-policy {keep}oci:{}:one {target}",
            copied.display()
        )))?;
        let back = Store::open(dir.join(format!("{kind}-store")))?;
        let names = back.import(&cx(), fs::File::open(&path)?)?;
        let found = back.find(&names[0])?.ok_or("the import is gone")?;
        assert_eq!(names, ["docker.io/library/one:latest"]);
        assert!(back.verify(&cx())?.is_sound());
        if kind == "oci-archive" {
            assert_eq!((found.id, found.manifest.digest), (original.id.clone(), original.manifest.clone()));
        }
    }
    Ok(())
}

/// A tar file with nothing in it, which skopeo can look into.
fn real_layer() -> Vec<u8> {
    archives::tar(&[("file".to_owned(), b"content".to_vec())])
}

// Killed processes and failing calls.

/// The system calls by which a store changes.
const CALLS: [&str; 10] = [
    "openat2",
    "mkdirat",
    "pwrite64",
    "fsync",
    "syncfs",
    "renameat",
    "unlinkat",
    "ftruncate",
    "fchmod",
    "flock",
];

fn killed_at_every_call(dir: &Path) -> Outcome {
    let archives = write_archives(dir, &images())?;
    let mut kills = 0;
    for call in CALLS {
        for nth in 1.. {
            let path = dir.join(format!("{call}-{nth}"));
            let work = format!("import {} {}", path.display(), archives.join(" "));
            let line =
                format!("strace -f -qq -o /dev/null -e trace={call} -e inject={call}:signal=KILL:when={nth}");
            let output = start_under(&line, &work).output()?;
            let answered = String::from_utf8(output.stdout)?.lines().count();
            check_all(&path, &images()[..answered]).map_err(|error| format!("{call} {nth}: {error:?}"))?;
            // The next process goes on from there.
            run(&mut start(&work))?;
            check_all(&path, &images())?;
            fs::remove_dir_all(&path)?;
            if output.status.success() {
                break;
            }
            kills += 1;
        }
    }
    if kills > 50 { Ok(()) } else { Err(format!("only {kills} kills").into()) }
}

fn every_call_fails(dir: &Path) -> Outcome {
    let archives = write_archives(dir, &images())?;
    let faults = [
        ("fsync", "EIO"),
        ("pwrite64", "EIO"),
        ("pwrite64", "ENOSPC"),
        ("renameat", "EIO"),
        ("renameat", "ENOSPC"),
        ("openat2", "EIO"),
        ("openat2", "ENOSPC"),
        ("openat2", "EMFILE"),
    ];
    for (call, errno) in faults {
        for nth in 1.. {
            let path = dir.join(format!("{call}-{errno}-{nth}"));
            let work = format!("import {} {}", path.display(), archives.join(" "));
            let line = format!(
                "strace -f -qq -o /dev/null -e trace={call} -e inject={call}:error={errno}:when={nth}"
            );
            let output = start_under(&line, &work).output()?;
            let told = format!("{call} {errno} {nth}: {}", String::from_utf8_lossy(&output.stderr));
            let answered = String::from_utf8(output.stdout)?.lines().count();
            check_all(&path, &images()[..answered]).map_err(|error| format!("{told}: {error:?}"))?;
            run(&mut start(&work)).map_err(|error| format!("{told}: {error:?}"))?;
            check_all(&path, &images())?;
            fs::remove_dir_all(&path)?;
            if output.status.success() && nth > 60 {
                break;
            }
            let kind = if errno == "ENOSPC" { "DiskFull" } else { "Store" };
            if !output.status.success() && !told.contains(kind) && !told.contains("ResourceExhausted") {
                return Err(told.into());
            }
        }
    }
    Ok(())
}

fn few_open_files(dir: &Path) -> Outcome {
    let path = dir.join("store");
    let archives = write_archives(dir, &images())?;
    let work = format!("import {} {}", path.display(), archives.join(" "));
    // Enough for one thing after the other, and no more.
    run(&mut start_under("prlimit --nofile=20:20", &work))?;
    check_all(&path, &images())?;
    let output = start_under("prlimit --nofile=7:7", &work).output()?;
    let told = String::from_utf8_lossy(&output.stderr);
    if !output.status.success()
        && !told.contains("ResourceExhausted")
        && !told.contains("Too many open files")
    {
        return Err(told.into_owned().into());
    }
    check_all(&path, &images())
}

// Disks.

/// A file system that is unmounted at the end, whatever happens.
struct Mounted(PathBuf);

impl Mounted {
    fn new(line: &str, at: &Path) -> Result<Self, Failed> {
        fs::create_dir_all(at)?;
        run(tool(line).arg(at))?;
        Ok(Mounted(at.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg(&self.0).status();
    }
}

fn full_disk(dir: &Path) -> Outcome {
    let disk = Mounted::new("mount -t tmpfs -o size=4m tmpfs", &dir.join("tmpfs"))?;
    let path = disk.0.join("store");
    let store = Store::builder(&path).reserve(64 << 10).open()?;
    let small = image("small:1", &[&[1; 1 << 20]]);
    store.import(&cx(), &small.archive[..])?;
    let large = image("large:1", &[&[2; 2 << 20], &[3; 2 << 20]]);
    let error = store.import(&cx(), &large.archive[..]).unwrap_err();
    assert_eq!(error.kind(), oci_puller::ErrorKind::DiskFull, "{error}");
    assert!(error.message().contains("2097152 bytes are needed"), "{error}");
    // Out of space in the middle: somebody else takes what was free.
    fs::write(disk.0.join("other"), vec![0; 1 << 20])?;
    let careless = Store::builder(&path).reserve(0).open()?;
    let middling = image("middling:1", &[&[4; 1 << 20], &[5; 1 << 20]]);
    assert_eq!(
        careless.import(&cx(), &middling.archive[..]).unwrap_err().kind(),
        oci_puller::ErrorKind::DiskFull
    );
    assert_eq!(fs::read_dir(path.join(".oci-puller/partial"))?.count(), 0);
    check_all(&path, &[small])?;
    fs::remove_file(disk.0.join("other"))?;
    store.import(&cx(), &middling.archive[..])?;
    check_all(&path, &[middling])
}

fn read_only(dir: &Path) -> Outcome {
    let path = dir.join("store");
    Store::open(&path)?.import(&cx(), &images()[0].archive[..])?;
    let disk = Mounted::new(&format!("mount --bind {}", path.display()), &dir.join("view"))?;
    run(tool("mount -o remount,bind,ro").arg(&disk.0))?;
    let store = Store::open(&disk.0)?;
    check(&store, &images()[0])?;
    store.export(&cx(), &images()[0].name, std::io::sink())?;
    for error in [
        store.import(&cx(), &images()[1].archive[..]).unwrap_err(),
        store.remove(&cx(), &images()[0].name).unwrap_err(),
    ] {
        assert_eq!(error.kind(), oci_puller::ErrorKind::Store, "{error}");
    }
    check_all(&disk.0, &images()[..1])
}

fn power_cuts(dir: &Path) -> Outcome {
    let disk_image = dir.join("disk");
    fs::File::create(&disk_image)?.set_len(64 << 20)?;
    run(tool("mkfs.ext4 -q -F").arg(&disk_image))?;
    let pulled: Vec<_> =
        (0..400u32).map(|at| image(&format!("image:{at}"), &[&at.to_le_bytes(), &[7; 3000]])).collect();
    let archives = write_archives(dir, &pulled)?;
    let mut answered = 0;
    for cut in 0..20 {
        let mount = format!("mount -o loop {}", disk_image.display());
        let disk = Mounted::new(&mount, &dir.join("mounted"))?;
        let path = disk.0.join("store");
        check_all(&path, &pulled[..answered]).map_err(|error| format!("after {cut} cuts: {error:?}"))?;
        let work = format!("import {} {}", path.display(), archives[answered..].join(" "));
        let mut child = start(&work).stdout(Stdio::piped()).stderr(Stdio::null()).spawn()?;
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        // Somewhere in the pulls, later with each cut.
        for _ in 0..=cut % 5 {
            answered += usize::from(lines.next().is_some());
        }
        std::thread::sleep(Duration::from_micros(fastrand::u64(..3000)));
        // EXT4_IOC_SHUTDOWN with NOLOGFLUSH: what is not on the disk now never gets there.
        let cut = r#"sysopen(D, $ARGV[0], 0) or die; my $f = pack("I", 2); ioctl(D, 0x8004587D, $f) or die"#;
        run(Command::new("perl").args(["-e", cut]).arg(&disk.0))?;
        answered += lines.map_while(Result::ok).count();
        child.wait()?;
    }
    let disk = Mounted::new(&format!("mount -o loop {}", disk_image.display()), &dir.join("mounted"))?;
    check_all(&disk.0.join("store"), &pulled[..answered])
}

// Many processes.

fn many_processes(dir: &Path) -> Outcome {
    for count in [2, 4] {
        share(&dir.join(format!("shared-by-{count}")), count)?;
    }
    Ok(())
}

fn share(path: &Path, count: u64) -> Outcome {
    let spawn = |seed: u64| {
        let work = format!("random {} {seed}", path.display());
        start(&work).stderr(Stdio::piped()).spawn()
    };
    drop(Store::open(path)?);
    let mut workers: Vec<Child> = (0..count).map(spawn).collect::<Result<_, _>>()?;
    let until = Instant::now() + Duration::from_secs(if is_thorough() { 60 } else { 5 });
    let mut inspected = 0;
    while Instant::now() < until {
        std::thread::sleep(Duration::from_secs(1));
        inspected += inspect_all(path)?;
        let at = fastrand::usize(..workers.len());
        let mut killed = std::mem::replace(&mut workers[at], spawn(at as u64)?);
        end(&mut killed)?;
    }
    workers.iter_mut().try_for_each(end)?;
    let report = Store::open(path)?.verify(&cx())?;
    if !report.is_sound() || inspected == 0 {
        return Err(format!("{report:?}, {inspected} inspected").into());
    }
    inspect_all(path).map(drop)
}

/// Kills a worker, which must have been at work until now.
fn end(worker: &mut Child) -> Outcome {
    if worker.try_wait()?.is_some() {
        let mut told = String::new();
        worker.stderr.take().unwrap().read_to_string(&mut told)?;
        return Err(told.into());
    }
    worker.kill()?;
    worker.wait()?;
    Ok(())
}

/// Which `index.json` it is: each change makes another file.
fn index_version(path: &Path) -> Result<(u64, i64, i64), Failed> {
    use std::os::unix::fs::MetadataExt;
    let index = fs::metadata(path.join("index.json"))?;
    Ok((index.ino(), index.mtime(), index.mtime_nsec()))
}

/// Reads every image that stands in the index with skopeo: how many there were.
fn inspect_all(path: &Path) -> Result<usize, Failed> {
    let store = Store::open(path)?;
    let names: BTreeSet<_> = store.images()?.into_iter().flat_map(|image| image.names).collect();
    for name in &names {
        let before = index_version(path)?;
        let is_listed = store.find(name)?.is_some();
        let inspected = run(&mut tool(&format!("skopeo inspect --raw oci:{}:{name}", path.display())));
        // Unless the index was written anew just then: the image may have gone, and come again.
        if is_listed && index_version(path)? == before {
            inspected?;
        }
    }
    Ok(names.len())
}
