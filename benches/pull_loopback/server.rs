//! The registry, in a process of its own, with the images of one work.
//!
//! nginx, where it is installed, serves them from files; otherwise the registry of `oci_puller::testing` does from
//! memory. Both end with this process at the latest.

use std::fs;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream};
use std::os::fd::AsRawFd;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use oci_puller::testing::Registry;
use oci_puller::testing::images::{Image, Part};
use rustix::io::{FdFlags, fcntl_setfd};
use rustix::process::{Pid, Signal, kill_process};

use super::catalog::{Catalog, TAG};
use super::wide::WideArea;
use super::works::Work;
use super::{Outcome, Role, measure};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    Nginx,
    Own,
}

impl Kind {
    /// Returns nginx if it is installed.
    pub(crate) fn found() -> Kind {
        let answer = Command::new("nginx").arg("-v").stderr(Stdio::null()).status();
        if answer.is_ok_and(|status| status.success()) { Kind::Nginx } else { Kind::Own }
    }

    pub(crate) fn name(self) -> &'static str {
        match self {
            Kind::Nginx => "nginx",
            Kind::Own => "the crate's testing registry",
        }
    }

    /// Starts the server for a work. Its files are in `folder`, which exists and is empty.
    pub(crate) fn start(self, work: Work, scale: f64, folder: &Path) -> Outcome<Server> {
        let process = match self {
            Kind::Nginx => start_nginx(work, scale, folder)?,
            Kind::Own => start_own(work, scale, folder)?,
        };
        let server = Server { catalog: Catalog::read(&folder.join(CATALOG))?, processes: vec![process] };
        greet(&server.catalog.host).map_err(|error| {
            let log = fs::read_to_string(folder.join("error.log")).unwrap_or_default();
            format!("{} does not answer: {error}; {log}", self.name())
        })?;
        Ok(server)
    }
}

/// Checks that the server implements the registry API.
fn greet(host: &str) -> io::Result<()> {
    let mut stream = TcpStream::connect(host)?;
    stream.write_all(format!("GET /v2/ HTTP/1.1\r\nHost: {host}\r\n\r\n").as_bytes())?;
    stream.read_exact(&mut [0; "HTTP/1.1 200".len()])
}

/// The file of the server's catalogue.
pub(crate) const CATALOG: &str = "catalog";

/// A server that runs until it is dropped.
#[derive(Debug)]
pub(crate) struct Server {
    pub(crate) catalog: Catalog,
    processes: Vec<Process>,
}

impl Server {
    /// Puts a wide area before it: from now on the catalogue, that in `folder` too, leads through a proxy.
    pub(crate) fn move_away(&mut self, area: WideArea, folder: &Path) -> Outcome<()> {
        let (proxy, host) = start_role(&Role::Proxy { server: self.catalog.host.clone(), area })?;
        self.catalog = self.catalog.moved_to(&host);
        self.processes.push(proxy);
        self.catalog.write(&folder.join(CATALOG))
    }
}

/// A process that runs until it is dropped.
#[derive(Debug)]
struct Process(Child);

impl Drop for Process {
    fn drop(&mut self) {
        // On SIGTERM, nginx ends its workers, too. The process may have ended already.
        if let Some(pid) = Pid::from_raw(self.0.id().cast_signed()) {
            let _ = kill_process(pid, Signal::TERM);
        }
        let _ = self.0.wait();
    }
}

/// Starts the process of a serving role. Returns it, and the line in which it reports its address.
fn start_role(role: &Role) -> Outcome<(Process, String)> {
    let mut child = role.command()?.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn()?;
    let words = child.stdout.take();
    let process = Process(child);
    let mut line = String::new();
    if let Some(words) = words {
        BufReader::new(words).read_line(&mut line)?;
    }
    match line.strip_suffix('\n') {
        Some(line) => Ok((process, line.to_owned())),
        None => Err(format!("{role:?} did not start").into()),
    }
}

fn start_own(work: Work, scale: f64, folder: &Path) -> Outcome<Process> {
    let (process, _) = start_role(&Role::Registry { work, scale, folder: folder.to_owned() })?;
    Ok(process)
}

/// The role: serves until the other end of its standard input is closed.
pub(crate) fn serve(work: Work, scale: f64, folder: &Path) -> Outcome<()> {
    // The peers are up to eight processes with several connections each.
    let registry = Registry::builder().max_connections(256).start()?;
    let images = work.images(scale);
    for image in &images {
        registry.push(image, TAG);
    }
    Catalog::of(&registry.host(), &images).write(&folder.join(CATALOG))?;
    println!("ready");
    io::copy(&mut io::stdin(), &mut io::sink())?;
    Ok(())
}

/// nginx inherits a listening socket, as when it replaces itself: clients need not wait for its start, and no other
/// program can take its port.
fn start_nginx(work: Work, scale: f64, folder: &Path) -> Outcome<Process> {
    let socket = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let host = socket.local_addr()?.to_string();
    measure::run_one(Role::Tree { work, scale, folder: folder.to_owned(), host }.command()?)?;
    fcntl_setfd(&socket, FdFlags::empty())?;
    let process = Command::new("nginx")
        .args(["-e", "error.log", "-c", "nginx.conf", "-p"])
        .arg(folder)
        .env("NGINX", format!("{};", socket.as_raw_fd()))
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()?;
    Ok(Process(process))
}

/// The role: lays the images out as the files of a registry's answers, with nginx's configuration.
pub(crate) fn lay_out(work: Work, scale: f64, folder: &Path, host: &str) -> Outcome<()> {
    let images = work.images(scale);
    let mut locations = String::new();
    for image in &images {
        let tree = folder.join("v2").join(image.repository());
        fs::create_dir_all(tree.join("blobs"))?;
        fs::create_dir_all(tree.join("manifests"))?;
        for part in image.blobs() {
            put(folder, part, &tree.join("blobs").join(part.digest.as_str()))?;
        }
        for part in image.documents() {
            put(folder, part, &tree.join("manifests").join(part.digest.as_str()))?;
        }
        put(folder, image.root(), &tree.join("manifests").join(TAG))?;
        locations += &manifest_locations(image);
    }
    fs::write(folder.join("nginx.conf"), configuration(folder, host, &locations))?;
    Catalog::of(host, &images).write(&folder.join(CATALOG))
}

/// A blob that several images have is one file with several names.
fn put(folder: &Path, part: &Part, at: &Path) -> io::Result<()> {
    let file = folder.join(part.digest.hex());
    if !file.exists() {
        fs::write(&file, &part.data)?;
    }
    match fs::hard_link(file, at) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
        outcome => outcome,
    }
}

fn manifest_locations(image: &Image) -> String {
    let (repository, media_type, digest) = (image.repository(), image.media_type(), image.digest());
    let location = |reference: &str| {
        format!(
            "    location = /v2/{repository}/manifests/{reference} {{
      default_type {media_type};
      add_header Docker-Content-Digest {digest};
    }}\n"
        )
    };
    location(TAG) + &location(digest.as_str())
}

/// It runs in the foreground with one worker of this user, and keeps connections and files open, so that the server
/// is not the bottleneck.
fn configuration(folder: &Path, host: &str, manifests: &str) -> String {
    format!(
        "daemon off;
user root;
pid nginx.pid;
error_log error.log;
events {{ worker_connections 1024; }}
http {{
  access_log off;
  types {{ }}
  default_type application/octet-stream;
  sendfile on;
  sendfile_max_chunk 2m;
  tcp_nodelay on;
  etag off;
  keepalive_requests 1000000;
  open_file_cache max=4096 inactive=1h;
  open_file_cache_valid 1h;
  open_file_cache_min_uses 1;
  client_body_temp_path temp;
  proxy_temp_path temp;
  fastcgi_temp_path temp;
  uwsgi_temp_path temp;
  scgi_temp_path temp;
  server {{
    listen {host};
    root '{root}';
    location = /v2/ {{ default_type application/json; return 200 '{{}}'; }}
{manifests}  }}
}}
",
        root = folder.display(),
    )
}
