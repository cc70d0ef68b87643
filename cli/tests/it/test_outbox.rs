//! The outbox of one test: a database, a stream, settings files, and the program that uses them.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use actix_outbox::Settings;
use tempfile::TempDir;
use tokio_postgres::Client;

use crate::support::postgres::{self, Database};
use crate::support::process::Running;
use crate::support::{PATIENCE, eventually, redis, unique};

/// How long draining some thousands of events may take, with an unoptimised program on a busy machine.
pub(crate) const DRAIN: Duration = Duration::from_secs(120);

pub(crate) struct TestOutbox {
    database: Database,
    /// The Redis in which tests read the stream.
    redis_url: String,
    /// The line of a `[publishers.*]` with the address of Redis.
    address: String,
    stream: String,
    folder: TempDir,
}

/// A settings file: the outbox's database and stream, with further lines of TOML.
pub(crate) struct SettingsFile<'a> {
    test: &'a TestOutbox,
    worker: String,
    publisher: String,
}

impl SettingsFile<'_> {
    /// Lines of `[worker]`.
    pub(crate) fn worker(self, lines: impl AsRef<str>) -> Self {
        Self { worker: lines.as_ref().to_owned(), ..self }
    }

    /// Lines of `[publishers.default]`.
    pub(crate) fn publisher(self, lines: impl AsRef<str>) -> Self {
        Self { publisher: lines.as_ref().to_owned(), ..self }
    }

    /// Writes the file; returns its path.
    pub(crate) fn write(self) -> PathBuf {
        let Self { test, worker, publisher } = self;
        let TestOutbox { database, address, stream, .. } = test;
        test.file(&format!(
            "[database]\nurl = \"{}\"\n\n[publishers.default]\nbackend = \"redis_stream\"\n{address}\n\
             stream_name = \"{stream}\"\nmax_len = 0\n{publisher}\n\n[worker]\n{worker}\n",
            database.url
        ))
    }
}

impl TestOutbox {
    /// On the shared servers, migrated.
    pub(crate) async fn new() -> Self {
        Self::on(postgres::database().await, redis::url()).await
    }

    /// On servers of the test's choice, migrated.
    pub(crate) async fn on(database: Database, redis_url: String) -> Self {
        Self::unmigrated(database, redis_url).migrate()
    }

    /// Like [`on`](Self::on), with other settings for the address of Redis.
    pub(crate) async fn found_by(address: String, redis_url: String) -> Self {
        let test = Self::unmigrated(postgres::database().await, redis_url);
        Self { address, ..test }.migrate()
    }

    /// Connects to its database over another port after this call.
    pub(crate) fn through(mut self, port: u16) -> Self {
        self.database = self.database.at(port);
        self
    }

    fn migrate(self) -> Self {
        let migrated = self.outbox(&self.settings().write(), &["migrate"]).output().unwrap();
        assert!(migrated.status.success(), "outbox migrate: {}", String::from_utf8_lossy(&migrated.stderr));
        self
    }

    pub(crate) fn unmigrated(database: Database, redis_url: String) -> Self {
        let address = format!("url = \"{redis_url}\"");
        Self { database, redis_url, address, stream: redis::stream(), folder: tempfile::tempdir().unwrap() }
    }

    /// A settings file of this outbox, to be completed and written.
    pub(crate) fn settings(&self) -> SettingsFile<'_> {
        SettingsFile { test: self, worker: String::new(), publisher: String::new() }
    }

    /// A settings file with this text.
    pub(crate) fn file(&self, text: &str) -> PathBuf {
        let path = self.folder.path().join(unique("settings")).with_extension("toml");
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Settings for a system inside the test: this database, and these tables of TOML.
    pub(crate) fn system_settings(&self, tables: &str) -> Settings {
        Settings::from_toml(&format!("[database]\nurl = \"{}\"\n{tables}", self.database.url)).unwrap()
    }

    /// The lines of a `[publishers.*]` that publishes into this test's stream.
    pub(crate) fn stream(&self) -> String {
        let Self { address, stream, .. } = self;
        format!("backend = \"redis_stream\"\n{address}\nstream_name = \"{stream}\"\nmax_len = 0\n")
    }

    pub(crate) fn database(&self) -> &Database {
        &self.database
    }

    /// The database's address.
    pub(crate) fn url(&self) -> &str {
        &self.database.url
    }

    /// Reads the stream from another server after this call.
    pub(crate) fn read_from(&mut self, redis_url: String) {
        self.redis_url = redis_url;
    }

    pub(crate) fn redis_url(&self) -> &str {
        &self.redis_url
    }

    pub(crate) fn stream_name(&self) -> &str {
        &self.stream
    }

    /// The program with nothing from the environment of the tests.
    pub(crate) fn outbox(&self, settings: &Path, arguments: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_outbox"));
        for (name, _) in std::env::vars_os() {
            if name == "DATABASE_URL" || name.to_string_lossy().starts_with("OUTBOX_") {
                command.env_remove(name);
            }
        }
        command.current_dir(self.folder.path()).args(arguments).arg("--config").arg(settings);
        command
    }

    /// A running `outbox worker`.
    pub(crate) fn worker(&self, settings: &Path, name: &str) -> Running {
        Running::spawn(&mut self.outbox(settings, &["worker", "--name", name]))
    }

    /// Runs the program and asserts that it succeeds.
    pub(crate) async fn run(&self, arguments: &[&str]) {
        let mut program = Running::spawn(&mut self.outbox(&self.settings().write(), arguments));
        assert!(program.wait_exit(PATIENCE).await.success(), "{arguments:?}: {}", program.stderr());
    }

    /// Runs a worker until no event is due.
    pub(crate) async fn drain(&self, settings: &Path) {
        let mut worker = Running::spawn(&mut self.outbox(settings, &["worker", "--until-empty"]));
        let status = worker.wait_exit(DRAIN).await;
        assert!(status.success(), "{status}: {}", worker.stderr());
    }

    pub(crate) async fn sql(&self) -> Client {
        self.database.connect().await
    }

    /// The single number that a query returns.
    pub(crate) async fn number(&self, query: &str) -> i64 {
        self.sql().await.query_one(query, &[]).await.unwrap().get(0)
    }

    /// Writes `count` events in one transaction, spread over `keys` keys.
    pub(crate) async fn insert(&self, count: i32, keys: i32) {
        let statement = "INSERT INTO outbox_events (id, event_type, source, data, partition_key)
            SELECT gen_random_uuid(), 'thing.happened', 'tests', jsonb_build_object('n', n), 'key-' || n % $2
            FROM generate_series(1, $1) n";
        self.sql().await.execute(statement, &[&count, &keys]).await.unwrap();
    }

    pub(crate) async fn unpublished(&self) -> i64 {
        self.number("SELECT count(*) FROM outbox_events WHERE status <> 'published'").await
    }

    pub(crate) async fn published(&self) -> i64 {
        self.number("SELECT count(*) FROM outbox_events WHERE status = 'published'").await
    }

    /// The number of entries in the stream.
    pub(crate) async fn length(&self) -> usize {
        redis::length(&mut redis::connect(&self.redis_url).await, &self.stream).await
    }

    pub(crate) async fn event_ids(&self) -> Vec<String> {
        redis::event_ids(&self.redis_url, &self.stream).await
    }

    pub(crate) async fn redis(&self) -> ::redis::aio::MultiplexedConnection {
        redis::connect(&self.redis_url).await
    }

    /// Waits until the stream has `length` entries.
    pub(crate) async fn wait_length(&self, length: usize) {
        let mut redis = self.redis().await;
        let what = format!("the stream has {length} entries");
        eventually(&what, DRAIN, async || redis::length(&mut redis, &self.stream).await >= length).await;
    }

    /// Waits until each of the named workers owns shards.
    pub(crate) async fn wait_owners(&self, names: &[&str]) {
        let statement =
            "SELECT count(DISTINCT w.name) FROM outbox_running_leases l JOIN outbox_workers w ON w.id = l.owner
            WHERE w.name = ANY($1)";
        let sql = self.sql().await;
        eventually(&format!("{names:?} own shards"), PATIENCE, async || {
            sql.query_one(statement, &[&names]).await.unwrap().get::<_, i64>(0) == names.len() as i64
        })
        .await;
    }

    /// Lists every event in a table of its own, from now on: rows of events are deleted once they are done.
    pub(crate) async fn keep_list(&self) {
        const LIST: &str =
            "CREATE TABLE written AS SELECT id, partition_key, scheduled_at, seq FROM outbox_events WHERE false;
            CREATE FUNCTION list_event() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
                INSERT INTO written VALUES (NEW.id, NEW.partition_key, NEW.scheduled_at, NEW.seq); RETURN NULL; END $$;
            CREATE TRIGGER list_event AFTER INSERT ON outbox_events FOR EACH ROW EXECUTE FUNCTION list_event()";
        self.sql().await.batch_execute(LIST).await.unwrap();
    }

    /// Waits until every event is recorded as published.
    pub(crate) async fn wait_published(&self) {
        eventually("every event is published", DRAIN, async || self.unpublished().await == 0).await;
    }

    /// Asserts that every event, of the list if there is one, is in the stream once, and each key's events in order.
    pub(crate) async fn assert_delivered(&self) {
        self.assert_delivered_as(&self.event_ids().await).await;
    }

    /// The same for entries that were read elsewhere.
    pub(crate) async fn assert_delivered_as(&self, stream: &[String]) {
        let has_list = self.number("SELECT (to_regclass('written') IS NOT NULL)::int::bigint").await == 1;
        let events = if has_list { "written" } else { "outbox_events" };
        let statement = format!("SELECT id::text, partition_key, seq FROM {events} ORDER BY scheduled_at, seq");
        let rows = self.sql().await.query(&statement, &[]).await.unwrap();
        let events: Vec<Written> = rows.iter().map(|row| (row.get(0), row.get(1), row.get(2))).collect();
        assert_once_in_order(&events, stream);
    }
}

/// An event as its table has it: id, key and `seq`.
pub(crate) type Written = (String, String, Option<i64>);

/// Asserts that the stream has each event once, and each key's events in their order here.
pub(crate) fn assert_once_in_order(events: &[Written], stream: &[String]) {
    let mut places: HashMap<&str, Vec<usize>> = HashMap::new();
    for (place, id) in stream.iter().enumerate() {
        places.entry(id).or_default().push(place);
    }
    let (mut lost, mut twice, mut disordered) = (Vec::new(), Vec::new(), Vec::new());
    let mut latest: HashMap<&str, (usize, i64)> = HashMap::new();
    let mut of_keys: HashMap<&str, Vec<String>> = HashMap::new();
    let mut first = None;
    for (id, key, seq) in events {
        let seq = seq.unwrap_or(0);
        match places.remove(id.as_str()).as_deref() {
            None => lost.push(id),
            Some(&[place]) => {
                let before = if key.is_empty() { None } else { latest.insert(key, (place, seq)) };
                of_keys.entry(key).or_default().push(format!("{seq} at {place}"));
                if let Some((other, earlier)) = before.filter(|(other, _)| *other > place) {
                    disordered.push(format!("{key}: {seq} at {place}, after it {earlier} at {other}"));
                    first.get_or_insert(key.as_str());
                }
            }
            Some(_) => twice.push(id),
        }
    }
    let count = events.len();
    assert!(lost.is_empty(), "{} of {count} events are lost: {:?} …", lost.len(), lost.first());
    assert!(twice.is_empty(), "{} of {count} events came twice: {:?} …", twice.len(), twice.first());
    assert!(
        disordered.is_empty(),
        "{} events came before earlier ones: {:#?} …; all of the first key: {}",
        disordered.len(),
        &disordered[..disordered.len().min(20)],
        first.and_then(|key| of_keys.remove(key)).unwrap_or_default().join(", ")
    );
    assert!(places.is_empty(), "{} entries are not events of this outbox", places.len());
}
