use std::time::Duration;

use serde_json::Value;
use uuid::Uuid;

use super::Fixture;
use super::builders::*;
use crate::event::Status;
use crate::store::{Acceptance, Action, AuditNote, Care, FailureRecord, Settled};

pub(super) async fn publishing_is_recorded_once<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let id = TestRow::new().with("pending_handlers", "'[\"a\"]'").insert(&fixture).await;
    let other = TestRow::new().insert(&fixture).await;
    let settled = [(id, find(&store, id).await.seq)];
    record(&store, &settled).await;
    let event = find(&store, id).await;
    assert_eq!((event.status, event.pending_handlers.clone()), (Status::Published, None));
    assert!(event.published_at.is_some());
    record(&store, &settled).await;
    assert_eq!(find(&store, id).await, event);
    assert_eq!(ids(&fetch_all(&store).await), [other]);
    record(&store, &[]).await;
}

pub(super) async fn a_row_is_settled_where_it_was_read_or_found_by_its_id<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    for deletes in [false, true] {
        let mut ids = Vec::new();
        for _ in 0..8 {
            ids.push(TestRow::new().insert(&fixture).await);
        }
        let rows = fetch_all(&store).await;
        let mut events: Vec<Acceptance> = rows
            .iter()
            .map(|row| (row.place, accepted(&[(row.id, row.position.seq)]).remove(0)))
            .map(|(place, event)| Acceptance { place, deletes, ..event })
            .collect();
        let is_done = async |id: Uuid| {
            store.find(id).await.unwrap().map_or(deletes, |event| event.status == Status::Published && !deletes)
        };
        // Where they were read.
        let here = events.split_off(6);
        assert_eq!(outcomes(store.settle_published(&here, Care::Usual).await.unwrap()), vec![Settled::Recorded; 2]);
        // One has moved since, and two are where the other was.
        let moved = fixture.id(events[0].id);
        fixture.execute(&format!("UPDATE outbox_events SET subject = 'moved' WHERE id = {moved}")).await;
        (events[1].place, events[2].place) = (events[2].place, events[1].place);
        let two = [events[0].clone(), events[1].clone()];
        assert_eq!(outcomes(store.settle_published(&two, Care::Usual).await.unwrap()), vec![Settled::Recorded; 2]);
        for event in &here {
            assert!(is_done(event.id).await);
        }
        for (n, event) in events.iter().enumerate() {
            assert_eq!(is_done(event.id).await, n < 2, "{n}");
        }
        // Where another version, or nothing, is. One that was deleted first may be found gone with the others.
        let settled = [events[0].clone(), here[0].clone(), events[3].clone()];
        let outcomes = outcomes(store.settle_published(&settled, Care::Usual).await.unwrap());
        let is_recorded = |outcome| outcome == Settled::Recorded || deletes && outcome == Settled::Superseded;
        assert!(outcomes.into_iter().all(is_recorded));
        assert!(is_done(events[3].id).await);
        for event in &events {
            store.settle_published(std::slice::from_ref(event), Care::Usual).await.unwrap();
        }
    }
}

pub(super) async fn each_event_of_a_settle_has_an_outcome_of_its_own<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let (pending, published, replayed) = (
        TestRow::new().insert(&fixture).await,
        TestRow::new().insert(&fixture).await,
        TestRow::new().insert(&fixture).await,
    );
    let seq = async |id| find(&store, id).await.seq;
    let settled =
        [(pending, seq(pending).await), (published, seq(published).await), (replayed, seq(replayed).await + 1)];
    record(&store, &settled[1..2]).await;
    let expected = [Settled::Recorded, Settled::Recorded, Settled::Superseded];
    for care in [Care::Usual, Care::AfterDoubt] {
        assert_eq!(settle(&store, &settled, care).await, expected, "{care:?}");
    }
    assert_eq!(find(&store, replayed).await.status, Status::Pending);
}

pub(super) async fn a_row_that_may_not_be_updated_is_named_and_holds_no_other<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let worker = TestWorker::owner(&store).await;
    let mut ids = Vec::new();
    for _ in 0..50 {
        ids.push(TestRow::new().insert(&fixture).await);
    }
    fixture.refuse_updates(ids[7]).await;
    let rows = fetch_all(&store).await;
    let settles: Vec<FailureRecord> = rows.iter().map(|row| worker.reject(row)).collect();
    let refused = |outcome: &Settled| matches!(outcome, Settled::Refused(reason) if reason.contains("not this one"));
    let outcomes = outcomes(store.settle_rescheduled(worker.id, &settles).await.unwrap());
    for (row, outcome) in rows.iter().zip(&outcomes) {
        assert_eq!(refused(outcome), row.id == ids[7], "{outcome:?}");
    }
    let sent: Vec<_> = rows.iter().map(|row| (row.id, row.position.seq)).collect();
    for care in [Care::Usual, Care::AfterDoubt] {
        let outcomes = settle(&store, &sent, care).await;
        for ((id, _), outcome) in sent.iter().zip(&outcomes) {
            assert_eq!(refused(outcome), *id == ids[7], "{outcome:?}");
            assert_eq!(*outcome == Settled::Recorded, *id != ids[7]);
        }
    }
    let statuses = "SELECT CAST(count(*) AS bigint) FROM outbox_events WHERE status = 'published'";
    assert_eq!(fixture.number(statuses).await, 49);
}

pub(super) async fn where_every_row_is_refused_no_row_is_to_blame<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let mut sent = Vec::new();
    for _ in 0..3 {
        let id = TestRow::new().insert(&fixture).await;
        fixture.refuse_updates(id).await;
        sent.push((id, find(&store, id).await.seq));
    }
    store.settle_published(&accepted(&sent), Care::Usual).await.unwrap_err();
}

pub(super) async fn a_row_that_another_transaction_holds_is_skipped_and_recorded_later<F: Fixture>() {
    let fixture = F::fresh().await;
    if !fixture.writers_overlap() {
        return;
    }
    let store = fixture.store();
    let worker = TestWorker::owner(&store).await;
    let ids = [TestRow::new().insert(&fixture).await, TestRow::new().insert(&fixture).await];
    let rows = fetch_all(&store).await;
    let position = |id| rows.iter().position(|row| row.id == id).unwrap();
    let settles: Vec<FailureRecord> = rows.iter().map(|row| worker.reject(row)).collect();
    let mut other = fixture.begin().await;
    let locked = fixture.id(ids[0]);
    other.execute(&format!("UPDATE outbox_events SET subject = 'locked' WHERE id = {locked}")).await;
    let outcomes = outcomes(store.settle_rescheduled(worker.id, &settles).await.unwrap());
    assert_eq!([&outcomes[position(ids[0])], &outcomes[position(ids[1])]], [&Settled::Locked, &Settled::Recorded]);
    let sent: Vec<_> = rows.iter().map(|row| (row.id, row.position.seq)).collect();
    for care in [Care::Usual, Care::AfterDoubt] {
        let outcomes = settle(&store, &sent, care).await;
        assert_eq!([&outcomes[position(ids[0])], &outcomes[position(ids[1])]], [&Settled::Locked, &Settled::Recorded]);
    }
    other.commit().await;
    record(&store, &sent).await;
    assert_eq!(find(&store, ids[0]).await.status, Status::Published);
}

pub(super) async fn publishing_wins_over_any_other_status<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let mut settled = Vec::new();
    for status in ["pending", "retry", "failed", "processing"] {
        let id = TestRow::new().status(status).insert(&fixture).await;
        settled.push((id, find(&store, id).await.seq));
    }
    record(&store, &settled).await;
    for (id, _) in settled {
        assert_eq!(find(&store, id).await.status, Status::Published);
    }
}

pub(super) async fn a_failed_event_that_was_sent_stays_failed_and_is_marked_as_sent<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let failed = TestRow::new().status("failed").insert(&fixture).await;
    let replayed = TestRow::new().status("failed").insert(&fixture).await;
    let pending = TestRow::new().insert(&fixture).await;
    let sent = [
        (failed, find(&store, failed).await.seq),
        (replayed, find(&store, replayed).await.seq + 1),
        (pending, find(&store, pending).await.seq),
    ];
    store.mark_failed_as_sent(&sent).await.unwrap();
    let event = find(&store, failed).await;
    assert!(event.status == Status::Failed && event.published_at.is_some(), "{event:?}");
    assert_eq!(find(&store, replayed).await.published_at, None, "it is another event by now");
    assert_eq!(find(&store, pending).await.published_at, None, "it is taken into flight");
    store.mark_failed_as_sent(&sent).await.unwrap();
    assert_eq!(find(&store, failed).await, event);
    assert_eq!(ids(&store.find_unsettled(&lane(), &sent).await.unwrap()), [pending]);
}

pub(super) async fn a_replayed_event_is_not_settled_by_its_earlier_seq<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let worker = TestWorker::owner(&store).await;
    let id = TestRow::new().insert(&fixture).await;
    let before = fetch_one(&store, id).await;
    fixture.execute("UPDATE outbox_events SET seq = seq + 1000").await;
    record(&store, &[(id, before.position.seq)]).await;
    assert!(reschedule(&store, worker.id, &[worker.reject(&before)]).await.is_empty());
    assert_eq!(find(&store, id).await.status, Status::Pending);
}

pub(super) async fn a_retry_is_recorded_with_its_error_and_keeps_its_schedule<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let worker = TestWorker::owner(&store).await;
    let id = TestRow::keyed("k").insert(&fixture).await;
    let before = find(&store, id).await;
    let settle = worker.reject(&fetch_one(&store, id).await);
    assert_eq!(reschedule(&store, worker.id, &[settle]).await, [id]);
    let event = find(&store, id).await;
    assert_eq!((event.status, event.retry_count, &*event.last_error), (Status::Retry, 1, "no such stream"));
    assert_eq!((event.scheduled_at, event.seq, event.published_at), (before.scheduled_at, before.seq, None));
    let wait = event.retry_at.unwrap() - event.updated_at;
    assert!((3595..=3605).contains(&wait.num_seconds()), "{wait}");
    let errors: Vec<Value> = event.errors.unwrap().parse().unwrap();
    assert_eq!(errors[0]["error"], "no such stream");
    assert!(chrono::DateTime::parse_from_rfc3339(errors[0]["at"].as_str().unwrap()).is_ok());
    assert!(fetch_all(&store).await.is_empty());
}

pub(super) async fn a_failure_is_recorded_with_its_last_ten_errors<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let worker = TestWorker::owner(&store).await;
    let id = TestRow::new().insert(&fixture).await;
    for attempt in 1..=12 {
        let last = attempt == 12;
        let settle = FailureRecord {
            status: if last { Status::Failed } else { Status::Retry },
            delay: Duration::ZERO,
            error: Some(format!("no. {attempt} {}", "ü".repeat(3000))),
            ..worker.reject(&fetch_one(&store, id).await)
        };
        assert_eq!(reschedule(&store, worker.id, &[settle]).await, [id]);
    }
    let event = find(&store, id).await;
    assert_eq!((event.status, event.retry_count), (Status::Failed, 12));
    assert_eq!(event.last_error.chars().count(), 2000);
    let errors: Vec<Value> = event.errors.unwrap().parse().unwrap();
    assert_eq!(errors.len(), 10);
    assert!(errors[0]["error"].as_str().unwrap().starts_with("no. 3 "));
    assert!(errors[9]["error"].as_str().unwrap().starts_with("no. 12 "));
}

pub(super) async fn a_settle_whose_answer_was_lost_is_answered_again_and_counts_once<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let worker = TestWorker::owner(&store).await;
    for status in [Status::Retry, Status::Failed] {
        let id = TestRow::new().insert(&fixture).await;
        let settle = [FailureRecord { status, ..worker.reject(&fetch_one(&store, id).await) }];
        assert_eq!(reschedule(&store, worker.id, &settle).await, [id]);
        let event = find(&store, id).await;
        assert_eq!(reschedule(&store, worker.id, &settle).await, [id]);
        assert_eq!(find(&store, id).await, event);
    }
}

pub(super) async fn waiting_for_handlers_is_no_failure<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let worker = TestWorker::owner(&store).await;
    let id = TestRow::new().with("last_error", "'earlier'").insert(&fixture).await;
    let row = fetch_one(&store, id).await;
    let settle = [FailureRecord {
        retry_count: row.retry_count,
        delay: Duration::ZERO,
        error: None,
        published: true,
        pending_handlers: Some(vec!["mail".to_owned(), "audit".to_owned()]),
        ..worker.reject(&row)
    }];
    for _ in 0..2 {
        assert_eq!(reschedule(&store, worker.id, &settle).await, [id]);
    }
    let event = find(&store, id).await;
    assert_eq!((event.status, event.retry_count, &*event.last_error), (Status::Retry, 0, "earlier"));
    assert_eq!(event.pending_handlers.as_deref(), Some(&["mail".to_owned(), "audit".to_owned()][..]));
    assert!(event.published_at.is_some() && event.errors.is_none());
    assert_eq!(ids(&fetch_all(&store).await), [id]);
}

pub(super) async fn published_at_is_set_once_and_never_cleared<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let worker = TestWorker::owner(&store).await;
    let id = TestRow::new().retry_in(&fixture, -1000).with("published_at", fixture.time(-5000)).insert(&fixture).await;
    let before = find(&store, id).await.published_at;
    for published in [false, true] {
        let row = fetch_one(&store, id).await;
        let settle = FailureRecord { published, delay: Duration::ZERO, ..worker.reject(&row) };
        assert_eq!(reschedule(&store, worker.id, &[settle]).await, [id]);
        assert_eq!(find(&store, id).await.published_at, before);
    }
    record(&store, &[(id, find(&store, id).await.seq)]).await;
    assert_eq!(find(&store, id).await.published_at, before);
}

pub(super) async fn an_event_with_another_retry_count_is_left_alone<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let worker = TestWorker::owner(&store).await;
    let id = TestRow::new().insert(&fixture).await;
    let settle = worker.reject(&fetch_one(&store, id).await);
    fixture.execute("UPDATE outbox_events SET retry_count = 2").await;
    assert!(reschedule(&store, worker.id, &[settle]).await.is_empty());
    assert_eq!(find(&store, id).await.status, Status::Pending);
}

pub(super) async fn a_rejection_repeated_after_an_operators_retry_is_not_recorded<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let worker = TestWorker::owner(&store).await;
    let id = TestRow::new().insert(&fixture).await;
    let settle = [FailureRecord { status: Status::Failed, ..worker.reject(&fetch_one(&store, id).await) }];
    assert_eq!(reschedule(&store, worker.id, &settle).await, [id]);
    assert_eq!(store.change(&Action::Retry, &[id], &AuditNote::default()).await.unwrap(), [id]);
    // The reply was lost, so the worker repeats the settle.
    assert!(reschedule(&store, worker.id, &settle).await.is_empty());
    let event = find(&store, id).await;
    assert_eq!((event.status, event.retry_count), (Status::Pending, 0));
}

pub(super) async fn a_row_that_is_no_event_is_recorded_as_failed<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let worker = TestWorker::owner(&store).await;
    for (column, nonsense) in fixture.nonsense() {
        let id = TestRow::new().with(column, *nonsense).insert(&fixture).await;
        let settle = FailureRecord { status: Status::Failed, ..worker.reject(&fetch_one(&store, id).await) };
        for _ in 0..2 {
            let recorded = reschedule(&store, worker.id, std::slice::from_ref(&settle)).await;
            assert_eq!(recorded, [id], "{column} = {nonsense}");
        }
        assert!(fetch_all(&store).await.is_empty());
    }
}

pub(super) async fn a_published_event_is_not_rescheduled<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let worker = TestWorker::owner(&store).await;
    let id = TestRow::new().insert(&fixture).await;
    let settle = worker.reject(&fetch_one(&store, id).await);
    record(&store, &[(id, settle.seq)]).await;
    assert!(reschedule(&store, worker.id, &[settle]).await.is_empty());
    assert_eq!(find(&store, id).await.status, Status::Published);
}

pub(super) async fn a_settle_under_a_lost_lease_is_refused<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let mut first = TestWorker::owner(&store).await;
    let id = TestRow::new().insert(&fixture).await;
    let settle = [first.reject(&fetch_one(&store, id).await)];
    expire_leases(&fixture).await;
    let second = TestWorker::owner(&store).await;
    assert!(reschedule(&store, first.id, &settle).await.is_empty());
    assert!(reschedule(&store, second.id, &settle).await.is_empty());
    expire_leases(&fixture).await;
    first.take_all(&store).await;
    let stale = reschedule(&store, first.id, &settle).await;
    assert!(stale.is_empty(), "the owner is the same, its epoch is not");
    assert_eq!(find(&store, id).await.status, Status::Pending);
    let fresh = FailureRecord { epoch: first.epochs[&settle[0].shard.number], ..settle[0].clone() };
    assert_eq!(reschedule(&store, first.id, &[fresh]).await, [id]);
}
