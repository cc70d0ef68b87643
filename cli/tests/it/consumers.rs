//! The consumers of docs/consuming.md, as in the text.

use std::collections::BTreeSet;
use std::fs::File;
use std::path::Path;
use std::process::Command;

use redis::aio::MultiplexedConnection;

use crate::examples::example;
use crate::python::interpreter;
use crate::support::process::Running;
use crate::support::{PATIENCE, eventually};
use crate::test_outbox::TestOutbox;

const CHAPTER: &str = include_str!("../../../docs/consuming.md");

const GROUP: &str = "mailer";

/// Entries that the consumers read in one call.
const AT_ONCE: usize = 100;

/// How long the consumers leave an entry to the consumer that read it.
const LEFT_AFTER: &str = "60000";

/// The chapter's code block in this language that contains these words.
fn shown(language: &str, words: &str) -> &'static str {
    let fence = format!("```{language}\n");
    let mut blocks = CHAPTER.split(&fence).skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.find(|code| code.contains(words)).unwrap_or_else(|| panic!("no {language} with {words} in the chapter"))
}

fn rust() -> Command {
    example("consumer")
}

fn python() -> Command {
    let mut command = Command::new(interpreter("consumer", &["redis==8.1.0"]));
    command.arg("-c").arg(shown("python", "xautoclaim"));
    command
}

/// A stream with 200 events that a worker delivered, and the group that consumes it.
struct Mail {
    test: TestOutbox,
    redis: MultiplexedConnection,
}

impl Mail {
    async fn delivered() -> Self {
        let test = TestOutbox::new().await;
        test.insert(200, 20).await;
        test.drain(&test.settings().write()).await;
        let redis = test.redis().await;
        Self { test, redis }
    }

    fn consumer<'a>(&self, program: &'a mut Command, name: &str) -> &'a mut Command {
        program.args([self.test.stream_name(), GROUP, name]).env("REDIS_URL", self.test.redis_url())
    }

    /// Entries that were read and not acknowledged; none while there is no group.
    async fn unacknowledged(&mut self) -> usize {
        let mut ask = redis::cmd("XPENDING");
        ask.arg(self.test.stream_name()).arg(GROUP);
        let (count, ..): (usize, Option<String>, Option<String>, redis::Value) =
            ask.query_async(&mut self.redis).await.unwrap();
        count
    }

    /// Waits until other consumers may claim unacknowledged entries.
    async fn let_time_pass(&mut self, name: &str) {
        let stream = self.test.stream_name();
        let mut ask = redis::cmd("XPENDING");
        ask.arg(stream).arg(GROUP).arg("-").arg("+").arg(1_000).arg(name);
        let taken: Vec<(String, String, i64, i64)> = ask.query_async(&mut self.redis).await.unwrap();
        let entries: Vec<&String> = taken.iter().map(|(entry, ..)| entry).collect();
        let mut claim = redis::cmd("XCLAIM");
        claim.arg(stream).arg(GROUP).arg(name).arg(0).arg(entries).arg("IDLE").arg(LEFT_AFTER).arg("JUSTID");
        let _: Vec<String> = claim.query_async(&mut self.redis).await.unwrap();
    }

    /// Runs a consumer until it has printed and acknowledged 200 events; each is printed once.
    async fn assert_all_are_read_once(&mut self, program: &mut Command) {
        let mut consumer = Running::spawn(self.consumer(program, "alive"));
        eventually("every event is read and acknowledged", PATIENCE, async || {
            assert!(consumer.is_running(), "{}", consumer.stderr());
            consumer.stdout().lines().count() >= 200 && self.unacknowledged().await == 0
        })
        .await;
        let said = consumer.stdout();
        let read: Vec<&str> = said.lines().map(|line| line.split_once(' ').unwrap().0).collect();
        let delivered = self.test.event_ids().await;
        assert_eq!(delivered.len(), 200);
        assert_eq!(read.len(), 200, "each once");
        assert_eq!(read.into_iter().collect::<BTreeSet<_>>(), delivered.iter().map(String::as_str).collect());
    }
}

async fn every_event_is_read_once_and_acknowledged(mut program: Command) {
    Mail::delivered().await.assert_all_are_read_once(&mut program).await;
}

/// The first consumer dies of a full disk, at the first event that it handles.
async fn what_a_dead_consumer_left_is_taken_over(mut program: Command, mut successor: Command) {
    let mut mail = Mail::delivered().await;
    let full = File::options().write(true).open("/dev/full").unwrap();
    let died = mail.consumer(&mut program, "dead").stdout(full).output().unwrap();
    assert!(!died.status.success(), "{died:?}");
    assert_eq!(mail.unacknowledged().await, AT_ONCE, "{}", String::from_utf8_lossy(&died.stderr));
    mail.let_time_pass("dead").await;
    mail.assert_all_are_read_once(&mut successor).await;
}

/// Deletes the stream and the group under a consumer, and then only the group.
async fn a_consumer_goes_on_after_its_group_is_lost(mut program: Command) {
    let mut mail = Mail::delivered().await;
    let mut consumer = Running::spawn(mail.consumer(&mut program, "alive"));
    let stream = mail.test.stream_name().to_owned();
    let read = |consumer: &Running| consumer.stdout().lines().count();
    eventually("every event is read", PATIENCE, async || read(&consumer) >= 200).await;
    let _: i64 = redis::cmd("DEL").arg(&stream).query_async(&mut mail.redis).await.unwrap();
    mail.test.insert(20, 5).await;
    mail.test.drain(&mail.test.settings().write()).await;
    eventually("the new stream's events are read", PATIENCE, async || read(&consumer) >= 220).await;
    let _: i64 =
        redis::cmd("XGROUP").arg("DESTROY").arg(&stream).arg(GROUP).query_async(&mut mail.redis).await.unwrap();
    eventually("the group begins again", PATIENCE, async || read(&consumer) >= 240).await;
    assert!(consumer.is_running(), "{}", consumer.stderr());
}

#[tokio::test]
async fn the_chapters_rust_consumer_goes_on_after_its_stream_or_group_is_lost() {
    a_consumer_goes_on_after_its_group_is_lost(rust()).await;
}

#[tokio::test]
async fn the_chapters_python_consumer_goes_on_after_its_stream_or_group_is_lost() {
    a_consumer_goes_on_after_its_group_is_lost(python()).await;
}

#[test]
fn the_chapter_shows_the_example_that_the_tests_run() {
    let example =
        std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/consumer.rs")).unwrap();
    assert_eq!(shown("rust,no_run", "xautoclaim"), example);
}

#[tokio::test]
async fn the_chapters_rust_consumer_reads_every_event_once_and_acknowledges_it() {
    every_event_is_read_once_and_acknowledged(rust()).await;
}

#[tokio::test]
async fn the_chapters_python_consumer_reads_and_acknowledges_every_event_once() {
    every_event_is_read_once_and_acknowledged(python()).await;
}

#[tokio::test]
async fn the_chapters_rust_consumer_takes_over_what_a_dead_one_left() {
    what_a_dead_consumer_left_is_taken_over(rust(), rust()).await;
}

#[tokio::test]
async fn the_chapters_python_consumer_takes_over_what_a_dead_one_left() {
    what_a_dead_consumer_left_is_taken_over(python(), python()).await;
}
