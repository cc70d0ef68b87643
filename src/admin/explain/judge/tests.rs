use chrono::{DateTime, TimeDelta, Utc};
use std::time::Duration;
use uuid::Uuid;

use super::*;
use crate::fixtures;
use crate::store::{Position, QueuePosition};

const LEASE: Duration = Duration::from_secs(5);

fn now() -> DateTime<Utc> {
    DateTime::UNIX_EPOCH + TimeDelta::hours(1)
}

fn worker(name: &str, backends: serde_json::Value) -> WorkerRow {
    WorkerRow {
        id: Uuid::now_v7(),
        name: name.to_owned(),
        heartbeat_at: now(),
        silent_for: Duration::from_secs(1),
        backends: backends.to_string(),
        shards: Vec::new(),
    }
}

/// A due event in a shard of the first worker.
fn due(workers: Vec<WorkerRow>) -> Circumstances {
    let event = fixtures::event(7, "");
    let position = QueuePosition {
        now: now(),
        position: Position { scheduled_at: 0, seq: 7 },
        shard: 3,
        owner: workers.first().map(|worker| worker.id),
        ahead: 0,
        more_ahead: false,
    };
    Circumstances { event, position, before: None, workers, pause: None, lease: LEASE }
}

fn well(name: &str) -> WorkerRow {
    worker(name, serde_json::json!({"orders": {"health": "ok"}}))
}

fn down(name: &str) -> WorkerRow {
    worker(name, serde_json::json!({"orders": {"health": "connection refused", "since": now()}}))
}

fn standing_by(name: &str) -> WorkerRow {
    worker(name, serde_json::json!({"orders": {"health": "ok", "standing_by": "it lacks a handler"}}))
}

fn kind(circumstances: &Circumstances) -> String {
    let reason = judge(circumstances);
    assert!(!reason.to_string().is_empty());
    serde_json::to_value(reason).unwrap()["reason"].as_str().unwrap().to_owned()
}

#[test]
fn the_first_thing_that_keeps_an_event_is_named() {
    // Each further reason is the one that is left once the one before is fixed.
    let mut it = due(Vec::new());
    it.before = Some((Uuid::nil(), Status::Retry));
    it.event.seq = 0;
    it.event.scheduled_at = now() + TimeDelta::seconds(1);
    it.position.owner = None;
    it.position.ahead = 5;
    it.event.status = Status::Failed;
    assert_eq!(kind(&it), "failed");
    it.event.status = Status::Pending;
    assert_eq!(kind(&it), "scheduled");
    it.event.scheduled_at = now();
    assert_eq!(kind(&it), "without_place");
    it.event.seq = 7;
    assert_eq!(kind(&it), "no_worker");
    it.workers = vec![WorkerRow { silent_for: LEASE, ..well("dead") }];
    assert_eq!(kind(&it), "no_worker");
    it.workers = vec![worker("a", serde_json::json!({"": "ok"}))];
    assert_eq!(kind(&it), "unknown_backend");
    it.workers = vec![standing_by("a"), down("b")];
    assert_eq!(kind(&it), "behind_key");
    it.before = None;
    it.workers = vec![standing_by("a")];
    assert_eq!(kind(&it), "standing_by");
    it.workers = vec![down("a")];
    assert_eq!(kind(&it), "paused");
    it.workers = vec![worker("a", serde_json::json!({"orders": LaneHealth::stuck()}))];
    assert_eq!(kind(&it), "stuck");
    it.workers = vec![well("a"), down("b")];
    assert_eq!(kind(&it), "no_owner");
    it.position.owner = Some(it.workers[1].id);
    assert_eq!(kind(&it), "paused");
    it.workers = vec![worker("a", serde_json::json!({"orders": {"health": "ok", "per_second": 5}}))];
    it.position.owner = Some(it.workers[0].id);
    assert_eq!(kind(&it), "rate_limited");
    it.position.ahead = 0;
    assert_eq!(kind(&it), "due");
    it.event.status = Status::Published;
    assert_eq!(kind(&it), "published");
}

#[test]
fn a_retry_names_time_and_reason_and_after_publishing_its_handlers() {
    let mut it = due(vec![well("a")]);
    it.event.status = Status::Retry;
    it.event.retry_at = Some(now() + TimeDelta::seconds(90));
    (it.event.retry_count, it.event.last_error) = (1, "no such stream".to_owned());
    assert_eq!(
        judge(&it).to_string(),
        "It was rejected 1 of 3 times and will be retried at 1970-01-01T01:01:30.000Z: no such stream."
    );
    it.event.published_at = Some(now());
    it.event.pending_handlers = Some(vec!["mailer".to_owned(), "search".to_owned()]);
    assert_eq!(
        judge(&it).to_string(),
        "Its backend has had it since 1970-01-01T01:00:00.000Z, and these handlers must still run: mailer, search; they are \
         called again at 1970-01-01T01:01:30.000Z: no such stream."
    );
    it.event.retry_at = Some(now());
    assert_eq!(kind(&it), "handlers");
    it.workers.clear();
    assert_eq!(kind(&it), "no_worker");
}

#[test]
fn the_sentence_names_who_holds_it_up() {
    let mut it = due(vec![down("a")]);
    assert_eq!(
        judge(&it).to_string(),
        "Backend \"orders\" has been unavailable since 1970-01-01T01:00:00.000Z, reports worker a, so nothing is sent \
         and no retry is spent: connection refused."
    );
    it.event.publisher_backend = String::new();
    assert_eq!(
        judge(&it).to_string(),
        "No live worker serves the default backend; those alive are a. Configure it for one of them, or end the event with \
         `outbox events fail`."
    );
    let mut it = due(vec![well("a")]);
    (it.position.ahead, it.position.more_ahead) = (9_984, true);
    assert_eq!(
        judge(&it).to_string(),
        "It has been due since 1970-01-01T00:00:00.000Z, and worker a, which owns its shard, 3, will send it: 9984 \
         events or more are before it."
    );
}

#[test]
fn a_worker_with_a_running_lease_is_alive_however_old_its_heartbeat_is() {
    let mut it = due(vec![WorkerRow { silent_for: 4 * LEASE, ..well("slow") }]);
    assert_eq!(kind(&it), "no_worker");
    it.workers[0].shards = vec![(std::sync::Arc::from("orders"), 32)];
    assert_eq!(kind(&it), "due");
}

#[test]
fn a_failed_event_that_its_backend_has_is_not_said_to_be_sent_again() {
    let mut it = due(Vec::new());
    it.event.status = Status::Failed;
    assert!(judge(&it).to_string().ends_with("`outbox events retry` sends it again."));
    it.event.published_at = Some(now());
    assert!(judge(&it).to_string().ends_with("calls its handlers again; it is not sent a second time."));
}
