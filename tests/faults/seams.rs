//! The suite can fail: with one rule of the protocol switched off in the workers, what that rule is for comes about and
//! is reported; with all of them on, the same steps end even.

use std::time::Duration;

use serde_json::json;
use uuid::Uuid;

use crate::ledger::Balance;
use crate::scene::{LEASE, Scene};
use crate::seats::Seat;
use crate::support::process::{Running, Signal};
use crate::support::proxy::Passage;
use crate::support::{PATIENCE, eventually};
use crate::writers::{Committed, Writers};

const EVENTS: i32 = 200;
/// How often random writing is tried before a rule that is off must have shown.
const TRIES: u64 = 30;
const TRY: Duration = Duration::from_secs(1);

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn with_fencing_switched_off_what_a_dead_worker_sent_arrives_twice() {
    assert!(what_was_sent_arrives_late(None).await.is_even());
    assert!(what_was_sent_arrives_late(Some("fencing")).await.duplicated > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn with_the_journal_switched_off_what_was_sent_and_not_settled_arrives_twice() {
    assert!(a_worker_dies_before_it_hears_the_answer(None).await.is_even());
    assert!(a_worker_dies_before_it_hears_the_answer(Some("journal")).await.duplicated > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn with_r2_switched_off_an_old_fetch_brings_a_settled_event_again() {
    assert!(answers_come_late_by_different_times(None, 5).await.is_even());
    assert!(answers_come_late_by_different_times(Some("lingering"), TRIES).await.duplicated > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn with_r3_switched_off_an_event_overtakes_one_that_was_committed_late() {
    assert!(answers_come_late_by_different_times(Some("key-order"), TRIES).await.disordered > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn with_the_fenced_settle_switched_off_a_late_one_fails_an_event_that_a_person_retried() {
    assert!(a_failure_is_recorded_after_a_person_retried_the_event(None).await.is_even());
    assert_eq!(a_failure_is_recorded_after_a_person_retried_the_event(Some("fenced-settle")).await.lost, 1);
}

async fn what_was_sent_arrives_late(off: Option<&'static str>) -> Balance {
    let scene = Scene::new(off).await;
    let [first, second, ..] = &scene.seats[..] else { unreachable!() };
    start(&scene, first, &[]).await;
    let mut committed = vec![insert(&scene, EVENTS).await];
    settle_all(&scene).await;
    let way = first.to_redis.lock().await;
    let held = way.held();
    way.set(Passage::HoldRequests);
    committed.push(insert(&scene, EVENTS).await);
    eventually("a batch is on its way", PATIENCE, async || way.held() > held).await;
    scene.end(&mut *first.worker.lock().await, Signal::KILL).await;

    start(&scene, second, &[]).await;
    assert_eq!(scene.drain(PATIENCE).await, 0);
    let replies = way.replies();
    way.set(Passage::Open);
    eventually("Redis has answered what the dead one sent", PATIENCE, async || way.replies() > replies).await;
    Balance::of(&committed, &scene.stream().await)
}

async fn a_worker_dies_before_it_hears_the_answer(off: Option<&'static str>) -> Balance {
    let scene = Scene::new(off).await;
    let [first, second, ..] = &scene.seats[..] else { unreachable!() };
    start(&scene, first, &[]).await;
    let mut committed = vec![insert(&scene, EVENTS).await];
    settle_all(&scene).await;
    first.to_redis.lock().await.set(Passage::LoseReplies);
    let before = scene.stream().await.len();
    committed.push(insert(&scene, EVENTS).await);
    eventually("a batch is in the stream", PATIENCE, async || scene.stream().await.len() > before).await;
    scene.end(&mut *first.worker.lock().await, Signal::KILL).await;

    start(&scene, second, &[]).await;
    assert_eq!(scene.drain(PATIENCE).await, 0);
    Balance::of(&committed, &scene.stream().await)
}

/// Writers at random, and answers of PostgreSQL that overtake each other.
async fn answers_come_late_by_different_times(off: Option<&'static str>, tries: u64) -> Balance {
    let scene = Scene::new(off).await;
    let seat = &scene.seats[0];
    seat.to_postgres.lock().await.set(Passage::Delay(Duration::from_millis(80)));
    start(&scene, seat, &[]).await;
    let mut committed = Vec::new();
    for seed in 0..tries {
        let writers = Writers::start(scene.url(), seed);
        tokio::time::sleep(TRY).await;
        committed.extend(writers.finish().await);
        assert_eq!(scene.drain(PATIENCE).await, 0);
        let balance = Balance::of(&committed, &scene.stream().await);
        if !balance.is_even() {
            return balance;
        }
    }
    Balance::of(&committed, &scene.stream().await)
}

/// One worker has refused an event and cannot say so; another one refuses it too, and says so; a person mends it; then
/// the first one is heard.
async fn a_failure_is_recorded_after_a_person_retried_the_event(off: Option<&'static str>) -> Balance {
    let scene = Scene::new(off).await;
    let [first, second, third, ..] = &scene.seats[..] else { unreachable!() };
    start(&scene, first, &[]).await;
    let mut committed = vec![insert(&scene, EVENTS).await];
    settle_all(&scene).await;
    let (to_redis, to_postgres) = (first.to_redis.lock().await, first.to_postgres.lock().await);
    let held = to_redis.held();
    to_redis.set(Passage::HoldRequests);
    let events = insert_with_one_that_cannot_be_sent(&scene).await;
    let broken = events[1].id;
    committed.push(events);
    eventually("a batch is on its way", PATIENCE, async || to_redis.held() > held).await;
    to_postgres.set(Passage::HoldRequests);
    forget_the_workers(&scene).await;

    // It holds its leases while it is stopped, so that nobody else touches the event.
    start(&scene, second, &[("OUTBOX__WORKER__LEASE", "60s")]).await;
    let all = "SELECT count(*) FROM outbox_leases l JOIN outbox_workers w ON w.id = l.owner
        WHERE w.name LIKE 'worker-1%' AND l.expires_at > clock_timestamp() + interval '30 s'";
    eventually("the second one has every share", PATIENCE, async || scene.number(all).await == 64).await;
    let failed = format!("SELECT count(*) FROM outbox_events WHERE id = '{broken}' AND status = 'failed'");
    eventually("it has refused the event", PATIENCE, async || scene.number(&failed).await == 1).await;
    second.worker.lock().await.as_mut().unwrap().running.signal(Signal::STOP);
    mend(&scene, third, broken).await;

    to_redis.set(Passage::Open);
    to_postgres.set(Passage::Open);
    let beats = "SELECT count(*) FROM outbox_workers WHERE name LIKE 'worker-0%' AND heartbeat_at > clock_timestamp()";
    for _ in 0..3 {
        let now: String = scene.sql().await.query_one("SELECT clock_timestamp()::text", &[]).await.unwrap().get(0);
        let beaten = beats.replace("clock_timestamp()", &format!("'{now}'"));
        eventually("the first one's heart beats", 5 * LEASE, async || scene.number(&beaten).await == 1).await;
    }
    scene.end(&mut *first.worker.lock().await, Signal::KILL).await;
    second.worker.lock().await.as_mut().unwrap().running.signal(Signal::CONT);
    let waiting = "SELECT count(*) FROM outbox_events WHERE status IN ('pending', 'retry')";
    eventually("nothing waits", PATIENCE, async || scene.number(waiting).await == 0).await;
    Balance::of(&committed, &scene.stream().await)
}

async fn start(scene: &Scene, seat: &Seat, settings: &[(&str, &str)]) {
    *seat.worker.lock().await = Some(scene.worker(seat, 0, settings));
}

/// Everything is published, and the journal is rid of it.
async fn settle_all(scene: &Scene) {
    assert_eq!(scene.drain(PATIENCE).await, 0);
    eventually("nothing is left in the journal", PATIENCE, async || {
        let fields = scene.journal().await;
        !fields.is_empty() && !fields.iter().any(|field| field.starts_with("sent/"))
    })
    .await;
}

/// Those that are cut off need not be waited for.
async fn forget_the_workers(scene: &Scene) {
    let forget = "DELETE FROM outbox_workers; UPDATE outbox_leases SET owner = NULL, expires_at = clock_timestamp()";
    scene.sql().await.batch_execute(forget).await.unwrap();
}

/// Events of one transaction, some of them with keys.
async fn insert(scene: &Scene, count: i32) -> Vec<Committed> {
    let statement = "INSERT INTO outbox_events (id, event_type, source, partition_key)
        SELECT gen_random_uuid(), 'thing.happened', 'faults', CASE n % 3 WHEN 0 THEN '' ELSE 'key ' || n % 20 END
        FROM generate_series(1, $1) n RETURNING id::text, partition_key";
    let rows = scene.sql().await.query(statement, &[&count]).await.unwrap();
    rows.iter().map(|row| Committed { id: row.get::<_, &str>(0).parse().unwrap(), key: row.get(1) }).collect()
}

/// Two events of one transaction; the second has a field that no stream entry can have.
async fn insert_with_one_that_cannot_be_sent(scene: &Scene) -> Vec<Committed> {
    let events = [json!({}), json!({ "field": { "nested": true } })].map(|config| {
        let committed = Committed { id: Uuid::new_v4(), key: String::new() };
        (committed, config)
    });
    let values =
        events.each_ref().map(|(event, config)| format!("('{}', 'thing.happened', 'faults', '{config}')", event.id));
    let statement =
        format!("INSERT INTO outbox_events (id, event_type, source, publisher_config) VALUES {}", values.join(", "));
    scene.sql().await.batch_execute(&statement).await.unwrap();
    events.map(|(event, _)| event).into()
}

/// What a person does about an event that failed.
async fn mend(scene: &Scene, seat: &Seat, id: Uuid) {
    let mend = format!("UPDATE outbox_events SET publisher_config = '{{}}' WHERE id = '{id}'");
    scene.sql().await.batch_execute(&mend).await.unwrap();
    let mut retry = Running::spawn(&mut scene.outbox(seat, &["events", "retry", &id.to_string()]));
    assert!(retry.wait_exit(PATIENCE).await.success(), "{}", retry.stderr());
}
