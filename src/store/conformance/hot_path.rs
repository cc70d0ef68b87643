//! Every statement of a running worker, for tests of plans.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use crate::event::Status;
use crate::store::{
    Acceptance, Care, CreatedCursor, EventFilter, ExceptedEvent, FailureRecord, FetchRequest, FetchedRow, Heartbeat,
    KeyStart, LaneName, Page, Position, PredecessorQuery, Range, RetentionCursor, RetentionCutoff, Shard, Store,
    UnrecordedEvents,
};

const HOUR: Duration = Duration::from_secs(3600);

fn lane() -> LaneName {
    Arc::from("orders")
}

fn all_lanes() -> Vec<(LaneName, Vec<i16>)> {
    ["orders", "", "unserved"].map(|lane| (lane.into(), (0..32).collect())).into()
}

pub(in crate::store) fn ranges(from: Position, to: Option<Position>) -> FetchRequest {
    let ranges = (0..32).map(|shard| Range { shard, from, to, limit: 32 }).collect();
    FetchRequest { retry_limit: 500, key_limit: 100, ..FetchRequest::of_ranges(lane(), ranges) }
}

/// Runs the statements of a worker without events.
pub(in crate::store) async fn ask_of_nothing(store: &dyn Store, calls: usize) {
    let nobody = Uuid::now_v7();
    for _ in 0..calls {
        let everything = FetchRequest {
            retry_shards: (0..32).collect(),
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

pub(in crate::store) fn accepted(events: &[(Uuid, i64)]) -> Vec<Acceptance> {
    events
        .iter()
        .map(|&(id, seq)| Acceptance { id, seq, place: None, asked: Arc::default(), left: Vec::new(), deletes: false })
        .collect()
}

fn last(rows: &[FetchedRow]) -> Position {
    rows.iter().map(|row| row.position).max().unwrap()
}

/// Runs each statement of a running worker once.
pub(in crate::store) async fn ask_everything(store: &dyn Store, worker: Uuid, epoch: i64) {
    // Reads forward, from a cursor, behind it, and due retries.
    let rows = store.fetch(&ranges(Position::START, None)).await.unwrap().rows;
    assert_eq!(rows.len(), 1_024);
    let place = last(&rows);
    let next = FetchRequest { retry_shards: (0..32).collect(), ..ranges(place, None) };
    let next = store.fetch(&next).await.unwrap().rows;
    assert!(next.iter().any(|row| row.retry) && next.iter().any(|row| !row.retry));
    let except: Vec<ExceptedEvent> = rows.iter().map(FetchedRow::excepted).collect();
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
        assert!(store.has_due(&[lane(), Arc::from("")], holding, &UnrecordedEvents::default()).await.unwrap());
    }
    assert!(!store.has_due(&[Arc::from("unserved")], &[], &UnrecordedEvents::default()).await.unwrap());
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

/// A worker that owns every shard of the lane, and the epoch of its leases.
pub(in crate::store) async fn own_every_shard(store: &dyn Store) -> (Uuid, i64) {
    let worker = Uuid::now_v7();
    let mut leases = store.leases();
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
    (worker, taken[0].1)
}
