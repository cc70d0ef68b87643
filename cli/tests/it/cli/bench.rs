//! `outbox bench`: its output, and the removal of its environment.

use std::collections::BTreeSet;
use std::process::Command;
use std::time::Duration;

use mysql_async::prelude::Queryable;
use serde_json::Value;

use super::{Shell, text};
use crate::support::process::{Running, Signal};
use crate::support::{PATIENCE, eventually, mysql, postgres, redis};
use crate::test_outbox::{DRAIN, TestOutbox};

const SCHEMAS: &str = "SELECT count(*) FROM pg_namespace WHERE nspname LIKE 'outbox_bench%'";
const CONNECTIONS: &str = "SELECT count(*) FROM pg_stat_activity
    WHERE application_name LIKE 'outbox_bench%' AND datname = current_database()";

/// How long a run of all measurements may take: some fifty steps, some of which start a worker of two hundred lanes, in a
/// build without optimisation next to other tests.
const WHOLE_RUN: Duration = Duration::from_secs(400);

/// A database and a Redis of one test, so that all leftovers there are the bench's.
struct Bench {
    test: TestOutbox,
    _redis: redis::Server,
}

impl Bench {
    async fn new() -> Self {
        let redis = redis::Server::start(&[]);
        let test = TestOutbox::on(postgres::database().await, redis.url()).await;
        Self { test, _redis: redis }
    }

    fn command(&self, arguments: &[&str]) -> Command {
        self.command_in("json", arguments)
    }

    fn command_in(&self, format: &str, arguments: &[&str]) -> Command {
        let arguments = [&["bench", "--rounds", "1", "--format", format], arguments].concat();
        self.test.outbox(&self.test.settings().write(), &arguments)
    }

    /// A running bench that does not end by itself.
    async fn running(&self) -> Running {
        let running = Running::spawn(&mut self.command(&["--events", "100000", "--only", "latency"]));
        let what = "a worker delivers in the bench's schema";
        eventually(what, PATIENCE, async || !self.keys().await.is_empty() && self.test.number(SCHEMAS).await == 1)
            .await;
        running
    }

    async fn keys(&self) -> Vec<String> {
        ::redis::cmd("KEYS").arg("*").query_async(&mut self.test.redis().await).await.unwrap()
    }

    async fn assert_nothing_is_left(&self) {
        assert_eq!(self.test.number(SCHEMAS).await, 0);
        assert_eq!(self.keys().await, Vec::<String>::new());
        eventually("its connections are gone", PATIENCE, async || self.test.number(CONNECTIONS).await == 0).await;
    }
}

/// Waits for its end, and returns its exit code and output.
async fn ended(mut running: Running) -> (Option<i32>, String) {
    let code = running.wait_exit(PATIENCE).await.code();
    (code, running.stderr())
}

/// The figures' names in the documentation, of PostgreSQL (none) or of another database.
fn documented(database: Option<&str>) -> BTreeSet<String> {
    let document = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/bench.md")).unwrap();
    let rows = document.lines().filter(|line| line.starts_with("| `"));
    let first_columns = rows.filter_map(|row| row.split(" | ").next());
    let names = first_columns.flat_map(|column| column.split('`').skip(1).step_by(2)).flat_map(|name| {
        let parts: &[&str] = if name.contains("latency.") { &[".p50", ".p90", ".p99", ".max"] } else { &[""] };
        parts.iter().map(move |part| format!("{name}{part}"))
    });
    let others = ["sqlite", "mysql"];
    names.filter(|name| others.into_iter().find(|other| name.starts_with(&format!("{other}."))) == database).collect()
}

fn names(figures: &Value) -> BTreeSet<String> {
    figures["figures"].as_object().unwrap().keys().cloned().collect()
}

#[tokio::test]
async fn a_run_has_every_figure_that_is_documented_and_leaves_nothing_behind() {
    let bench = Bench::new().await;
    let groups = ["drain", "publish", "consume", "latency", "wakes", "idle"].join(",");
    let arguments = ["--events", "200", "--only", &groups, "--backlog", "0.001", "--pinned-horizon"];
    let mut run = Running::spawn(&mut bench.command(&arguments));
    let status = run.wait_exit(WHOLE_RUN).await;
    assert!(status.success(), "{}", run.stderr());
    let figures: Value = serde_json::from_str(&run.stdout()).unwrap();
    assert_eq!(names(&figures), documented(None));
    assert_eq!((&figures["events"], &figures["rounds"]), (&200.into(), &1.into()));
    let drain = &figures["figures"]["drain"];
    assert!(drain["value"].as_f64().unwrap() > 0.0 && drain["shares"]["limit.one"].as_f64().unwrap() > 0.0, "{drain}");
    let dead = figures["figures"]["drain.dead"]["value"].as_f64().unwrap();
    assert!((1.0..2.0).contains(&dead), "each event is updated once, and the worker's own rows a few times: {dead}");
    bench.assert_nothing_is_left().await;
}

#[tokio::test]
async fn only_what_was_asked_for_is_measured_and_people_get_a_table() {
    let bench = Bench::new().await;
    let answer = text(bench.command_in("table", &["--events", "100", "--only", "publish"]).output().unwrap());
    assert_eq!(answer.code, 0, "{}", answer.stderr);
    let lines: Vec<&str> = answer.stdout.lines().collect();
    assert!(lines[0].contains("PostgreSQL") && lines[0].contains("100 events"), "{}", answer.stdout);
    let publish = lines.iter().find(|line| line.starts_with("publish ")).unwrap();
    assert!(publish.contains("events/s") && publish.contains("% of insert.one"), "{publish}");
    assert!(!answer.stdout.contains("drain"), "{}", answer.stdout);
    bench.assert_nothing_is_left().await;
}

#[tokio::test]
async fn a_run_that_is_interrupted_leaves_nothing_behind() {
    let bench = Bench::new().await;
    for (signal, name) in [(Signal::INT, "SIGINT"), (Signal::TERM, "SIGTERM")] {
        let mut running = bench.running().await;
        running.signal(signal);
        assert_eq!(ended(running).await, (Some(1), format!("error: interrupted by {name}\n")));
        bench.assert_nothing_is_left().await;
    }
}

#[tokio::test]
async fn a_consumer_reads_all_events_also_where_the_settings_trim_the_stream() {
    let bench = Bench::new().await;
    let mut command = bench.command(&["--events", "2000", "--only", "consume"]);
    let mut run = Running::spawn(command.env("OUTBOX__PUBLISHERS__DEFAULT__MAX_LEN", "100"));
    assert!(run.wait_exit(PATIENCE).await.success(), "{}", run.stderr());
}

#[tokio::test]
async fn a_run_whose_connections_break_fails_and_leaves_nothing_behind() {
    let bench = Bench::new().await;
    let running = bench.running().await;
    let end = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE application_name LIKE 'outbox_bench%' AND datname = current_database()";
    bench.test.sql().await.execute(end, &[]).await.unwrap();
    let (code, said) = ended(running).await;
    assert!(code == Some(1) && said.contains("error: the database "), "{code:?}: {said}");
    bench.assert_nothing_is_left().await;
}

#[tokio::test]
async fn what_a_killed_run_left_is_removed_by_the_next_and_not_while_it_lives() {
    let bench = Bench::new().await;
    let mut killed = bench.running().await;
    let mut living = Running::spawn(&mut bench.command(&["--events", "100000", "--only", "latency"]));
    eventually("another bench runs", PATIENCE, async || bench.test.number(SCHEMAS).await == 2).await;
    killed.kill();
    eventually("its worker ends by itself", PATIENCE, async || !workers_in(&bench).await).await;
    let mut next = Running::spawn(&mut bench.command(&["--events", "100", "--only", "publish"]));
    assert!(next.wait_exit(PATIENCE).await.success(), "{}", next.stderr());
    assert_eq!(next.stderr().matches("removed the leftovers of a killed run").count(), 1, "{}", next.stderr());
    assert_eq!(bench.test.number(SCHEMAS).await, 1, "the schema of the running bench stays");
    assert!(living.is_running(), "{}", living.stderr());
    living.signal(Signal::INT);
    assert_eq!(ended(living).await.0, Some(1));
    bench.assert_nothing_is_left().await;
}

/// Whether a bench's schema without a lock has connections.
async fn workers_in(bench: &Bench) -> bool {
    let question = "SELECT count(*) FROM pg_stat_activity a WHERE a.application_name LIKE 'outbox_bench%'
        AND a.datname = current_database() AND NOT EXISTS (SELECT FROM pg_locks l
            WHERE l.locktype = 'advisory' AND l.database = a.datid AND l.granted AND l.objsubid = 1
            AND ((l.classid::bigint << 32) | l.objid::bigint) = hashtextextended(a.application_name, 0))";
    bench.test.number(question).await > 0
}

#[tokio::test]
async fn a_role_that_may_not_make_a_schema_is_told_what_to_do() {
    let bench = Bench::new().await;
    let role = crate::support::unique("bench_role");
    let sql = bench.test.sql().await;
    sql.batch_execute(&format!("CREATE ROLE {role} LOGIN PASSWORD 'secret'")).await.unwrap();
    let mut url = url::Url::parse(bench.test.url()).unwrap();
    url.set_username(&role).unwrap();
    url.set_password(Some("secret")).unwrap();
    let answer = text(bench.command(&["--only", "idle", "--database-url", url.as_str()]).output().unwrap());
    sql.batch_execute(&format!("DROP ROLE {role}")).await.unwrap();
    assert_eq!((answer.code, answer.stdout.as_str()), (1, ""), "{}", answer.stderr);
    let name = &bench.test.database().name;
    assert!(answer.stderr.contains(&format!("GRANT CREATE ON DATABASE {name} TO {role}")), "{}", answer.stderr);
    assert!(!answer.stderr.contains("secret"), "{}", answer.stderr);
    bench.assert_nothing_is_left().await;
}

#[test]
fn what_cannot_be_measured_is_refused() {
    let shell = Shell::new();
    shell.refuses(&["bench", "--events", "0"], 2, "0 is not in 1..");
    shell.refuses(&["bench", "--rounds", "0"], 2, "0 is not in 1..");
    shell.refuses(
        &["bench", "--only", "everything"],
        2,
        "possible values: drain, publish, consume, latency, wakes, idle",
    );
    shell.refuses(&["bench", "--backlog", "many"], 2, "write how many millions, such as 5 or 0.5");
    shell.refuses(&["bench", "--backlog", "5"], 2, "are for PostgreSQL");
    let elsewhere = ["bench", "--database-url", "postgres://127.0.0.1:1/app"];
    shell.refuses(&elsewhere, 2, "setting `publishers.default` is missing");
    shell.write("outbox.toml", "publishers.default.backend = 'local'");
    shell.refuses(&elsewhere, 2, "publishers.default must have backend = \"redis_stream\"");
    shell.write("outbox.toml", "publishers.default.url = 'redis://127.0.0.1:1'");
    shell.refuses(&elsewhere, 1, "Redis cannot be measured");
    shell.write("outbox.toml", format!("publishers.default.url = '{}'", redis::url()));
    shell.refuses(&elsewhere, 1, "cannot reach the database postgres://127.0.0.1:1/app");
}

#[test]
fn sqlite_is_measured_in_a_folder_of_its_own() {
    let shell = Shell::new();
    let answer = shell.run(&["bench", "--events", "200", "--rounds", "1", "--format", "json"]);
    assert_eq!(answer.code, 0, "{}", answer.stderr);
    let figures: Value = serde_json::from_str(&answer.stdout).unwrap();
    assert_eq!(names(&figures), documented(Some("sqlite")));
    assert_eq!(std::fs::read_dir(shell.path()).unwrap().count(), 0, "nothing is left");
}

#[tokio::test]
async fn mariadb_is_measured_in_a_database_of_its_own() {
    const ABANDONED: &str = "outbox_bench_0123456789ab";
    let server = mysql::Server::start();
    let database = server.database().await;
    let mut admin = database.connect().await;
    admin.query_drop(format!("CREATE DATABASE {ABANDONED}")).await.unwrap();
    let (shell, redis) = (Shell::new(), redis::Server::start(&[]));
    shell.write("outbox.toml", format!("publishers.default.url = '{}'", redis.url()));
    let arguments = ["bench", "--events", "200", "--rounds", "1", "--format", "json", "--database-url", &database.url];

    let answer = shell.run(&arguments);
    assert_eq!(answer.code, 0, "{}", answer.stderr);
    assert!(answer.stderr.contains(ABANDONED), "{}", answer.stderr);
    let figures: Value = serde_json::from_str(&answer.stdout).unwrap();
    assert_eq!(names(&figures), documented(Some("mysql")));
    assert!(figures["figures"]["mysql.drain"]["shares"]["mysql.limit.one"].as_f64().unwrap() > 0.0, "{figures}");
    let left: Vec<String> = admin.query("SHOW DATABASES LIKE 'outbox_bench%'").await.unwrap();
    assert_eq!(left, Vec::<String>::new());
    let keys: Vec<String> =
        ::redis::cmd("KEYS").arg("*").query_async(&mut redis::connect(&redis.url()).await).await.unwrap();
    assert_eq!(keys, Vec::<String>::new());
    shell.refuses(&[&arguments[..], &["--only", "drain"]].concat(), 2, "are for PostgreSQL");
}

#[tokio::test]
async fn partitions_are_measured_and_removed_like_one_stream() {
    let bench = Bench::new().await;
    let settings = bench.test.settings().publisher("partitions = 4").write();
    let arguments = ["bench", "--rounds", "1", "--events", "200", "--only", "drain,latency", "--format", "json"];
    let mut run = Running::spawn(&mut bench.test.outbox(&settings, &arguments));
    assert!(run.wait_exit(DRAIN).await.success(), "{}", run.stderr());
    let figures: Value = serde_json::from_str(&run.stdout()).unwrap();
    assert!(figures["figures"]["drain"]["value"].as_f64().unwrap() > 0.0, "{figures}");
    bench.assert_nothing_is_left().await;
}
