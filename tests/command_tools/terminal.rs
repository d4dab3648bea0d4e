//! A terminal: a pty, and the screen that a program draws on it.

use std::fs::File;
use std::io::{self, Read};
use std::os::fd::OwnedFd;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Instant;

use parking_lot::{Condvar, Mutex};
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{Winsize, tcsetwinsize};

use crate::SOON;

/// A pty without a program.
pub struct Terminal {
    controller: OwnedFd,
    user: File,
    columns: usize,
}

/// A program at a terminal.
pub struct Session {
    child: Child,
    screen: Arc<Shared>,
    reader: JoinHandle<()>,
}

#[derive(Default)]
struct Shared {
    screen: Mutex<Screen>,
    changed: Condvar,
}

impl Terminal {
    /// Opens a pty of this size.
    ///
    /// # Errors
    /// The system has no ptys.
    pub fn open(columns: u16, rows: u16) -> io::Result<Self> {
        let controller = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY)?;
        grantpt(&controller)?;
        unlockpt(&controller)?;
        let name = ptsname(&controller, Vec::new())?;
        let user = rustix::fs::open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY, Mode::empty())?;
        let size = Winsize { ws_col: columns, ws_row: rows, ws_xpixel: 0, ws_ypixel: 0 };
        tcsetwinsize(&user, size)?;
        Ok(Terminal { controller, user: user.into(), columns: columns.into() })
    }

    /// Runs a program whose standard output and error are the terminal.
    pub fn run(self, mut command: Command) -> Session {
        let output = || Stdio::from(self.user.try_clone().unwrap());
        let child = command.stdin(Stdio::null()).stdout(output()).stderr(output()).spawn().unwrap();
        drop(command);
        drop(self.user);
        let screen = Arc::new(Shared::default());
        screen.screen.lock().columns = self.columns;
        let shared = Arc::clone(&screen);
        let mut controller = File::from(self.controller);
        let reader = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            // Linux reports the end as an error.
            while let Ok(read @ 1..) = controller.read(&mut bytes) {
                shared.screen.lock().write(&bytes[..read]);
                shared.changed.notify_all();
            }
        });
        Session { child, screen, reader }
    }
}

impl Session {
    /// Waits until the screen is as wanted, and returns its rows.
    #[track_caller]
    pub fn wait_for(&self, wanted: impl Fn(&[String]) -> bool) -> Vec<String> {
        let until = Instant::now() + SOON;
        let mut screen = self.screen.screen.lock();
        loop {
            let rows = screen.rows();
            if wanted(&rows) {
                return rows;
            }
            let timed_out = self.screen.changed.wait_until(&mut screen, until).timed_out();
            assert!(!timed_out, "the screen did not become what is wanted: {rows:#?}");
        }
    }

    /// Waits for the end of the program. Returns its status, the last screen, and all bytes that it wrote.
    pub fn end(mut self) -> (ExitStatus, Vec<String>, String) {
        let status = self.child.wait().unwrap();
        self.reader.join().unwrap();
        let screen = self.screen.screen.lock();
        (status, screen.rows(), String::from_utf8_lossy(&screen.written).into_owned())
    }
}

/// What a terminal shows: as much of VT100 as progress bars use.
#[derive(Default)]
struct Screen {
    columns: usize,
    rows: Vec<Vec<char>>,
    row: usize,
    column: usize,
    written: Vec<u8>,
    /// Bytes of a character or a control sequence whose end has not come.
    pending: Vec<u8>,
}

impl Screen {
    fn rows(&self) -> Vec<String> {
        self.rows.iter().map(|row| row.iter().collect::<String>().trim_end().to_owned()).collect()
    }

    fn write(&mut self, bytes: &[u8]) {
        self.written.extend_from_slice(bytes);
        for byte in bytes {
            self.pending.push(*byte);
            let is_whole = match &self.pending[..] {
                [0x1b] | [0x1b, b'['] => false,
                [0x1b, b'[', .., last] => (0x40..0x7f).contains(last),
                text => std::str::from_utf8(text).is_ok(),
            };
            if is_whole {
                let whole = std::mem::take(&mut self.pending);
                self.act(std::str::from_utf8(&whole).unwrap());
            }
        }
    }

    fn act(&mut self, text: &str) {
        if let Some(sequence) = text.strip_prefix("\u{1b}[") {
            let (parameter, command) = sequence.split_at(sequence.len() - 1);
            let count = parameter.parse().unwrap_or(1);
            match command {
                "A" => self.row = self.row.saturating_sub(count),
                "B" => self.row += count,
                "C" => self.column += count,
                "D" => self.column = self.column.saturating_sub(count),
                "K" if parameter == "2" => self.line().clear(),
                "K" => {
                    let column = self.column;
                    self.line().truncate(column);
                }
                "J" => {
                    let (row, column) = (self.row, self.column);
                    self.rows.truncate(row + 1);
                    self.line().truncate(column);
                }
                // Colours, and whether the cursor is shown.
                "m" | "h" | "l" => {}
                other => panic!("a control sequence that the test does not know: {parameter:?} {other:?}"),
            }
            return;
        }
        match text.chars().next().unwrap() {
            '\r' => self.column = 0,
            '\n' => {
                self.row += 1;
                self.line();
            }
            character => {
                if self.column >= self.columns {
                    (self.row, self.column) = (self.row + 1, 0);
                }
                let column = self.column;
                let line = self.line();
                line.resize(line.len().max(column + 1), ' ');
                line[column] = character;
                self.column += 1;
            }
        }
    }

    fn line(&mut self) -> &mut Vec<char> {
        let rows = self.rows.len().max(self.row + 1);
        self.rows.resize_with(rows, Vec::new);
        &mut self.rows[self.row]
    }
}
