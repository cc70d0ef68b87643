//! No command prints or logs a secret, also not after an error.

use std::path::Path;

use actix_outbox::Settings;
use rustix::process::Signal;
use url::Url;

use crate::support::process::Running;
use crate::support::{PATIENCE, eventually, free_port, postgres, redis};
use crate::test_outbox::TestOutbox;

/// A part of every password in this test.
const SECRET: &str = "hunter2";

fn with_password(address: &str, password: &str) -> String {
    let mut url = Url::parse(address).unwrap();
    url.set_password(Some(&format!("{SECRET}-{password}"))).unwrap();
    url.into()
}

/// All output, with its source.
#[derive(Default)]
struct Said(Vec<(String, String)>);

impl Said {
    fn note(&mut self, who: &str, what: impl Into<String>) {
        self.0.push((who.to_owned(), what.into()));
    }

    fn run(&mut self, test: &TestOutbox, settings: &Path, arguments: &[&str]) {
        let mut command = test.outbox(settings, arguments);
        let output = command.env("OUTBOX_LOG", "trace").output().unwrap();
        for stream in [output.stdout, output.stderr] {
            self.note(&arguments.join(" "), String::from_utf8_lossy(&stream));
        }
    }

    /// Ends a worker and keeps its log.
    async fn end(&mut self, who: &str, mut worker: Running) {
        worker.signal(Signal::TERM);
        worker.wait_exit(PATIENCE).await;
        self.note(who, worker.stdout());
        self.note(who, worker.stderr());
    }

    fn assert_nothing_secret(&self) {
        let length: usize = self.0.iter().map(|(_, what)| what.len()).sum();
        assert!(length > 10_000, "only {length} bytes of output");
        for (who, what) in &self.0 {
            let told: Vec<&str> = what.lines().filter(|line| line.contains(SECRET)).collect();
            assert!(told.is_empty(), "{who}: {told:?}");
        }
    }
}

#[tokio::test]
async fn no_output_of_any_command_contains_a_password_even_on_failure() {
    let server = redis::Server::start(&[]);
    let protect = ["SET", "requirepass", &format!("{SECRET}-redis")];
    let mut admin = redis::connect(&server.url()).await;
    let _: () = ::redis::cmd("CONFIG").arg(&protect).query_async(&mut admin).await.unwrap();
    let mut database = postgres::database().await;
    database.url = with_password(&database.url, "database");
    let database_url = database.url.clone();
    let test = TestOutbox::on(database, with_password(&server.url(), "redis")).await;
    let settings = test.settings().write();
    let mut said = Said::default();

    // Every command, successful and not.
    test.insert(10, 2).await;
    let id = test
        .sql()
        .await
        .query_one("SELECT id::text FROM outbox_events LIMIT 1", &[])
        .await
        .unwrap()
        .get::<_, String>(0);
    for arguments in [
        &["--help"][..],
        &["migrate", "--dry-run"],
        &["migrate"],
        &["publish", "t", "--source", "s"],
        &["events", "list"],
        &["events", "show", &id],
        &["events", "explain", &id],
        &["events", "fail", &id],
        &["events", "retry", &id],
        &["worker", "--until-empty"],
        &["events", "replay", &id],
        &["status", "--history"],
        &["health"],
        &["cleanup", "--yes"],
        &["bench", "--events", "100", "--only", "drain"],
        &["web", "--http", "0.0.0.0:0"],
        &["completions", "bash"],
        &["man"],
    ] {
        said.run(&test, &settings, arguments);
        said.run(&test, &settings, &[arguments, &["--help"]].concat());
    }

    // Invalid addresses and settings.
    let elsewhere = database_url.replace("127.0.0.1", "nowhere.invalid");
    let no_database = database_url.replace("outbox_test", "no_such_database");
    for url in [
        elsewhere.as_str(),
        &no_database,
        &database_url.replace("postgres://", "mysql://"),
        &format!("postgres://a:{SECRET}@["),
        // Not escaped.
        &format!("postgres://ann:12/{SECRET}@127.0.0.1/app"),
        &format!("postgres://ann:12?{SECRET}@127.0.0.1/app"),
        &format!("postgres://ann:12#{SECRET}@127.0.0.1/app"),
        &format!("postgres://ann:12@{SECRET}@127.0.0.1/app"),
        &format!("postgres://ann@127.0.0.1:1/app?password={SECRET}/34"),
    ] {
        for command in [&["status"][..], &["migrate"], &["health"]] {
            said.run(&test, &settings, &[command, &["--database-url", url]].concat());
        }
    }
    let text = std::fs::read_to_string(&settings).unwrap();
    for (from, to) in [
        ("redis://", "radis://"),
        ("stream_name", "stream_nam"),
        ("max_len = 0", "max_len = \"many\""),
        ("[worker]", &format!("[web]\noperator_secret = \"{SECRET}\"\n[worker]") as &str),
        (&format!("{SECRET}-redis") as &str, &format!("{SECRET}-wrong") as &str),
    ] {
        let wrong = test.settings().write();
        std::fs::write(&wrong, text.replace(from, to)).unwrap();
        for command in [&["health"][..], &["status"], &["cleanup", "--yes"], &["web", "--http", "0.0.0.0:0"]] {
            said.run(&test, &wrong, command);
        }
    }
    said.note("Debug", format!("{:?}", Settings::from_toml(&text).unwrap()));
    said.note("Debug", format!("{:?}", Settings::from_toml(&text.replace("max_len = 0", "max_len = -1"))));

    // A worker with an error, and its responses over HTTP.
    let port = free_port();
    let mut command =
        test.outbox(&settings, &["worker", "--http", &format!("127.0.0.1:{port}"), "--log-format", "json"]);
    // A drawn secret is not one of the settings.
    command.arg("--insecure-no-secret");
    let worker = Running::spawn(command.env("OUTBOX_LOG", "trace"));
    let get = |path: &str| {
        let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
        let mut answer = agent.get(format!("http://127.0.0.1:{port}{path}")).call().ok()?;
        answer.body_mut().read_to_string().ok()
    };
    eventually("it is served", PATIENCE, async || get("/healthz").is_some()).await;
    test.wait_published().await;
    let wrong = ["SET", "requirepass", "another"];
    let _: () = ::redis::cmd("CONFIG").arg(&wrong).query_async(&mut admin).await.unwrap();
    let _: i64 =
        ::redis::cmd("CLIENT").arg(&["KILL", "TYPE", "normal", "SKIPME", "yes"]).query_async(&mut admin).await.unwrap();
    let terminate = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
        WHERE datname = current_database() AND pid <> pg_backend_pid()";
    test.sql().await.execute(terminate, &[]).await.unwrap();
    test.insert(10, 2).await;
    eventually("it reports that its backend is unavailable", PATIENCE, async || {
        get("/readyz").is_some_and(|body| body.contains("failing"))
    })
    .await;
    for path in ["/healthz", "/readyz", "/metrics", "/", "/events", "/api/v1/overview", "/api/v1/openapi.json"] {
        said.note(path, get(path).unwrap());
    }
    said.run(&test, &settings, &["status"]);
    let waiting = "SELECT id::text FROM outbox_events WHERE status = 'pending' LIMIT 1";
    let waiting = test.sql().await.query_one(waiting, &[]).await.unwrap().get::<_, String>(0);
    said.run(&test, &settings, &["events", "explain", &waiting]);
    said.end("worker", worker).await;
    said.assert_nothing_secret();
    let lines =
        |who: &str| said.0.iter().filter(|(by, _)| by == who).flat_map(|(_, what)| what.lines()).collect::<Vec<_>>();
    let logged = lines("worker");
    assert!(!logged.is_empty());
    for line in logged {
        let parsed: serde_json::Value = serde_json::from_str(line).unwrap_or_else(|error| panic!("{error}: {line}"));
        assert!(parsed["timestamp"].is_string() && parsed["level"].is_string(), "{line}");
    }
}
