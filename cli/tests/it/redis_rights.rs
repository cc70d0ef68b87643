//! The rights that the table in docs/redis.md names for each user of Redis are enough, and a server with these users keeps what
//! was written when it restarts.

use std::path::PathBuf;
use std::process::Command;

use redis::Value;
use redis::aio::MultiplexedConnection;

use crate::examples::example;
use crate::support::process::{Running, Signal};
use crate::support::redis::Server;
use crate::support::{PATIENCE, eventually, free_port, postgres};
use crate::test_outbox::TestOutbox;

const DOCUMENT: &str = include_str!("../../../docs/redis.md");

/// The chapter on rights.
fn chapter() -> &'static str {
    DOCUMENT.split("\n## Rights").nth(1).unwrap().split("\n## ").next().unwrap()
}

/// The users of the table, each as the rule of an ACL: its name, keys and commands.
fn documented() -> Vec<(String, Vec<String>)> {
    let rows = chapter().lines().filter(|line| line.starts_with("| `"));
    let rows =
        rows.map(|row| row.replace("\\|", "\u{1}").split('|').map(|cell| cell.trim().replace('\u{1}', "|")).collect());
    let cells = |row: Vec<String>| -> Option<(String, Vec<String>)> {
        let [_, user, _, commands, keys, _] = <[String; 6]>::try_from(row).ok()?;
        let plain = |cell: &str| cell.trim_matches('`').split(' ').map(str::to_owned).collect::<Vec<_>>();
        Some((user.trim_matches('`').to_owned(), [plain(&keys), plain(&commands)].concat()))
    };
    rows.filter_map(cells).collect()
}

/// An outbox with the stream `events` on a server of its own, whose users have the documented rights.
struct Users {
    test: TestOutbox,
    server: Server,
    redis: MultiplexedConnection,
}

impl Users {
    async fn new() -> Self {
        let server = Server::start(&[]);
        let test = TestOutbox::on(postgres::database().await, server.url()).await;
        let redis = test.redis().await;
        let mut users = Self { test, server, redis };
        let table = documented();
        let names: Vec<&str> = table.iter().map(|(user, _)| user.as_str()).collect();
        assert_eq!(names, ["worker", "mailer", "by_hand", "console", "doctor"]);
        for (user, rights) in &table {
            let rule: Vec<&str> = ["ACL", "SETUSER", user, "on", ">secret"]
                .into_iter()
                .chain(rights.iter().map(String::as_str))
                .collect();
            users.command(&rule).await;
        }
        users
    }

    async fn command(&mut self, words: &[&str]) -> Value {
        let answer = ::redis::cmd(words[0]).arg(&words[1..]).query_async(&mut self.redis).await;
        answer.unwrap_or_else(|error| panic!("{words:?}: {error}"))
    }

    fn url(&self, user: &str) -> String {
        format!("redis://{user}:secret@127.0.0.1:{}/0", self.server.port())
    }

    fn settings(&self, user: &str) -> PathBuf {
        self.test.file(&format!(
            "[database]\nurl = \"{}\"\n[publishers.default]\nurl = \"{}\"\nstream_name = \"events\"\nmax_len = 0\n\
             [consumers.mailer]\nsource = \"default\"\nmax_deliveries = 2\nreclaim_after = \"1s\"\n\
             retry_backoff = {{ base = \"10ms\", factor = 1, max = \"10ms\", jitter = 0 }}\n\
             [worker]\npoll_interval = \"20ms\"\n",
            self.test.url(),
            self.url(user)
        ))
    }

    fn program(&self, user: &str, arguments: &[&str]) -> Command {
        // Without `--config` at the end, which `--exec` would take for an argument of its command.
        let mut command = Command::new(env!("CARGO_BIN_EXE_outbox"));
        command.env_remove("DATABASE_URL").env("OUTBOX_CONFIG", self.settings(user)).args(arguments);
        command
    }

    /// What a command said that ends with this code.
    async fn run(&self, user: &str, arguments: &[&str], code: i32) -> String {
        let mut program = Running::spawn(&mut self.program(user, arguments));
        let status = program.wait_exit(PATIENCE).await;
        let said = [program.stdout(), program.stderr()].concat();
        assert_eq!(status.code(), Some(code), "{user} {arguments:?}: {said}");
        said
    }

    /// What Redis refused, and whom.
    async fn refused(&mut self) -> String {
        format!("{:?}", self.command(&["ACL", "LOG"]).await)
    }

    async fn assert_nothing_was_refused(&mut self, after: &str) {
        let refused = self.refused().await;
        assert_eq!(refused, "array([])", "{after}");
    }

    async fn letters(&self) -> usize {
        self.run("console", &["dead", "list", "mailer", "--format", "json"], 0).await.matches("\"deliveries\"").count()
    }
}

#[tokio::test]
async fn each_user_needs_only_the_documented_rights() {
    let mut users = Users::new().await;
    let mut worker = Running::spawn(&mut users.program("worker", &["worker", "--name", "worker"]));
    users.test.wait_owners(&["worker"]).await;
    users.test.insert(20, 5).await;
    users.test.wait_published().await;
    users.run("worker", &["health"], 0).await;
    users.assert_nothing_was_refused("the worker").await;

    let mut by_hand = example("consumer");
    let by_hand = Running::spawn(by_hand.args(["events", "by_hand", "one"]).env("REDIS_URL", users.url("by_hand")));
    eventually("it has all events", PATIENCE, async || by_hand.stdout().lines().count() == 20).await;
    drop(by_hand);
    users.assert_nothing_was_refused("a consumer without this library").await;

    users.run("mailer", &["consume", "mailer", "--limit", "10"], 0).await;
    // Longer than entries stay with a consumer that does not renew them.
    let mut slow = Running::spawn(&mut users.program("mailer", &["consume", "mailer", "--exec", "sleep", "6"]));
    tokio::time::sleep(std::time::Duration::from_secs(4)).await;
    slow.kill();
    let mut failing = Running::spawn(&mut users.program("mailer", &["consume", "mailer", "--exec", "false"]));
    eventually("the others are dead letters", PATIENCE, async || users.letters().await == 10).await;
    failing.signal(Signal::TERM);
    failing.wait_exit(PATIENCE).await;
    users.assert_nothing_was_refused("the consumers").await;

    let id = users.test.sql().await.query_one("SELECT id::text FROM outbox_events LIMIT 1", &[]).await.unwrap();
    let id: String = id.get(0);
    let explained = users.run("console", &["events", "explain", &id], 0).await;
    assert!(explained.contains("mailer") && !explained.contains("unknown"), "{explained}");
    let status = users.run("console", &["status"], 0).await;
    assert!(status.contains("default"), "{status}");
    let listed = users.run("console", &["dead", "list", "mailer", "--format", "json"], 0).await;
    let letter = listed.split('"').find(|text| text.starts_with("{events}:dead:mailer/")).unwrap().to_owned();
    users.run("console", &["dead", "show", "mailer", &letter], 0).await;
    users.run("console", &["dead", "retry", "mailer", &letter], 0).await;
    let again = users.run("mailer", &["consume", "mailer", "--limit", "1"], 0).await;
    assert!(again.contains("thing.happened"), "{again}");
    users.run("console", &["dead", "delete", "mailer", "--all", "--yes"], 0).await;
    let address = format!("127.0.0.1:{}", free_port());
    let _web = Running::spawn(&mut users.program("console", &["web", "--http", &address, "--insecure-no-secret"]));
    eventually("the console answers", PATIENCE, async || ureq::get(format!("http://{address}/")).call().is_ok()).await;
    for path in ["overview", "consumers", "consumers/mailer/dead", &format!("events/{id}/groups")] {
        let answer = ureq::get(format!("http://{address}/api/v1/{path}")).call();
        assert!(answer.is_ok(), "{path}: {answer:?}");
    }
    users.assert_nothing_was_refused("the console").await;

    // The test's server keeps nothing on disk, which is a finding.
    let found = users.run("doctor", &["doctor"], 1).await;
    assert!(!found.contains("may not ask") && found.contains("appendonly"), "{found}");
    users.assert_nothing_was_refused("the doctor").await;

    users.test.insert(5, 5).await;
    users.test.wait_published().await;
    worker.signal(Signal::TERM);
    assert!(worker.wait_exit(PATIENCE).await.success(), "{}", worker.stderr());
    users.assert_nothing_was_refused("the worker's end").await;
}

/// The line for the user `default` in the chapter.
fn default_user() -> &'static str {
    chapter().split("```text\n").nth(1).unwrap().lines().next().unwrap()
}

#[tokio::test]
async fn a_server_that_restarts_with_the_documented_users_keeps_its_stream() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("users.acl");
    std::fs::write(&file, format!("{}\nuser admin on >secret ~* &* +@all\n", default_user())).unwrap();
    let options = [Server::DURABLE, &[("aclfile", file.to_str().unwrap())]].concat();
    let mut server = Server::start(&options);
    let url = server.url().replace("redis://", "redis://admin:secret@");
    let test = TestOutbox::on(postgres::database().await, url).await;
    test.insert(20, 5).await;
    test.drain(&test.settings().write()).await;
    assert_eq!(test.length().await, 20);
    server.stop();
    server.start_again();
    assert_eq!(test.length().await, 20);
}
