//! R4: index scans even on a table that was analysed when it was empty and then filled.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::{PostgresStore, SHARDS, Target};
use crate::event::Status;
use crate::store::{
    Acceptance, AdminStore, Care, CreatedCursor, DispatchStore, EventFilter, FailureRecord, FetchRequest, FetchedRow,
    Heartbeat, KeyStart, LaneName, MaintenanceStore, Page, Position, PredecessorQuery, Range, RetentionCursor,
    RetentionCutoff, SchemaStore, Shard, Store,
};
use crate::test_support::postgres::Server;

const ROWS: i32 = 1_000_000;

/// Enough calls for the server to choose a generic plan if it is no worse.
pub(super) const CALLS: usize = 8;

/// The most rows that one plan node may read and discard.
pub(super) const MOST_REMOVED: u64 = 20_000;

const HOUR: Duration = Duration::from_secs(3600);

/// A server that logs every plan and gathers no statistics.
pub(super) fn explaining_server() -> Server {
    Server::start_with(&[
        ("session_preload_libraries", "auto_explain"),
        ("auto_explain.log_min_duration", "0"),
        ("auto_explain.log_analyze", "on"),
        ("auto_explain.log_timing", "off"),
        ("auto_explain.log_buffers", "on"),
        ("auto_explain.log_nested_statements", "on"),
        ("autovacuum", "off"),
        ("shared_buffers", "256MB"),
        ("max_wal_size", "4GB"),
        ("jit", "off"),
    ])
}

/// Six in ten events are published, three pending, the rest in retry and failed; half have a key, one key is hot.
fn fill() -> String {
    format!(
        "INSERT INTO outbox_events (id, event_type, source, publisher_backend, partition_key, status, \
            created_at, updated_at, scheduled_at, published_at, retry_at, retry_count) \
         SELECT gen_random_uuid(), 't', 's', CASE WHEN i % 7 = 0 THEN '' ELSE 'orders' END, \
            CASE WHEN i % 20 = 3 THEN 'hot' WHEN i % 2 = 1 THEN 'key-' || i % 5003 ELSE '' END, \
            s.status, at, at, at, CASE WHEN s.status = 'published' THEN at END, \
            CASE WHEN s.status = 'retry' THEN at + interval '5 days' END, \
            CASE WHEN s.status = 'retry' THEN 1 ELSE 0 END \
         FROM generate_series(1, {ROWS}) AS i, \
            LATERAL (SELECT now() - interval '10 days' + i * interval '500 milliseconds') AS t(at), \
            LATERAL (SELECT CASE WHEN i / 10 % 10 < 6 THEN 'published' WHEN i / 10 % 10 < 9 THEN 'pending' \
                WHEN i % 2 = 0 THEN 'retry' ELSE 'failed' END) AS s(status)"
    )
}

fn lane() -> LaneName {
    Arc::from("orders")
}

fn all_lanes() -> Vec<(LaneName, Vec<i16>)> {
    ["orders", "", "unserved"].map(|lane| (lane.into(), (0..SHARDS).collect())).into()
}

pub(super) fn ranges(from: Position, to: Option<Position>) -> FetchRequest {
    let ranges = (0..SHARDS).map(|shard| Range { shard, from, to, limit: 32 }).collect();
    FetchRequest { retry_limit: 500, key_limit: 100, ..FetchRequest::of_ranges(lane(), ranges) }
}

/// Runs the statements of a worker without events until the server plans no more.
async fn ask_of_nothing(store: &PostgresStore) {
    let nobody = Uuid::now_v7();
    for _ in 0..CALLS {
        let everything = FetchRequest {
            retry_shards: (0..SHARDS).collect(),
            keys: vec![KeyStart::whole("absent")],
            ..ranges(Position::START, None)
        };
        assert!(store.fetch(&everything).await.unwrap().rows.is_empty());
        let question = PredecessorQuery {
            key: "absent".to_owned(),
            from: Position::START,
            before: Position::START,
            except: vec![(nobody, 1)],
        };
        for failed_blocks in [false, true] {
            assert!(store.blockers("orders", failed_blocks, std::slice::from_ref(&question)).await.unwrap().is_empty());
        }
        assert!(store.due_lanes(&all_lanes()).await.unwrap().lanes.is_empty());
        assert!(store.find_unsettled("orders", &[(nobody, 1)]).await.unwrap().is_empty());
        store.settle_published(&accepted(&[(nobody, 1)]), Care::Usual).await.unwrap();
        store.mark_failed_as_sent(&[(nobody, 1)]).await.unwrap();
    }
}

fn named(rows: &[FetchedRow]) -> Vec<(Uuid, i64)> {
    rows.iter().map(|row| (row.id, row.position.seq)).collect()
}

pub(super) fn accepted(events: &[(Uuid, i64)]) -> Vec<Acceptance> {
    events
        .iter()
        .map(|&(id, seq)| Acceptance { id, seq, place: None, asked: Arc::default(), left: Vec::new(), deletes: false })
        .collect()
}

fn last(rows: &[FetchedRow]) -> Position {
    rows.iter().map(|row| row.position).max().unwrap()
}

/// Runs each statement of a running worker once.
async fn ask_everything(store: &PostgresStore, worker: Uuid, epoch: i64) {
    // Reads forward, from a cursor, behind it, and due retries.
    let rows = store.fetch(&ranges(Position::START, None)).await.unwrap().rows;
    assert_eq!(rows.len(), 1_024);
    let place = last(&rows);
    let next = FetchRequest { retry_shards: (0..SHARDS).collect(), ..ranges(place, None) };
    let next = store.fetch(&next).await.unwrap().rows;
    assert!(next.iter().any(|row| row.retry) && next.iter().any(|row| !row.retry));
    let except: Vec<Uuid> = rows.iter().map(|row| row.id).collect();
    let sweep = FetchRequest { except: except.clone(), ..ranges(Position::START, Some(place)) };
    store.fetch(&sweep).await.unwrap();
    let keys = ["hot", "key-7", "absent"].map(KeyStart::whole).to_vec();
    let by_key = FetchRequest { ranges: Vec::new(), keys, except, ..ranges(place, None) };
    assert!(!store.fetch(&by_key).await.unwrap().rows.is_empty());

    // The events before those of a key.
    let before = last(&next);
    let questions: Vec<PredecessorQuery> = next
        .iter()
        .filter(|row| !row.partition_key.is_empty())
        .take(300)
        .map(|row| PredecessorQuery {
            key: row.partition_key.clone(),
            from: Position::START,
            before,
            except: vec![(row.id, row.position.seq)],
        })
        .collect();
    for failed_blocks in [false, true] {
        assert!(!store.blockers("orders", failed_blocks, &questions).await.unwrap().is_empty());
    }
    for holding in [&[][..], &[lane()][..]] {
        assert!(store.has_due(&[lane(), Arc::from("")], holding).await.unwrap());
    }
    assert!(!store.has_due(&[Arc::from("unserved")], &[]).await.unwrap());
    assert!(!store.due_lanes(&all_lanes()).await.unwrap().lanes.is_empty());

    // The outcomes of events.
    let (done, refused) = rows.split_at(900);
    assert_eq!(store.find_unsettled("orders", &named(done)).await.unwrap().len(), 900);
    store.settle_published(&accepted(&named(done)), Care::Usual).await.unwrap();
    let refused: Vec<FailureRecord> = refused.iter().map(|row| refusal(row, epoch)).collect();
    assert_eq!(store.settle_rescheduled(worker, &refused).await.unwrap().len(), 124);
    assert!(!store.raise_epoch(worker, &Shard { lane: lane(), number: 0 }, epoch + 1, 9).await.unwrap());

    // Housekeeping.
    let expiry = RetentionCutoff { published: Some(24 * 9 * HOUR), failed: Some(24 * 9 * HOUR), limit: 500 };
    let oldest = store.delete_expired(expiry, &[lane()], RetentionCursor::default()).await.unwrap();
    assert_eq!(oldest.deleted, 500);
    let behind = CreatedCursor { created_at: 0, id: Uuid::nil() };
    let after = RetentionCursor { published: Some(behind), failed: Some(behind) };
    assert_eq!(store.delete_expired(expiry, &[lane()], after).await.unwrap().deleted, 500);
    assert_eq!(store.repair_missing_seq().await.unwrap(), 0);
    assert!(store.find(refused[0].id).await.unwrap().is_some());

    // Searches of operators.
    let published = [Status::Published].as_slice();
    for statuses in [&[], published, &[Status::Failed], &[Status::Pending, Status::Retry, Status::Processing]] {
        let filter = EventFilter { statuses: statuses.to_vec(), ..EventFilter::default() };
        for newest_first in [false, true] {
            let mut page = Page { newest_first, after: None, limit: 50 };
            page.after = store.scan(&filter, page, 1_000).await.unwrap().places.last().copied();
            assert!(page.after.is_some(), "{filter:?}");
            assert_eq!(store.scan(&filter, page, 1_000).await.unwrap().places.len(), 50, "{filter:?}");
            let subject = EventFilter { subject: Some("nothing".to_owned()), ..filter.clone() };
            assert!(store.scan(&subject, page, 20_000).await.unwrap().places.is_empty());
        }
    }
}

fn refusal(row: &FetchedRow, epoch: i64) -> FailureRecord {
    FailureRecord {
        id: row.id,
        seq: row.position.seq,
        shard: Shard { lane: lane(), number: row.shard },
        epoch,
        fetched_retry_count: row.retry_count,
        fetched_updated_at: row.updated_at,
        retry_count: row.retry_count + 1,
        status: Status::Retry,
        delay: HOUR,
        error: Some("no".to_owned()),
        published: false,
        pending_handlers: None,
        asked: Arc::default(),
        left: Vec::new(),
        holds_for_handlers: false,
    }
}

/// The plans of the statements in the server's log.
pub(super) fn plans(log: &str) -> Vec<&str> {
    log.split("Query Text: ")
        .skip(1)
        .filter(|plan| plan.contains("outbox_events") || plan.contains("outbox_handler"))
        .collect()
}

pub(super) fn removed_rows(plan: &str) -> u64 {
    let removed = plan.lines().filter(|line| line.contains("Rows Removed by"));
    removed.filter_map(|line| line.rsplit(' ').next()?.parse::<u64>().ok()).max().unwrap_or(0)
}

#[tokio::test]
async fn plans_are_index_scans_on_a_table_that_was_filled_after_analyze() {
    let server = explaining_server();
    let database = server.database().await;
    let open = || PostgresStore::new(Target::from_url(&database.url).unwrap(), None).unwrap();
    open().migrate(&|_| ()).await.unwrap();
    let client = database.connect().await;
    client.batch_execute("ANALYZE").await.unwrap();
    let early = open();
    ask_of_nothing(&early).await;
    client.batch_execute(&fill()).await.unwrap();

    let worker = Uuid::now_v7();
    let mut leases = open().leases();
    let beat = Heartbeat {
        worker,
        name: "test".to_owned(),
        backends: "{}".to_owned(),
        handlers: "[]".to_owned(),
        lanes: vec![lane()],
        held: Vec::new(),
        extends: true,
        lease: HOUR,
    };
    leases.beat(&beat).await.unwrap();
    let taken = leases.acquire(worker, &lane(), 32, HOUR).await.unwrap();
    assert_eq!(taken.len(), 32);

    let asked_from = server.log().len();
    ask_everything(&early, worker, taken[0].1).await;
    for mode in ["auto", "force_generic_plan", "force_custom_plan"] {
        let set = format!("ALTER DATABASE {} SET plan_cache_mode = {mode}", database.name);
        client.batch_execute(&set).await.unwrap();
        let store = open();
        for _ in 0..if mode == "auto" { CALLS } else { 1 } {
            ask_everything(&store, worker, taken[0].1).await;
        }
    }
    let log = server.log();
    let plans = plans(&log[asked_from..]);
    assert!(plans.len() >= CALLS * 15, "{} plans were written down", plans.len());
    for plan in plans {
        assert!(!plan.contains("Seq Scan on outbox_events"), "{plan}");
        assert!(removed_rows(plan) <= MOST_REMOVED, "{plan}");
    }
}

#[tokio::test]
async fn listing_the_newest_events_does_not_read_all_others_even_after_analyze() {
    let server = explaining_server();
    let database = server.database().await;
    let store = PostgresStore::new(Target::from_url(&database.url).unwrap(), None).unwrap();
    store.migrate(&|_| ()).await.unwrap();
    let fill = "INSERT INTO outbox_events (id, event_type, source, status, created_at) \
        SELECT gen_random_uuid(), 't', 's', CASE WHEN n > 270000 THEN 'pending' ELSE 'published' END, \
            now() - (300000 - n) * interval '1 second' FROM generate_series(1, 300000) n; \
        ANALYZE outbox_events";
    database.connect().await.batch_execute(fill).await.unwrap();
    let asked_from = server.log().len();
    for statuses in [&[Status::Pending][..], &[Status::Retry, Status::Pending]] {
        let filter = EventFilter { statuses: statuses.to_vec(), ..EventFilter::default() };
        for newest_first in [false, true] {
            let page = Page { newest_first, after: None, limit: 500 };
            assert_eq!(store.scan(&filter, page, 20_000).await.unwrap().places.len(), 500);
            assert_eq!(store.scan(&filter, page, 20_000).await.unwrap().places.len(), 500);
        }
    }
    let log = server.log();
    let plans = plans(&log[asked_from..]);
    assert!(plans.len() >= 8, "{} plans were written down", plans.len());
    for plan in plans {
        assert!(removed_rows(plan) <= MOST_REMOVED && !plan.contains("Seq Scan on outbox_events"), "{plan}");
    }
}
