//! The resources of programs: wall time, processor time, memory; and in a separate run, their system calls.

use std::collections::VecDeque;
use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::{Mutex, PoisonError};
use std::thread;
use std::time::{Duration, Instant};

use wait4::Wait4;

use super::{AT_ONCE, Outcome, Role};

/// The resources of one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    /// The time from before the start of its processes to their end.
    pub(crate) wall: Duration,
    /// User and system time of all processes.
    pub(crate) cpu: Duration,
    /// The highest peak of a process, bytes. A process inherits the peak of its parent, so this program stays small
    /// and makes its images in another process.
    pub(crate) memory: u64,
}

/// The system calls of one run.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Calls {
    pub(crate) count: u64,
    /// Bytes copied between program and kernel: the sum that reads, receives, writes and sends returned.
    pub(crate) copied: u64,
}

/// Runs the programs, up to eight in parallel. Returns an error if one of them fails.
pub(crate) fn run(commands: Vec<Command>) -> Outcome<Usage> {
    let threads = commands.len().min(AT_ONCE);
    let commands = Mutex::new(VecDeque::from(commands));
    let next = || commands.lock().unwrap_or_else(PoisonError::into_inner).pop_front();
    let work = || -> Outcome<(Duration, u64)> {
        let mut total = (Duration::ZERO, 0);
        while let Some(command) = next() {
            let usage = run_one(command)?;
            total = (total.0 + usage.cpu, total.1.max(usage.memory));
        }
        Ok(total)
    };
    let begun_at = Instant::now();
    let totals: Vec<_> = thread::scope(|scope| {
        let running: Vec<_> = (0..threads).map(|_| scope.spawn(work)).collect();
        running.into_iter().map(|thread| thread.join().map_err(|_| "a thread panicked")?).collect()
    });
    let mut usage = Usage { wall: begun_at.elapsed(), cpu: Duration::ZERO, memory: 0 };
    for total in totals {
        let (cpu, memory) = total?;
        usage.cpu += cpu;
        usage.memory = usage.memory.max(memory);
    }
    Ok(usage)
}

/// Runs one program.
pub(crate) fn run_one(mut command: Command) -> Outcome<Usage> {
    let begun_at = Instant::now();
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?;
    let mut complaint = Vec::new();
    if let Some(mut stderr) = child.stderr.take() {
        stderr.read_to_end(&mut complaint)?;
    }
    let used = child.wait4()?;
    let wall = begun_at.elapsed();
    if !used.status.success() {
        let program = command.get_program().to_string_lossy();
        let complaint = String::from_utf8_lossy(&complaint);
        let last = complaint.trim_end().lines().last().unwrap_or("it says nothing");
        return Err(format!("{program}: {}: {last}", used.status).into());
    }
    Ok(Usage { wall, cpu: used.rusage.utime + used.rusage.stime, memory: used.rusage.maxrss })
}

/// Gives all runs the same start: flushes the writes of earlier runs, and touches as much memory as the run will
/// need. Pages that a virtual machine has not used for long cost several microseconds each.
pub(crate) fn settle(bytes: u64) -> Outcome<()> {
    rustix::fs::sync();
    let bytes = bytes.min(free_memory().unwrap_or(0) / 2);
    run_one(Role::Touch { bytes }.command()?)?;
    Ok(())
}

/// Returns the available memory, bytes.
fn free_memory() -> Option<u64> {
    let facts = fs::read_to_string("/proc/meminfo").ok()?;
    let fact = facts.lines().find_map(|line| line.strip_prefix("MemAvailable:"))?;
    Some(fact.trim().strip_suffix(" kB")?.parse::<u64>().ok()? * 1024)
}

/// The role: uses this amount of memory.
pub(crate) fn touch(bytes: u64) -> Outcome<()> {
    let memory = vec![1_u8; usize::try_from(bytes)?];
    std::hint::black_box(&memory);
    Ok(())
}

pub(crate) fn can_trace() -> bool {
    let answer = Command::new("strace").arg("-V").stdout(Stdio::null()).stderr(Stdio::null()).status();
    answer.is_ok_and(|status| status.success())
}

/// Runs the programs under strace, which writes into `folder`.
pub(crate) fn trace(commands: &[Command], folder: &Path) -> Outcome<Calls> {
    let log = |number: usize| folder.join(number.to_string());
    let traced = |(number, command): (usize, &Command)| {
        let mut strace = Command::new("strace");
        strace.args(["-f", "-qq", "-s", "0", "-o"]).arg(log(number));
        strace.arg(command.get_program()).args(command.get_args());
        strace.envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
        strace
    };
    run(commands.iter().enumerate().map(traced).collect())?;
    let mut calls = Calls { count: 0, copied: 0 };
    for number in 0..commands.len() {
        // Line by line: this program keeps small.
        for line in BufReader::new(File::open(log(number))?).split(b'\n') {
            calls.note(&String::from_utf8_lossy(&line?));
        }
    }
    Ok(calls)
}

impl Calls {
    /// Reads a line of strace's: `PID name(…) = RESULT`. A call that another thread's came between has
    /// two lines, of which the second, `PID <... name resumed>…) = RESULT`, is counted.
    fn note(&mut self, line: &str) {
        let Some((_, call)) = line.split_once(' ') else { return };
        let Some((call, result)) = call.rsplit_once(" = ") else { return };
        self.count += 1;
        let call = call.trim_start().trim_start_matches("<... ");
        let name = call.split(['(', ' ']).next().unwrap_or_default();
        if COPYING.contains(&name) {
            let returned = result.split(' ').next().unwrap_or_default();
            // -1 is an error, and no bytes.
            self.copied += returned.parse().unwrap_or(0);
        }
    }
}

const COPYING: [&str; 16] = [
    "read", "readv", "pread64", "preadv", "preadv2", "recvfrom", "recvmsg", "recvmmsg", "write", "writev",
    "pwrite64", "pwritev", "pwritev2", "sendto", "sendmsg", "sendmmsg",
];
