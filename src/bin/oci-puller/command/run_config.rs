//! `run-config`: a `config.json` for runc, made of an image's config.

use std::fs::File;
use std::path::PathBuf;

use clap::Args;
use oci_puller::Store;
use oci_puller::image::ImageConfig;
use oci_puller::store::StoredImage;
use oci_puller::unpack::User;
use serde_json::{Value, json};

use crate::args::{StoreArgs, usage};
use crate::exit::Exit;
use crate::names;
use crate::output;
use crate::stores;

/// The search path of an image that sets none, as Docker and podman have it.
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// What a process of a container may do, as Docker and podman have it.
const CAPABILITIES: [&str; 14] = [
    "CAP_AUDIT_WRITE",
    "CAP_CHOWN",
    "CAP_DAC_OVERRIDE",
    "CAP_FOWNER",
    "CAP_FSETID",
    "CAP_KILL",
    "CAP_MKNOD",
    "CAP_NET_BIND_SERVICE",
    "CAP_NET_RAW",
    "CAP_SETFCAP",
    "CAP_SETGID",
    "CAP_SETPCAP",
    "CAP_SETUID",
    "CAP_SYS_CHROOT",
];

/// Print a config.json that runs an image with runc
///
/// The command, environment, working folder, user, labels and stop signal come from the image's config, by the rules
/// of the image specification; namespaces, mounts and capabilities are those of an ordinary container. The network
/// namespace is a new one with nothing in it.
#[derive(Args)]
pub(crate) struct RunConfigArgs {
    /// A name, a digest, or the first digits (4 or more) of an image ref
    image: String,
    /// Command to run, in place of the image's
    #[arg(last = true)]
    command: Vec<String>,
    /// Unpacked root of the image, to look up its user; needed if that is a name
    #[arg(long, value_name = "DIR", value_parser = crate::args::existing_dir)]
    root: Option<PathBuf>,
    /// Path of the root that the file gets, relative to the bundle
    #[arg(long, value_name = "PATH", default_value = "rootfs")]
    root_path: String,
    /// Give the process a terminal
    #[arg(long, short)]
    terminal: bool,
    #[command(flatten)]
    store: StoreArgs,
}

/// Prints the configuration.
pub(crate) fn run(args: RunConfigArgs) -> Result<(), Exit> {
    let store = stores::open(&args.store.dir()?, None)?;
    let (_, image) = names::find(&store, &args.image)?;
    let config = config_of(&store, &image)?;
    let user = user(&args, &config)?;
    let command = command(&args, &config)?;
    let spec = spec(&args, &config, &user, &command);
    output::pretty_json(&spec)
}

fn config_of(store: &Store, image: &StoredImage) -> Result<ImageConfig, Exit> {
    Ok(store.config(&image.id)?)
}

/// Returns the image's user; numbers need no root to look them up in.
fn user(args: &RunConfigArgs, config: &ImageConfig) -> Result<User, Exit> {
    if let Some(root) = &args.root {
        let folder = File::open(root).map_err(|error| Exit::Own(format!("{}: {error}", root.display())))?;
        return Ok(config.resolve_user(&folder)?);
    }
    let wanted = config.user.as_deref().unwrap_or("0");
    let (uid, gid) = wanted.split_once(':').unwrap_or((wanted, "0"));
    let mut user = User::default();
    match (uid.parse(), gid.parse()) {
        (Ok(uid), Ok(gid)) => (user.uid, user.gid) = (uid, gid),
        _ => {
            let text =
                format!("the image's user is {wanted:?}: add --root DIR, its unpacked root, to look it up");
            return Err(usage("run-config", text));
        }
    }
    Ok(user)
}

/// Returns the process's arguments: entrypoint and command, where a given command replaces the image's.
fn command(args: &RunConfigArgs, config: &ImageConfig) -> Result<Vec<String>, Exit> {
    let cmd = if args.command.is_empty() { &config.cmd } else { &args.command };
    let command: Vec<String> = config.entrypoint.iter().chain(cmd).cloned().collect();
    if command.is_empty() {
        return Err(usage("run-config", "the image names no command: add -- COMMAND"));
    }
    Ok(command)
}

fn environment(args: &RunConfigArgs, config: &ImageConfig, user: &User) -> Vec<String> {
    let mut env = config.env.clone();
    let has = |env: &[String], name: &str| env.iter().any(|line| line.starts_with(name));
    if !has(&env, "PATH=") {
        env.insert(0, PATH.to_owned());
    }
    if !has(&env, "HOME=") {
        env.push(format!("HOME={}", user.home.as_deref().filter(|home| !home.is_empty()).unwrap_or("/")));
    }
    if args.terminal && !has(&env, "TERM=") {
        env.push("TERM=xterm".to_owned());
    }
    env
}

/// Returns the annotations that the image specification derives from a config, and its labels.
fn annotations(config: &ImageConfig) -> Value {
    let mut annotations = serde_json::Map::new();
    let platform = &config.platform;
    let mut add = |name: &str, value: Option<&str>| {
        if let Some(value) = value.filter(|value| !value.is_empty()) {
            annotations.insert(format!("org.opencontainers.image.{name}"), value.into());
        }
    };
    add("os", Some(&platform.os));
    add("architecture", Some(&platform.architecture));
    add("variant", platform.variant.as_deref());
    add("created", config.created.as_deref());
    add("stopSignal", config.stop_signal.as_deref());
    add("exposedPorts", Some(&config.exposed_ports.join(",")));
    for (name, value) in &config.labels {
        annotations.insert(name.clone(), value.clone().into());
    }
    annotations.into()
}

fn spec(args: &RunConfigArgs, config: &ImageConfig, user: &User, command: &[String]) -> Value {
    let mount = |destination: &str, kind: &str, source: &str, options: &[&str]| json!({ "destination": destination, "type": kind, "source": source, "options": options });
    let mut mounts = vec![
        mount("/proc", "proc", "proc", &["nosuid", "noexec", "nodev"]),
        mount("/dev", "tmpfs", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
        mount(
            "/dev/pts",
            "devpts",
            "devpts",
            &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
        ),
        mount("/dev/shm", "tmpfs", "shm", &["nosuid", "noexec", "nodev", "mode=1777", "size=65536k"]),
        mount("/dev/mqueue", "mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
        mount("/sys", "sysfs", "sysfs", &["nosuid", "noexec", "nodev", "ro"]),
        mount("/sys/fs/cgroup", "cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", "ro"]),
    ];
    for volume in &config.volumes {
        mounts.push(mount(volume, "tmpfs", "tmpfs", &["nosuid", "nodev"]));
    }
    let namespaces = ["pid", "ipc", "uts", "mount", "network"].map(|kind| json!({ "type": kind }));
    json!({
        "ociVersion": "1.0.2",
        "process": {
            "terminal": args.terminal,
            "user": { "uid": user.uid, "gid": user.gid, "additionalGids": user.additional_gids },
            "args": command,
            "env": environment(args, config, user),
            "cwd": config.working_dir.as_deref().unwrap_or("/"),
            "capabilities": { "bounding": CAPABILITIES, "effective": CAPABILITIES, "permitted": CAPABILITIES },
            "rlimits": [{ "type": "RLIMIT_NOFILE", "hard": 1024, "soft": 1024 }],
            "noNewPrivileges": true,
        },
        "root": { "path": args.root_path, "readonly": false },
        "hostname": "container",
        "mounts": mounts,
        "annotations": annotations(config),
        "linux": {
            "resources": { "devices": [{ "allow": false, "access": "rwm" }] },
            "namespaces": namespaces,
            "maskedPaths": [
                "/proc/acpi", "/proc/asound", "/proc/kcore", "/proc/keys", "/proc/latency_stats", "/proc/timer_list",
                "/proc/timer_stats", "/proc/sched_debug", "/proc/scsi", "/sys/firmware",
            ],
            "readonlyPaths": ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"],
        },
    })
}
