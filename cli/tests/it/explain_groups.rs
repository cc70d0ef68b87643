//! What `outbox events explain` says about the consumer groups of an event's stream.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::process::Running;
use crate::support::{PATIENCE, eventually, free_port};
use crate::test_outbox::TestOutbox;

const MAILER: &str = "[consumers.mailer]\nsource = \"default\"\nmax_deliveries = 1";

/// An outbox whose one event is in its stream.
struct Sent {
    test: TestOutbox,
    settings: PathBuf,
    id: String,
    redis: redis::aio::MultiplexedConnection,
}

impl Sent {
    async fn new(publisher: &str) -> Self {
        let test = TestOutbox::new().await;
        let settings = test.settings().publisher(publisher).worker(MAILER).write();
        test.insert(1, 1).await;
        test.drain(&settings).await;
        let id = test.sql().await.query_one("SELECT id::text FROM outbox_events", &[]).await.unwrap().get(0);
        let redis = test.redis().await;
        Self { test, settings, id, redis }
    }

    async fn redis(&mut self, arguments: &[&str]) {
        let mut command = redis::cmd(arguments[0]);
        let _: redis::Value = command.arg(&arguments[1..]).query_async(&mut self.redis).await.unwrap();
    }

    /// What the command says after its first line, and the part of its JSON.
    fn explained(&self, settings: &Path) -> (Vec<String>, Value) {
        let run = |arguments: &[&str]| {
            let output =
                self.test.outbox(settings, &[&["events", "explain", &self.id], arguments].concat()).output().unwrap();
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            String::from_utf8(output.stdout).unwrap()
        };
        let said = run(&[]);
        assert!(said.starts_with("It was published at 2"), "{said}");
        let object: Value = serde_json::from_str(&run(&["--format", "json"])).unwrap();
        assert_eq!(object["reason"], "published");
        (said.lines().skip(1).map(str::to_owned).collect(), object["groups"].clone())
    }

    fn lines(&self) -> Vec<String> {
        self.explained(&self.settings).0
    }
}

#[tokio::test]
async fn an_event_that_was_sent_says_what_each_group_has_done_with_it() {
    let mut sent = Sent::new("").await;
    let stream = sent.test.stream_name().to_owned();
    assert_eq!(sent.lines(), [format!("Stream `{stream}` has it, and no group reads that.")]);
    for (group, start) in [("a-new", "0"), ("b-later", "$"), ("c-reading", "0")] {
        sent.redis(&["XGROUP", "CREATE", &stream, group, start]).await;
    }
    sent.redis(&["XREADGROUP", "GROUP", "c-reading", "host-1", "STREAMS", &stream, ">"]).await;
    let (lines, object) = sent.explained(&sent.settings);
    assert_eq!(
        lines[..2],
        ["Group a-new has not read it.", "Group b-later has read and acknowledged it, or began behind it."]
    );
    assert!(lines[2].starts_with("It has waited in group c-reading since 2"), "{lines:?}");
    assert!(lines[2].ends_with(", with consumer host-1, delivery 1."), "{lines:?}");
    let groups = &object["groups"];
    assert_eq!((&object["stream"], &groups[0]), (&json!(stream), &json!({"group": "a-new", "state": "unread"})));
    assert_eq!((&groups[2]["state"], &groups[2]["consumer"]), (&json!("pending"), &json!("host-1")));
}

#[tokio::test]
async fn an_event_that_is_a_dead_letter_says_why_and_whether_it_was_retried() {
    let sent = Sent::new("partitions = 4").await;
    let mut consume = Command::new(env!("CARGO_BIN_EXE_outbox"));
    consume.env("OUTBOX_CONFIG", &sent.settings).args(["consume", "mailer", "--exec", "false"]);
    let mut failing = Running::spawn(&mut consume);
    let mut line = String::new();
    eventually("it is a dead letter", PATIENCE, async || {
        line = sent.lines().concat();
        line.contains("dead letter")
    })
    .await;
    assert!(line.starts_with("It is a dead letter of group mailer, {"), "{line}");
    assert!(line.ends_with("after delivery 1: handler `mailer`: the command ended with exit status: 1."), "{line}");
    failing.kill();
    let retried = sent.test.outbox(&sent.settings, &["dead", "retry", "mailer", "--all"]).output().unwrap();
    assert_eq!(String::from_utf8_lossy(&retried.stdout), "retried 1 dead letter\n");
    assert!(sent.lines()[0].contains("an operator has retried it"), "{:?}", sent.lines());
}

#[tokio::test]
async fn what_redis_does_not_say_is_one_line_and_no_failure() {
    let mut sent = Sent::new("").await;
    let unreachable = sent.test.file(&format!(
        "[database]\nurl = \"{}\"\n[publishers.default]\nurl = \"redis://127.0.0.1:{}\"",
        sent.test.url(),
        free_port()
    ));
    let (lines, object) = sent.explained(&unreachable);
    assert!(lines.len() == 1 && lines[0].contains("is unknown: Redis at 127.0.0.1:"), "{lines:?}");
    assert!(object["problem"].as_str().unwrap().starts_with("Redis at "), "{object}");
    let other = sent.test.file(&format!("[database]\nurl = \"{}\"", sent.test.url()));
    assert_eq!(sent.explained(&other), (Vec::new(), Value::Null), "its backend is not in the settings");
    let stream = sent.test.stream_name().to_owned();
    sent.redis(&["XTRIM", &stream, "MAXLEN", "0"]).await;
    assert!(sent.lines()[0].contains("its entry was trimmed, or is not among"), "{:?}", sent.lines());
}
