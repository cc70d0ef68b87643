//! Programs that tests start, and that never outlive them.

use std::fs::File;
use std::io::{Read, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

pub(crate) use rustix::process::Signal;
use rustix::process::{Pid, kill_process};

/// How often a wait polls.
const TICK: Duration = Duration::from_millis(5);

/// How long a program that has ended may leave its output open, to programs that it has started.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// A running program whose output is collected; killed when dropped.
pub(crate) struct Running {
    name: String,
    child: Child,
    stdout: Captured,
    stderr: Captured,
    watchdog: Option<Watchdog>,
}

impl Running {
    pub(crate) fn spawn(command: &mut Command) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        let mut child = command
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap_or_else(|error| panic!("{name}: {error}"));
        let watchdog = Some(Watchdog::new(&child, Signal::KILL, None));
        let stdout = Captured::new(child.stdout.take().unwrap());
        let stderr = Captured::new(child.stderr.take().unwrap());
        Self { name, child, stdout, stderr, watchdog }
    }

    pub(crate) fn id(&self) -> u32 {
        self.child.id()
    }

    /// Its standard output so far; complete once it has ended.
    pub(crate) fn stdout(&self) -> String {
        self.stdout.text()
    }

    /// Its standard error so far; complete once it has ended.
    pub(crate) fn stderr(&self) -> String {
        self.stderr.text()
    }

    pub(crate) fn is_running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }

    /// Sends a signal, unless it has ended.
    pub(crate) fn signal(&mut self, signal: Signal) {
        send(&mut self.child, signal);
    }

    /// Kills it and waits for its end.
    pub(crate) fn kill(&mut self) {
        self.signal(Signal::KILL);
        self.ended();
    }

    /// Waits for its end; panics with its standard error if it still runs after `timeout`.
    pub(crate) async fn wait_exit(&mut self, timeout: Duration) -> ExitStatus {
        let started = Instant::now();
        while self.is_running() {
            assert!(started.elapsed() < timeout, "{} still runs after {timeout:?}: {}", self.name, self.stderr());
            tokio::time::sleep(TICK).await;
        }
        self.ended()
    }

    fn ended(&mut self) -> ExitStatus {
        let status = self.child.wait().unwrap();
        self.watchdog = None;
        self.stdout.finish();
        self.stderr.finish();
        status
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        signal_children(self.id(), Signal::KILL);
        self.kill();
        if std::thread::panicking() {
            eprintln!("--- stderr of {} ({})\n{}", self.name, self.id(), self.stderr());
        }
    }
}

/// A server that writes to a log file; killed when dropped.
pub(super) struct Daemon {
    name: String,
    child: Child,
    watchdog: Option<Watchdog>,
}

impl Daemon {
    /// Starts it. `last` is the signal that ends it after this process has ended; its folder is then removed.
    pub(super) fn spawn(command: &mut Command, log: &Path, last: Signal, folder: &Path) -> Self {
        let name = command.get_program().to_string_lossy().into_owned();
        let log = File::create(log).unwrap();
        command.stdin(Stdio::null()).stderr(log.try_clone().unwrap()).stdout(log);
        // Its own group: an interrupt from the terminal reaches only the tests; the watchdog ends the server after them.
        let child = command.process_group(0).spawn().unwrap_or_else(|error| panic!("{name}: {error}"));
        let watchdog = Some(Watchdog::new(&child, last, Some(folder)));
        Self { name, child, watchdog }
    }

    /// Waits until it is ready; `false` if it has ended instead.
    pub(super) fn wait_ready(&mut self, timeout: Duration, is_ready: impl Fn(u32) -> bool) -> bool {
        let started = Instant::now();
        while self.child.try_wait().unwrap().is_none() {
            if is_ready(self.child.id()) {
                return true;
            }
            assert!(started.elapsed() < timeout, "{} does not get ready within {timeout:?}", self.name);
            std::thread::sleep(TICK);
        }
        false
    }

    pub(super) fn signal(&mut self, signal: Signal) {
        send(&mut self.child, signal);
    }

    /// Sends a signal to each process that it has started itself.
    pub(super) fn signal_children(&mut self, signal: Signal) {
        signal_children(self.child.id(), signal);
    }

    /// Sends a signal and waits for the end; kills the process if it does not end within `timeout`.
    pub(super) fn end(mut self, signal: Signal, timeout: Duration) {
        self.signal(signal);
        let started = Instant::now();
        while self.child.try_wait().unwrap().is_none() && started.elapsed() < timeout {
            std::thread::sleep(TICK);
        }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        self.signal(Signal::KILL);
        self.child.wait().unwrap();
        self.watchdog = None;
    }
}

fn processes() -> impl Iterator<Item = u32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().to_str()?.parse().ok())
}

fn parent_of(id: u32) -> Option<u32> {
    let status = std::fs::read_to_string(format!("/proc/{id}/status")).ok()?;
    status.lines().find_map(|line| line.strip_prefix("PPid:"))?.trim().parse().ok()
}

/// Sends a signal to each process that `parent` has started itself.
fn signal_children(parent: u32, signal: Signal) {
    for child in processes().filter(|id| parent_of(*id) == Some(parent)).filter_map(|id| Pid::from_raw(id as i32)) {
        // A process that has ended since needs no signal.
        let _ = kill_process(child, signal);
    }
}

/// Sends a signal to a child, unless it has ended; one that was not waited for still owns its id.
fn send(child: &mut Child, signal: Signal) {
    if child.try_wait().unwrap().is_none() {
        kill_process(Pid::from_child(child), signal).unwrap();
    }
}

/// Ends a child after this process has ended for any reason, and then removes the child's folder.
///
/// It is a shell that reads a pipe whose other end only this process holds: a line means that it is no longer needed, the
/// end of the pipe that this process has ended. It has its own process group, so that an interrupt from the terminal does
/// not end it first.
struct Watchdog {
    shell: Child,
}

impl Watchdog {
    const SCRIPT: &str = r#"
        read -r _ && exit
        kill -s "$2" "$1" && kill -s CONT "$1"
        runs() { kill -s 0 "$1" && ! grep -q "^State:.*zombie" "/proc/$1/status"; }
        tries=0
        while runs "$1" && [ "$tries" -lt 50 ]; do sleep 0.1; tries=$((tries + 1)); done
        [ -z "$3" ] || rm -rf -- "$3"
    "#;

    fn new(child: &Child, signal: Signal, folder: Option<&Path>) -> Self {
        let signal = if signal == Signal::QUIT { "QUIT" } else { "KILL" };
        let shell = Command::new("sh")
            .args(["-c", Self::SCRIPT, "watchdog", &child.id().to_string(), signal])
            .arg(folder.unwrap_or(Path::new("")))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("sh");
        Self { shell }
    }
}

impl Drop for Watchdog {
    fn drop(&mut self) {
        let mut pipe = self.shell.stdin.take().unwrap();
        // If the shell was killed, the write fails.
        let _ = pipe.write_all(b"done\n");
        self.shell.wait().unwrap();
    }
}

/// The output of a program, collected by a thread.
struct Captured {
    bytes: Arc<Mutex<Vec<u8>>>,
    reader: Option<JoinHandle<()>>,
}

impl Captured {
    fn new(mut pipe: impl Read + Send + 'static) -> Self {
        let bytes = Arc::new(Mutex::new(Vec::new()));
        let shared = Arc::clone(&bytes);
        let reader = std::thread::spawn(move || {
            let mut chunk = [0; 8192];
            while let Ok(length @ 1..) = pipe.read(&mut chunk) {
                shared.lock().unwrap().extend_from_slice(&chunk[..length]);
            }
        });
        Self { bytes, reader: Some(reader) }
    }

    fn text(&self) -> String {
        String::from_utf8_lossy(&self.bytes.lock().unwrap()).into_owned()
    }

    fn finish(&mut self) {
        let Some(reader) = self.reader.take() else { return };
        let started = Instant::now();
        while !reader.is_finished() && started.elapsed() < LAST_WORDS {
            std::thread::sleep(TICK);
        }
    }
}
