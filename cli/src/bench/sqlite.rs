//! The figures of SQLite: how fast a worker drains into a file of lines, and the cost of publishing.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context;
use serde_json::json;
use tokio::task::JoinSet;
use uuid::Uuid;

use super::pace::Pace;
use super::publishing::{event, send, sum_rates};
use super::report::BenchReport;
use super::system::System;
use super::worker::BenchWorker;
use super::{Args, Bench, alternate, require_whole_run, until_interrupted};
use actix_outbox::admin::{CountMode, OutboxAdmin};
use actix_outbox::{PublisherSettings, Settings};

/// The part of the folder's name before a unique number.
const MARK: &str = ".bench-";

/// Events of a backlog that are written in one transaction.
const PAGE: u32 = 1_000;

const SENDERS: usize = 64;

#[derive(Debug, Clone, Copy)]
enum SqliteRun {
    Drain,
    Publish,
    Send,
}

const RUNS: [SqliteRun; 3] = [SqliteRun::Drain, SqliteRun::Publish, SqliteRun::Send];

pub(super) async fn measure(args: &Args, settings: &Settings) -> anyhow::Result<BenchReport> {
    require_whole_run(args, "a sqlite:// file")?;
    let url = settings.database.url.read()?;
    let path = url.strip_prefix("sqlite:").map_or(&*url, |rest| rest.strip_prefix("//").unwrap_or(rest));
    remove_abandoned(path)?;
    let folder = Folder::create(path)?;
    let mut bench = Bench::new(args, folder, u64::from(args.rounds) * RUNS.len() as u64);
    until_interrupted(perform(&mut bench)).await?;
    Ok(BenchReport::new(bench.events, bench.rounds, "SQLite".to_owned(), None, &bench.samples))
}

async fn perform(bench: &mut Bench<Folder>) -> anyhow::Result<()> {
    let (events, span) = (bench.events, bench.span());
    for round in 0..bench.rounds {
        for run in alternate(&RUNS, round) {
            bench.step("SQLite");
            let file = bench.env.new_file().await?;
            let (name, rate) = match run {
                SqliteRun::Drain => ("sqlite.drain", drain(&file, events).await?),
                SqliteRun::Publish => ("sqlite.publish", publish_one_by_one(&file, span).await?),
                SqliteRun::Send => ("sqlite.send.64", send_together(&file, span).await?),
            };
            bench.samples.record(name, rate);
        }
    }
    Ok(())
}

/// The run's own folder next to the database, on the same disk; removed when dropped.
struct Folder {
    path: PathBuf,
    /// Locked while the run is alive.
    _lock: File,
    file_count: u32,
}

impl Folder {
    fn create(database: &str) -> anyhow::Result<Self> {
        let path = PathBuf::from(format!("{database}{MARK}{}", &Uuid::new_v4().simple().to_string()[..12]));
        let made = || {
            std::fs::create_dir(&path)?;
            let lock = File::create(path.join("lock"))?;
            lock.lock()?;
            std::io::Result::Ok(lock)
        };
        let lock = made().with_context(|| format!("cannot create the folder {} to measure in", path.display()))?;
        Ok(Self { path, _lock: lock, file_count: 0 })
    }

    /// Creates an empty database, and removes the previous one.
    async fn new_file(&mut self) -> anyhow::Result<BenchFile> {
        self.file_count += 1;
        // If this fails, the files are removed with the folder.
        let _ = std::fs::remove_dir_all(self.path.join((self.file_count - 1).to_string()));
        let path = self.path.join(self.file_count.to_string());
        std::fs::create_dir(&path).with_context(|| format!("cannot create the folder {}", path.display()))?;
        let mut settings = Settings::default();
        settings.database.url = format!("sqlite://{}", path.join("outbox.db").display()).as_str().into();
        let admin = OutboxAdmin::new(&settings)?;
        admin.migrate(|_| ()).await?;
        let lines = path.join("lines.jsonl").display().to_string();
        let mut publisher = PublisherSettings::default();
        (publisher.backend, publisher.path) = ("jsonl".to_owned(), Some(lines));
        settings.publishers.insert("default".to_owned(), publisher);
        Ok(BenchFile { settings, admin })
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.path) {
            drop(writeln!(std::io::stderr(), "cannot remove {}: {error}; remove it by hand", self.path.display()));
        }
    }
}

/// Removes the folders of killed runs, and reports it.
fn remove_abandoned(database: &str) -> anyhow::Result<()> {
    let database = Path::new(database);
    let folder = database.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let name = database.file_name().context("the database's address names no file")?.to_string_lossy();
    let entries = std::fs::read_dir(folder).with_context(|| format!("cannot read the folder {}", folder.display()))?;
    for path in entries.flatten().map(|entry| entry.path()) {
        let ours = path.file_name().is_some_and(|other| other.to_string_lossy().starts_with(&format!("{name}{MARK}")));
        let lock = if ours { File::open(path.join("lock")).ok() } else { None };
        if lock.is_some_and(|lock| lock.try_lock().is_ok()) && std::fs::remove_dir_all(&path).is_ok() {
            drop(writeln!(std::io::stderr(), "removed the leftovers of a killed run: {}", path.display()));
        }
    }
    Ok(())
}

/// One measurement's database.
struct BenchFile {
    settings: Settings,
    admin: OutboxAdmin,
}

/// Events a second, from the worker's start to its end.
async fn drain(file: &BenchFile, events: u32) -> anyhow::Result<f64> {
    let mut left = events;
    while left > 0 {
        let count = left.min(PAGE);
        file.admin.publish_many((0..count).map(|_| event()).collect()).await?;
        left -= count;
    }
    let publishers: serde_json::Map<_, _> = file
        .settings
        .publishers
        .iter()
        .map(|(name, publisher)| (name.clone(), json!({ "backend": publisher.backend, "path": publisher.path })))
        .collect();
    let variables = vec![
        ("OUTBOX__DATABASE__URL", file.settings.database.url.read()?.into_owned()),
        ("OUTBOX__PUBLISHERS", serde_json::Value::Object(publishers).to_string()),
    ];
    let started = Instant::now();
    BenchWorker::start(variables, &["--until-empty"])?.wait().await?;
    let rate = f64::from(events) / started.elapsed().as_secs_f64();
    let counts = file.admin.status(CountMode::Exactly).await?.counts;
    let published = counts.get("published").copied().unwrap_or(0);
    anyhow::ensure!(published == i64::from(events), "the worker published {published} of {events} events");
    Ok(rate)
}

/// Events a second from 64 concurrent senders, each event in its own transaction.
async fn publish_one_by_one(file: &BenchFile, span: Duration) -> anyhow::Result<f64> {
    let admin = OutboxAdmin::new(&file.settings)?;
    let senders: JoinSet<_> = (0..SENDERS).map(|_| publish_each(admin.clone(), span)).collect();
    sum_rates(senders).await
}

async fn publish_each(admin: OutboxAdmin, span: Duration) -> anyhow::Result<f64> {
    let mut pace = Pace::over(span);
    while pace.should_continue() {
        admin.publish(event()).await?;
    }
    Ok(pace.rate())
}

/// Events a second from 64 senders of one system.
async fn send_together(file: &BenchFile, span: Duration) -> anyhow::Result<f64> {
    let system = System::start(file.settings.clone(), true).await?;
    sum_rates((0..SENDERS).map(|_| send(system.outbox.clone(), span)).collect()).await
}
