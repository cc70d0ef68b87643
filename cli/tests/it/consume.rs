//! `outbox consume` and `outbox dead`.

use std::path::PathBuf;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::support::process::{Running, Signal};
use crate::support::{PATIENCE, eventually, free_port, redis};
use crate::test_outbox::TestOutbox;
use crate::webhooks::{Receiver, Reply};

/// The consumer `mailer` of every test.
const MAILER: &str = "[consumers.mailer]\nsource = \"default\"\nreclaim_after = \"1s\"\nmax_deliveries = 2\n\
    retry_backoff = { base = \"1ms\", max = \"1ms\" }";

/// An outbox with events in its stream.
struct Mail {
    test: TestOutbox,
    settings: PathBuf,
}

impl Mail {
    async fn with(events: i32) -> Self {
        let test = TestOutbox::new().await;
        let settings = test.settings().worker(MAILER).write();
        let mail = Self { test, settings };
        mail.add(events).await;
        mail
    }

    async fn add(&self, events: i32) {
        self.test.insert(events, 3).await;
        self.test.drain(&self.settings).await;
    }

    fn outbox(&self, arguments: &[&str]) -> Command {
        self.test.outbox(&self.settings, arguments)
    }

    async fn run(&self, arguments: &[&str]) -> Running {
        let mut program = Running::spawn(&mut self.outbox(arguments));
        program.wait_exit(PATIENCE).await;
        program
    }

    /// A consumer that runs a command for each event.
    fn executing(&self, command: &[&str]) -> Running {
        let mut program = Command::new(env!("CARGO_BIN_EXE_outbox"));
        program.env("OUTBOX_CONFIG", &self.settings).args(["consume", "mailer", "--exec"]).args(command);
        Running::spawn(&mut program)
    }

    /// Runs the program, which succeeds; the numbers in its events, sorted: each key has an order of its own.
    async fn consume(&self, arguments: &[&str]) -> Vec<i64> {
        let mut program = Running::spawn(&mut self.outbox(arguments));
        let status = program.wait_exit(PATIENCE).await;
        assert!(status.success(), "{status}: {}", program.stderr());
        let mut numbers = numbers(&program.stdout());
        numbers.sort_unstable();
        numbers
    }

    async fn pending(&self) -> usize {
        let mut connection = self.test.redis().await;
        let pending: (usize, ::redis::Value, ::redis::Value, ::redis::Value) = ::redis::cmd("XPENDING")
            .arg(self.test.stream_name())
            .arg("mailer")
            .query_async(&mut connection)
            .await
            .unwrap_or((usize::MAX, ::redis::Value::Nil, ::redis::Value::Nil, ::redis::Value::Nil));
        pending.0
    }

    async fn dead(&self) -> usize {
        let dead = format!("{{{}}}:dead:mailer", self.test.stream_name());
        redis::length(&mut self.test.redis().await, &dead).await
    }
}

fn numbers(lines: &str) -> Vec<i64> {
    let event = |line: &str| serde_json::from_str::<Value>(line).unwrap_or_else(|error| panic!("{error}: {line}"));
    lines.lines().map(|line| event(line)["data"]["n"].as_i64().unwrap()).collect()
}

#[tokio::test]
async fn without_a_group_events_are_printed_and_stay() {
    let mail = Mail::with(5).await;
    for _ in 0..2 {
        assert_eq!(mail.consume(&["consume", "--from", "0", "--limit", "3"]).await.len(), 3);
    }
    assert_eq!(mail.consume(&["consume", "--from", "0", "--type", "thing.*", "--limit", "5"]).await, [1, 2, 3, 4, 5]);
    let mut tail = Running::spawn(&mut mail.outbox(&["consume", "--from", "0"]));
    eventually("all are printed", PATIENCE, async || numbers(&tail.stdout()).len() == 5).await;
    tail.signal(Signal::TERM);
    assert!(tail.wait_exit(PATIENCE).await.success());
}

#[tokio::test]
async fn a_tail_begins_at_the_next_event() {
    let mail = Mail::with(2).await;
    let mut tail = Running::spawn(&mut mail.outbox(&["consume", "--stream", mail.test.stream_name(), "--limit", "1"]));
    let mut after = 2;
    while tail.is_running() {
        mail.add(1).await;
        after += 1;
        assert!(after < 100, "{}", tail.stderr());
    }
    assert!(tail.wait_exit(PATIENCE).await.success());
    assert_eq!(numbers(&tail.stdout()), [1], "the test's later events have the number 1");
}

#[tokio::test]
async fn with_a_group_what_is_printed_is_acknowledged_and_nothing_else() {
    let mail = Mail::with(5).await;
    assert_eq!(mail.consume(&["consume", "mailer", "--limit", "2"]).await.len(), 2);
    let rest = mail.consume(&["consume", "mailer", "--limit", "3"]).await;
    assert_eq!(rest.len(), 3);
    assert_eq!(mail.pending().await, 0);
    let stream = mail.test.stream_name();
    let other = mail.consume(&["consume", "--stream", stream, "--group", "other", "--limit", "5"]).await;
    assert_eq!(other, [1, 2, 3, 4, 5]);
}

#[tokio::test]
async fn a_command_that_fails_is_run_again_and_then_its_event_is_a_dead_letter() {
    let mail = Mail::with(3).await;
    let script = r#"read -r event; echo "$OUTBOX_EVENT_TYPE $event" >&2; case "$event" in *'"n": 2'*) exit 3;; esac"#;
    let mut consumer = mail.executing(&["sh", "-c", script]);
    eventually("one is dead", PATIENCE, async || mail.dead().await == 1).await;
    eventually("the others are done", PATIENCE, async || mail.pending().await == 0).await;
    consumer.signal(Signal::TERM);
    assert!(consumer.wait_exit(PATIENCE).await.success(), "{}", consumer.stderr());
    let lines = consumer.stderr();
    let runs = |n: u8| {
        lines
            .lines()
            .filter(|line| line.starts_with("thing.happened ") && line.contains(&format!("\"n\": {n}")))
            .count()
    };
    assert_eq!([runs(1), runs(2), runs(3)], [1, 2, 1], "{lines}");

    let listed = mail.run(&["dead", "list", "mailer", "--format", "json"]).await;
    let letters: Value = serde_json::from_str(&listed.stdout()).unwrap();
    assert_eq!(letters[0]["reason"], "handler `mailer`: the command ended with exit status: 3");
    assert_eq!((&letters[0]["deliveries"], letters.as_array().unwrap().len()), (&2.into(), 1));
    let entry = letters[0]["id"].as_str().unwrap();
    let shown = mail.run(&["dead", "show", "mailer", entry]).await;
    let shown: Value = serde_json::from_str(&shown.stdout()).unwrap();
    assert_eq!(shown["cloud_event"]["data"]["n"], 2);

    let status = mail.run(&["status", "--format", "json"]).await;
    let status: Value = serde_json::from_str(&status.stdout()).unwrap();
    let stream = &status["consumers"][0]["streams"][0];
    assert_eq!((&stream["unread"], &stream["pending"], &stream["dead_letters"]), (&0.into(), &0.into(), &1.into()));
    let table = mail.run(&["status"]).await.stdout();
    assert!(table.contains("CONSUMER") && table.contains(mail.test.stream_name()), "{table}");

    assert_eq!(mail.run(&["dead", "retry", "mailer", "--all"]).await.stdout(), "retried 1 dead letter\n");
    assert_eq!(mail.consume(&["consume", "mailer", "--limit", "1"]).await, [2]);
    let gone = mail.run(&["dead", "delete", "mailer", entry, "--format", "json"]).await;
    let gone: Value = serde_json::from_str(&gone.stdout()).unwrap();
    assert_eq!((&gone["changed"], &gone["skipped"][0]["id"]), (&0.into(), &entry.into()));
    let table = mail.run(&["dead", "list", "mailer"]).await.stdout();
    assert_eq!(table.trim_end(), "ENTRY  AT  TYPE  EVENT  DELIVERIES  REASON");
}

#[tokio::test]
async fn changes_of_dead_letters_are_recorded_where_there_is_a_database_that_records_changes() {
    let mail = Mail::with(1).await;
    let dead = format!("{{{}}}:dead:mailer", mail.test.stream_name());
    let mut redis = mail.test.redis().await;
    let mut entries = Vec::new();
    for _ in 0..5 {
        let mut letter = ::redis::cmd("XADD");
        letter.arg(&[&dead, "*", "a", "b"]);
        for added in ["stream", "entry", "group", "consumer", "deliveries", "reason"] {
            letter.arg(format!("dead_{added}")).arg("");
        }
        let id: String = letter.query_async(&mut redis).await.unwrap();
        entries.push(format!("{dead}/{id}"));
    }
    let changed = async |arguments: &[&str]| {
        let program = mail.run(&[&["dead"], arguments].concat()).await;
        (program.stdout(), program.stderr())
    };
    assert_eq!(changed(&["retry", "mailer", &entries[0], &entries[1]]).await.0, "retried 2 dead letters\n");
    let some = changed(&["delete", "mailer", &entries[1], &entries[2]]).await;
    assert!(some.0 == "deleted 1 dead letter\n" && some.1.contains("is not there any more"), "{some:?}");
    let none = changed(&["delete", "mailer", &entries[0]]).await;
    assert!(none.1.contains("is not there any more"), "{none:?}");
    let rows = "SELECT action, filter, events, reason, who FROM outbox_audit ORDER BY id";
    let rows = mail.test.sql().await.query(rows, &[]).await.unwrap();
    let rows: Vec<(String, String, i64, String)> =
        rows.iter().map(|row| (row.get(0), row.get(1), row.get(2), row.get(3))).collect();
    let row =
        |action: &str, events: i64, reason: String| (action.to_owned(), "consumer=mailer".to_owned(), events, reason);
    let both = format!("{} {}", entries[0], entries[1]);
    assert_eq!(rows, [row("retry_dead", 2, both), row("delete_dead", 1, entries[2].clone())]);

    let unreachable = format!("postgres://127.0.0.1:{}/outbox", free_port());
    let refused = changed(&["delete", "mailer", &entries[3], "--database-url", &unreachable]).await;
    assert!(refused.0.is_empty() && !refused.1.is_empty(), "a change that cannot be recorded is not made: {refused:?}");
    let for_inbox = tempfile::tempdir().unwrap();
    let for_inbox = format!("sqlite://{}/inbox.db", for_inbox.path().display());
    mail.run(&["migrate", "--inbox", "--database-url", &for_inbox]).await;
    let done = changed(&["delete", "mailer", &entries[3], "--database-url", &for_inbox]).await;
    assert_eq!(done.0, "deleted 1 dead letter\n", "{}", done.1);
    let without_database = mail.test.file(&format!("[publishers.default]\n{}\n{MAILER}", mail.test.stream()));
    let mut program = mail.test.outbox(&without_database, &["dead", "delete", "mailer", &entries[4]]);
    let done = program.env("OUTBOX_LOG", "info").output().unwrap();
    assert_eq!(String::from_utf8_lossy(&done.stdout), "deleted 1 dead letter\n");
    let log = String::from_utf8_lossy(&done.stderr);
    assert!(log.contains("an operator changed dead letters") && log.contains("command line"), "{log}");
}

#[tokio::test]
async fn what_consumers_have_not_handled_is_shown_without_a_database() {
    let mail = Mail::with(3).await;
    mail.consume(&["consume", "mailer", "--limit", "2"]).await;
    let shown = async |tables: &str, arguments: &[&str]| {
        let settings = mail.test.file(&format!("[publishers.default]\n{}\n{tables}", mail.test.stream()));
        let arguments = [&["status", "--consumers"], arguments].concat();
        let mut program = Running::spawn(mail.test.outbox(&settings, &arguments).env_remove("DATABASE_URL"));
        let code = program.wait_exit(PATIENCE).await.code();
        (code, program.stdout(), program.stderr())
    };
    let (code, json, said) = shown(MAILER, &["--format", "json"]).await;
    assert_eq!(code, Some(0), "{said}");
    let json: Value = serde_json::from_str(&json).unwrap();
    assert_eq!(json["consumers"][0]["name"], "mailer");
    let stream = &json["consumers"][0]["streams"][0];
    assert_eq!(stream["stream"], mail.test.stream_name());
    let left = ["unread", "pending"].map(|which| stream[which].as_u64().unwrap());
    assert_eq!(left.iter().sum::<u64>(), 1, "{stream}");
    let (code, table, _) = shown(MAILER, &[]).await;
    assert!(code == Some(0) && table.starts_with("CONSUMER  STREAM"), "{table}");

    let (code, _, said) = shown("", &[]).await;
    assert!(code == Some(1) && said.contains("add [consumers.NAME]"), "{said}");
    let away = format!("{MAILER}\n[consumers.away]\nurl = \"redis://127.0.0.1:{}\"\nstream = \"s\"", free_port());
    let (code, table, said) = shown(&away, &[]).await;
    assert!(code == Some(1) && table.contains("mailer") && said.contains("1 of 2 consumers"), "{table}{said}");
}

#[tokio::test]
async fn a_command_that_does_not_exist_ends_the_program_and_no_event_is_a_dead_letter() {
    let mail = Mail::with(1).await;
    let mut consumer = mail.executing(&["/nowhere/bill"]);
    assert_eq!(consumer.wait_exit(PATIENCE).await.code(), Some(1));
    assert!(consumer.stderr().contains("--exec /nowhere/bill: No such file"), "{}", consumer.stderr());
    assert_eq!(mail.dead().await, 0);
    assert_eq!(mail.consume(&["consume", "mailer", "--limit", "1"]).await, [1]);
}

#[tokio::test]
async fn events_are_posted_to_an_address() {
    let mail = Mail::with(3).await;
    let receiver = Receiver::start().await;
    let url = receiver.url("/hook");
    let mut consumer = Running::spawn(&mut mail.outbox(&["consume", "mailer", "--post", &url, "--limit", "3"]));
    assert!(consumer.wait_exit(PATIENCE).await.success(), "{}", consumer.stderr());
    assert_eq!(receiver.count(), 3);
    assert_eq!(mail.pending().await, 0);
}

/// Each delivery is a request, whatever the host has answered before.
#[tokio::test]
async fn an_event_that_is_not_accepted_is_posted_again_and_then_a_dead_letter() {
    let mail = Mail::with(1).await;
    let receiver = Receiver::start().await;
    let url = receiver.url("/hook");
    receiver.reply("/hook", [Reply::status(404), Reply::status(410)]);
    let mut consumer = Running::spawn(&mut mail.outbox(&["consume", "mailer", "--post", &url]));
    eventually("it is dead", PATIENCE, async || mail.dead().await == 1).await;
    assert_eq!(receiver.count(), 2, "max_deliveries");

    receiver.reply("/hook", [Reply::Status(503, vec![("retry-after", "3600".to_owned())])]);
    mail.add(1).await;
    eventually("it is refused for an hour", PATIENCE, async || receiver.count() == 3).await;
    // One of them has its key.
    mail.add(2).await;
    eventually("the other one is posted", PATIENCE, async || receiver.count() == 4).await;
    eventually("two wait", PATIENCE, async || mail.pending().await == 2).await;
    consumer.signal(Signal::TERM);
    assert!(consumer.wait_exit(PATIENCE).await.success(), "{}", consumer.stderr());
    assert_eq!(mail.dead().await, 1);
}

#[tokio::test]
async fn a_consumer_that_is_killed_leaves_its_events_to_the_next_one() {
    let mail = Mail::with(20).await;
    // Started after the kill, it would have another parent.
    let hang = "n=0; while [ $n -lt 3000 ] && kill -0 $PPID; do sleep 0.02; n=$((n + 1)); done 2>/dev/null";
    let mut hanging = mail.executing(&["sh", "-c", hang]);
    eventually("events are pending", PATIENCE, async || (1..=20).contains(&mail.pending().await)).await;
    hanging.kill();
    let all = mail.consume(&["consume", "mailer", "--limit", "20"]).await;
    assert_eq!(all, (1..=20).collect::<Vec<_>>());
    assert_eq!(mail.pending().await, 0);
}

#[tokio::test]
async fn wrong_arguments_are_bad_usage() {
    let mail = Mail::with(0).await;
    for (arguments, expected) in [
        (&["consume", "--exec", "true"][..], "give NAME, or --stream and --group"),
        (&["consume", "unknown"], "no consumer is named `unknown`, there are `mailer`"),
        (&["consume", "--type", "a*b"], "write a type, or its beginning and a * at the end"),
        (&["consume", "--from", "yesterday"], "(the first entry)"),
        (&["consume", "mailer", "--post", "ftp://x"], "--post"),
        (&["dead", "retry", "mailer"], "required"),
        (&["dead", "retry", "mailer", "1-1"], "STREAM/ID"),
        (&["dead", "retry", "mailer", "other/1-1"], "does not contain dead letters of this consumer"),
    ] {
        let mut program = Running::spawn(&mut mail.outbox(arguments));
        let status = program.wait_exit(PATIENCE).await;
        assert_eq!(status.code(), Some(2), "{arguments:?}: {}", program.stderr());
        assert!(program.stderr().contains(expected), "{arguments:?}: {}", program.stderr());
    }
}

#[tokio::test]
async fn a_closed_output_ends_the_program_and_what_it_could_not_print_is_not_acknowledged() {
    let mail = Mail::with(5).await;
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let mut program = mail.outbox(&["consume", "mailer"]);
    let ended = tokio::task::spawn_blocking(move || program.stdout(writer).stderr(Stdio::null()).status().unwrap());
    let ended = tokio::time::timeout(PATIENCE, ended).await.unwrap().unwrap();
    assert!(ended.success(), "as for other programs in front of `head`: {ended}");
    assert_eq!(mail.consume(&["consume", "mailer", "--limit", "5"]).await, [1, 2, 3, 4, 5]);
}
