//! The workers, each in its own slot, and the notes about them.

use std::path::Path;
use std::process::Command;
use std::sync::MutexGuard as StdMutexGuard;
use std::sync::atomic::AtomicUsize;
use std::time::Duration;

use tokio::sync::{Mutex, MutexGuard};

use crate::deployment::{Deployment, PROGRAM, WORKERS};
use crate::reconcile::Losses;
use crate::support::process::{Running, Signal};
use crate::support::proxy::Proxy;
use crate::support::{PATIENCE, clock, unique};

/// A worker's slot: its proxies stay when the worker changes.
pub(crate) struct WorkerSlot {
    pub(crate) number: usize,
    /// Locked by a fault that affects the worker.
    pub(crate) worker: Mutex<Option<Worker>>,
    pub(crate) to_postgres: Mutex<Proxy>,
    pub(crate) to_redis: Mutex<Proxy>,
    /// The ports of the proxies to PostgreSQL and to Redis.
    pub(crate) ports: (u16, u16),
    /// The number of workers that have been in the slot.
    pub(crate) deployments: AtomicUsize,
}

pub(crate) struct Worker {
    pub(crate) name: String,
    pub(crate) running: Running,
}

/// Observations during a phase.
#[derive(Default)]
pub(crate) struct Notes {
    /// The logs of ended workers.
    pub(crate) logs: String,
    /// When each fault began and ended.
    pub(crate) course: String,
    /// Workers that ended by themselves, with their last log lines.
    pub(crate) deaths: Vec<String>,
    pub(crate) takeovers: Vec<Duration>,
    /// Findings of the faults' own checks.
    pub(crate) findings: Vec<String>,
    /// Acknowledged writes that a server lost.
    pub(crate) losses: Losses,
}

impl Notes {
    pub(crate) fn course(&mut self, what: &str) {
        self.course += &format!("{} {what}\n", chrono::Utc::now().format("%T%.3f"));
    }
}

impl WorkerSlot {
    pub(crate) async fn new(number: usize, postgres: u16, redis: u16) -> Self {
        let (to_postgres, to_redis) = (Proxy::to(postgres).await, Proxy::to(redis).await);
        let ports = (to_postgres.port(), to_redis.port());
        Self {
            number,
            worker: Mutex::default(),
            to_postgres: Mutex::new(to_postgres),
            to_redis: Mutex::new(to_redis),
            ports,
            deployments: AtomicUsize::new(0),
        }
    }
}

impl Deployment {
    pub(crate) fn worker(&self, slot: &WorkerSlot, clock_ahead: i64, settings: &[(&str, &str)]) -> Worker {
        let name = unique(&format!("worker-{}", slot.number));
        match self.own_worker(slot, &name) {
            Some(command) => self.launch(command, name, slot, clock_ahead, settings),
            None => self.worker_of(Path::new(PROGRAM), slot, clock_ahead, settings),
        }
    }

    /// Starts a worker whose clock is shifted by this many seconds, with additional settings.
    pub(crate) fn worker_of(
        &self,
        program: &Path,
        slot: &WorkerSlot,
        clock_ahead: i64,
        settings: &[(&str, &str)],
    ) -> Worker {
        let name = unique(&format!("worker-{}", slot.number));
        let command = self.program(program, slot, &["worker", "--name", &name]);
        self.launch(command, name, slot, clock_ahead, settings)
    }

    fn launch(
        &self,
        mut command: Command,
        name: String,
        slot: &WorkerSlot,
        clock_ahead: i64,
        settings: &[(&str, &str)],
    ) -> Worker {
        // The server shows the name for each connection.
        command.env("DATABASE_URL", format!("{}?application_name={name}", self.address(slot)));
        command.envs(settings.iter().copied());
        if clock_ahead != 0 {
            clock::shift(&mut command, clock_ahead);
        }
        let running = Running::spawn(&mut command);
        self.processes.lock().unwrap().push(running.id());
        Worker { name, running }
    }

    pub(crate) async fn start_workers(&self) {
        for slot in &self.slots[..WORKERS] {
            *slot.worker.lock().await = Some(self.worker(slot, 0, &[]));
        }
    }

    /// Locks the slot and its worker, which is replaced if it has ended by itself.
    pub(crate) async fn at(&self, slot: usize) -> (&WorkerSlot, MutexGuard<'_, Option<Worker>>) {
        let slot = &self.slots[slot];
        let mut worker = slot.worker.lock().await;
        if let Some(ended) = worker.take_if(|worker| !worker.running.is_running()) {
            self.note_death(ended);
            *worker = Some(self.worker(slot, 0, &[]));
        }
        (slot, worker)
    }

    /// Ends a worker with a signal and keeps its log; `None` if there is none.
    pub(crate) async fn end(&self, worker: &mut Option<Worker>, signal: Signal) {
        let Some(mut worker) = worker.take() else { return };
        if !worker.running.is_running() {
            return self.note_death(worker);
        }
        worker.running.signal(signal);
        worker.running.wait_exit(PATIENCE).await;
        self.keep_log(&worker);
    }

    pub(crate) fn note_death(&self, mut worker: Worker) {
        worker.running.kill();
        self.keep_log(&worker);
        let said = worker.running.stderr();
        // It started while its password was refused: a process manager starts it again, and so does this.
        if said.lines().last().is_some_and(|line| line.starts_with("error: no access to the database")) {
            return;
        }
        let last: Vec<&str> = said.lines().rev().take(3).collect();
        self.notes().deaths.push(format!("{}: {}", worker.name, last.join(" | ")));
    }

    fn keep_log(&self, worker: &Worker) {
        let said = worker.running.stderr();
        self.notes().logs += &format!("=== {}\n{said}\n", worker.name);
    }

    pub(crate) fn notes(&self) -> StdMutexGuard<'_, Notes> {
        self.notes.lock().unwrap()
    }

    /// Ends all workers gracefully.
    pub(crate) async fn stop_workers(&self) {
        for slot in 0..self.slots.len() {
            let (_, mut worker) = self.at(slot).await;
            self.end(&mut worker, Signal::TERM).await;
        }
    }
}
