//! Events that are deleted at their settle.

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::Fixture;
use super::builders::*;
use super::handlers::{accept, announce, owed_ids};
use crate::event::Status;
use crate::store::{
    Acceptance, Action, AuditNote, Care, HandledDelivery, RetentionCursor, RetentionCutoff, RetentionRun, Settled,
    SettledEvent, Store,
};

/// Acceptances after which the rows are deleted.
fn deleting(sent: &[(Uuid, i64)]) -> Vec<Acceptance> {
    accepted(sent).into_iter().map(|event| Acceptance { deletes: true, ..event }).collect()
}

async fn delete(store: &Arc<dyn Store>, sent: &[(Uuid, i64)], care: Care) -> Vec<Settled> {
    outcomes(store.settle_published(&deleting(sent), care).await.unwrap())
}

async fn sent(store: &Arc<dyn Store>, ids: &[Uuid]) -> Vec<(Uuid, i64)> {
    let mut sent = Vec::new();
    for &id in ids {
        sent.push((id, find(store, id).await.seq));
    }
    sent
}

async fn is_there(store: &Arc<dyn Store>, id: Uuid) -> bool {
    store.find(id).await.unwrap().is_some()
}

pub(super) async fn a_done_event_is_deleted_and_counts_as_recorded_again<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let (done, other) = (TestRow::new().insert(&fixture).await, TestRow::new().insert(&fixture).await);
    let settled = sent(&store, &[done]).await;
    assert_eq!(delete(&store, &settled, Care::Usual).await, [Settled::Recorded]);
    assert!(!is_there(&store, done).await && is_there(&store, other).await);
    for care in [Care::Usual, Care::AfterDoubt] {
        assert_eq!(delete(&store, &settled, care).await, [Settled::Superseded], "{care:?}");
    }
    assert!(store.find_unsettled("", &settled).await.unwrap().is_empty());
    assert_eq!(ids(&fetch_all(&store).await), [other]);
    assert!(delete(&store, &[], Care::Usual).await.is_empty());
}

pub(super) async fn deleting_wins_over_any_other_status_but_failed_after_acceptance<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    for care in [Care::Usual, Care::AfterDoubt] {
        for status in ["pending", "retry", "processing", "failed"] {
            let id = TestRow::new().with("status", format!("'{status}'")).insert(&fixture).await;
            assert_eq!(delete(&store, &sent(&store, &[id]).await, care).await, [Settled::Recorded]);
            assert!(!is_there(&store, id).await, "{status} {care:?}");
        }
        let now = fixture.time(0);
        let accepted = |status: &str| TestRow::new().with("status", status).with("published_at", &now);
        let (published, failed) =
            (accepted("'published'").insert(&fixture).await, accepted("'failed'").insert(&fixture).await);
        let settled = sent(&store, &[published, failed]).await;
        assert_eq!(delete(&store, &settled, care).await, [Settled::Recorded, Settled::Recorded]);
        assert!(!is_there(&store, published).await && is_there(&store, failed).await, "{care:?}");
    }
}

pub(super) async fn a_replayed_event_is_not_deleted_by_its_earlier_seq<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let id = TestRow::new().insert(&fixture).await;
    let settled = sent(&store, &[id]).await;
    record(&store, &settled).await;
    store.change(&Action::Replay, &[id], &AuditNote::default()).await.unwrap();
    for care in [Care::Usual, Care::AfterDoubt] {
        assert_eq!(delete(&store, &settled, care).await, [Settled::Superseded]);
    }
    assert_eq!(find(&store, id).await.status, Status::Pending);
}

pub(super) async fn an_event_that_may_not_be_deleted_is_published<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let mut ids = Vec::new();
    for _ in 0..50 {
        ids.push(TestRow::new().insert(&fixture).await);
    }
    fixture.refuse_deletion(ids[7]).await;
    let settled = sent(&store, &ids).await;
    let all = vec![Settled::Recorded; ids.len()];
    assert_eq!(delete(&store, &settled, Care::Usual).await, all);
    for &id in &ids {
        assert_eq!(is_there(&store, id).await, id == ids[7]);
    }
    assert_eq!(find(&store, ids[7]).await.status, Status::Published);
    // Alone, and after a doubt.
    let id = TestRow::new().insert(&fixture).await;
    fixture.refuse_deletion(id).await;
    for care in [Care::Usual, Care::AfterDoubt] {
        assert_eq!(delete(&store, &sent(&store, &[id]).await, care).await, [Settled::Recorded], "{care:?}");
        assert_eq!(find(&store, id).await.status, Status::Published);
    }
}

pub(super) async fn a_last_answer_for_a_row_that_may_not_be_deleted_publishes_it<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    announce(&store, &[("audit", "*")]).await;
    let mut answers = Vec::new();
    for n in 0..3 {
        let id = TestRow::new().insert(&fixture).await;
        accept(&store, id, &[], &[]).await;
        let seq = find(&store, id).await.seq;
        answers.push(HandledDelivery { deletes: true, ..HandledDelivery::kept("audit", id, seq) });
        if n < 2 {
            fixture.refuse_deletion(id).await;
        }
    }
    let alone = answers.split_off(1);
    for answers in [answers, alone] {
        let recorded = vec![Settled::Recorded; answers.len()];
        assert_eq!(store.settle_handled(&answers, Care::Usual).await.unwrap(), recorded);
        assert_eq!(find(&store, answers[0].id).await.status, Status::Published);
    }
}

/// The database refuses the commit, whatever else is in the transaction.
pub(super) async fn a_deferred_foreign_key_stops_no_settle<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let old = fixture.time(-3_600_000);
    let id_type = if fixture.writers_overlap() { "uuid" } else { "BLOB" };
    let refers =
        format!("CREATE TABLE refers (event {id_type} REFERENCES outbox_events (id) DEFERRABLE INITIALLY DEFERRED)");
    fixture.execute(&refers).await;
    let mut ids = Vec::new();
    for n in 0..10 {
        let id = TestRow::new().with("created_at", &old).insert(&fixture).await;
        if n % 3 == 0 {
            fixture.execute(&format!("INSERT INTO refers VALUES ({})", fixture.id(id))).await;
        }
        ids.push(id);
    }
    let settled = sent(&store, &ids).await;
    assert_eq!(delete(&store, &settled, Care::Usual).await, vec![Settled::Recorded; 10]);
    for &id in &ids {
        let event = store.find(id).await.unwrap();
        assert!(event.is_none_or(|event| event.status == Status::Published));
    }
    fixture.execute(&format!("UPDATE outbox_events SET published_at = {old}")).await;
    let expiry = RetentionCutoff { published: Some(Duration::from_secs(60)), failed: None, limit: 100 };
    store.delete_expired(expiry, &[], RetentionCursor::default()).await.unwrap();
    assert_eq!(fixture.number("SELECT count(*) FROM outbox_events").await, 4);
}

pub(super) async fn a_row_that_others_refer_to_and_hold_is_published<F: Fixture>() {
    let fixture = F::fresh().await;
    if !fixture.writers_overlap() {
        return;
    }
    let store = fixture.store();
    let (held, other) = (TestRow::new().insert(&fixture).await, TestRow::new().insert(&fixture).await);
    let row = fixture.id(held);
    let refers = format!(
        "CREATE TABLE refers (event {}, note text, FOREIGN KEY (event) REFERENCES outbox_events (id) ON DELETE CASCADE)",
        fixture.id_type().await
    );
    fixture.execute(&refers).await;
    fixture.execute(&format!("INSERT INTO refers VALUES ({row}, '')")).await;
    let settled = sent(&store, &[held, other]).await;
    let mut transaction = fixture.begin().await;
    transaction.execute("UPDATE refers SET note = 'held'").await;
    assert_eq!(delete(&store, &settled, Care::Usual).await, [Settled::Recorded, Settled::Recorded]);
    transaction.rollback().await;
    assert_eq!(find(&store, held).await.status, Status::Published);
}

pub(super) async fn where_no_row_may_be_deleted_all_are_published<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let mut ids = Vec::new();
    for _ in 0..20 {
        let id = TestRow::new().insert(&fixture).await;
        fixture.refuse_deletion(id).await;
        ids.push(id);
    }
    for half in ids.chunks(10) {
        let settled = sent(&store, half).await;
        assert_eq!(delete(&store, &settled, Care::Usual).await, vec![Settled::Recorded; 10]);
    }
    for id in ids {
        assert_eq!(find(&store, id).await.status, Status::Published);
    }
}

pub(super) async fn retention_deletes_what_it_may_next_to_what_it_may_not<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let old = fixture.time(-3_600_000);
    let mut ids = Vec::new();
    for _ in 0..20 {
        let row = TestRow::new().with("status", "'published'").with("created_at", &old).with("published_at", &old);
        ids.push(row.insert(&fixture).await);
    }
    fixture.refuse_deletion(ids[3]).await;
    let expiry = RetentionCutoff { published: Some(Duration::from_secs(60)), failed: None, limit: 100 };
    assert_eq!(delete_old(&store, expiry, &[]).await, 19);
    for &id in &ids {
        assert_eq!(is_there(&store, id).await, id == ids[3]);
    }
}

pub(super) async fn retention_goes_on_behind_rows_that_it_may_not_delete<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let mut kept = Vec::new();
    for (n, may_be_deleted) in (0..).zip([false, false, false, false, true, false, true, true]) {
        for (status, age) in [("published", 3_600 - n), ("failed", 7_200 - n)] {
            let at = fixture.time(-1_000 * age);
            let row = TestRow::new().with("status", format!("'{status}'")).with("created_at", &at);
            let id = row.with("published_at", &at).with("updated_at", &at).insert(&fixture).await;
            if !may_be_deleted {
                fixture.refuse_deletion(id).await;
                kept.push(id);
            }
        }
    }
    let of_one_moment = "UPDATE outbox_events SET created_at = (SELECT first FROM (SELECT min(created_at) AS first FROM outbox_events) AS all_rows)";
    fixture.execute(&format!("{of_one_moment} WHERE status = 'failed'")).await;
    let expiry =
        RetentionCutoff { published: Some(Duration::from_secs(60)), failed: Some(Duration::from_secs(60)), limit: 2 };
    for run in 1..=2 {
        let (mut batches, mut deleted) = (RetentionRun::default(), 0);
        while let Some(batch) = batches.delete_batch(&*store, expiry, &[]).await.unwrap() {
            deleted += batch;
        }
        assert_eq!(deleted, if run == 1 { 6 } else { 1 }, "run {run}");
        for &id in &kept {
            assert!(is_there(&store, id).await);
        }
        // What may be deleted by now is found, wherever it is.
        fixture.execute(&format!("DROP TABLE refers_{}", kept.remove(0).simple())).await;
    }
    assert_eq!(fixture.number("SELECT count(*) FROM outbox_events").await, 9);
}

pub(super) async fn one_run_of_retention_deletes_all_that_may_be_deleted_among_many_that_may_not<F: Fixture>() {
    const ALL: u64 = 300;
    let fixture = F::fresh().await;
    let at = fixture.time(-3_600_000);
    let mut kept = 0;
    // Many in front, where a search for the others would end, and more behind.
    for n in 0..ALL {
        let row = TestRow::new().status("published").with("created_at", &at).with("updated_at", &at);
        let id = row.with("published_at", &at).insert(&fixture).await;
        if n < 40 || n % 10 == 0 {
            fixture.refuse_deletion(id).await;
            kept += 1;
        }
    }
    let earlier = fixture.time(-3_700_000);
    fixture.execute(&format!("UPDATE outbox_events SET created_at = {earlier} WHERE seq <= 40")).await;
    let expiry = RetentionCutoff { published: Some(Duration::from_secs(60)), failed: None, limit: 100 };
    let (store, mut run, mut deleted) = (fixture.store(), RetentionRun::default(), 0);
    while let Some(batch) = run.delete_batch(&*store, expiry, &[]).await.unwrap() {
        deleted += batch as u64;
    }
    assert_eq!((deleted, kept), (ALL - kept, 66));
}

pub(super) async fn a_row_that_another_transaction_holds_is_deleted_later<F: Fixture>() {
    let fixture = F::fresh().await;
    if !fixture.writers_overlap() {
        return;
    }
    let store = fixture.store();
    let (held, other) = (TestRow::new().insert(&fixture).await, TestRow::new().insert(&fixture).await);
    let settled = sent(&store, &[held, other]).await;
    let mut transaction = fixture.begin().await;
    let row = fixture.id(held);
    transaction.execute(&format!("UPDATE outbox_events SET subject = 'held' WHERE id = {row}")).await;
    assert_eq!(delete(&store, &settled, Care::Usual).await, [Settled::Locked, Settled::Recorded]);
    transaction.commit().await;
    assert!(is_there(&store, held).await && !is_there(&store, other).await);
    assert_eq!(delete(&store, &settled[..1], Care::AfterDoubt).await, [Settled::Recorded]);
    assert!(!is_there(&store, held).await);
}

pub(super) async fn the_last_answer_deletes<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    announce(&store, &[("audit", "*"), ("mail", "*")]).await;
    let id = TestRow::new().insert(&fixture).await;
    let settled = sent(&store, &[id]).await;
    let owed = SettledEvent { outcome: Settled::Recorded, owed: vec!["audit".to_owned(), "mail".to_owned()] };
    assert_eq!(store.settle_published(&deleting(&settled), Care::Usual).await.unwrap(), [owed]);
    assert_eq!(find(&store, id).await.status, Status::Processing);
    let answer = |handler: &str| HandledDelivery { deletes: true, ..HandledDelivery::kept(handler, id, settled[0].1) };
    let answers = [answer("audit")];
    assert_eq!(store.settle_handled(&answers, Care::Usual).await.unwrap(), [Settled::Recorded]);
    assert_eq!(owed_ids(&store, "mail").await, [id], "still owed");
    let answers = [answer("mail"), answer("audit")];
    assert_eq!(store.settle_handled(&answers[..1], Care::AfterDoubt).await.unwrap(), [Settled::Recorded]);
    assert!(!is_there(&store, id).await);
    assert_eq!(store.settle_handled(&answers, Care::Usual).await.unwrap(), [Settled::Superseded, Settled::Superseded]);
}

pub(super) async fn last_answers_that_meet_leave_no_row<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    announce(&store, &[("audit", "*"), ("mail", "*"), ("stock", "*")]).await;
    let mut ids = Vec::new();
    for _ in 0..30 {
        let id = TestRow::new().insert(&fixture).await;
        accept(&store, id, &[], &[]).await;
        ids.push(id);
    }
    let settled = sent(&store, &ids).await;
    let answer = async |handler: &str| {
        for &(id, seq) in &settled {
            let answer = [HandledDelivery { deletes: true, ..HandledDelivery::kept(handler, id, seq) }];
            while store.settle_handled(&answer, Care::Usual).await.unwrap() == [Settled::Locked] {}
        }
    };
    tokio::join!(answer("audit"), answer("mail"), answer("stock"));
    for id in ids {
        assert!(!is_there(&store, id).await);
    }
    assert_eq!(fixture.number("SELECT count(*) FROM outbox_handler_deliveries").await, 0);
}

pub(super) async fn deliverers_of_both_kinds_end_one_event<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    announce(&store, &[("audit", "*"), ("mail", "*")]).await;
    let id = TestRow::new().insert(&fixture).await;
    let (id, seq) = sent(&store, &[id]).await[0];
    accept(&store, id, &[], &[]).await;
    let answers = [
        HandledDelivery { deletes: true, ..HandledDelivery::kept("audit", id, seq) },
        HandledDelivery::kept("mail", id, seq),
    ];
    for answer in answers {
        assert_eq!(store.settle_handled(&[answer], Care::Usual).await.unwrap(), [Settled::Recorded]);
    }
    assert_eq!(find(&store, id).await.status, Status::Published, "the last answer keeps it");
    assert_eq!(delete(&store, &[(id, seq)], Care::Usual).await, [Settled::Recorded]);
    assert!(!is_there(&store, id).await, "a late settle of one that deletes ends it");
}

pub(super) async fn after_the_deletion_the_same_id_is_a_new_event<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let event = || crate::publish::NewEvent::new("t", "s").id(Uuid::from_u128(7));
    let first = store.insert(vec![event()]).await.unwrap().remove(0);
    assert_eq!(delete(&store, &[(first.id, first.seq)], Care::Usual).await, [Settled::Recorded]);
    let second = store.insert(vec![event()]).await.unwrap().remove(0);
    assert!(second.seq > first.seq);
    assert_eq!(delete(&store, &[(first.id, first.seq)], Care::AfterDoubt).await, [Settled::Superseded]);
    assert!(is_there(&store, second.id).await, "a repeated settle of the first does not delete it");
}

pub(super) async fn operators_are_told_that_a_deleted_event_is_gone<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let id = TestRow::new().insert(&fixture).await;
    delete(&store, &sent(&store, &[id]).await, Care::Usual).await;
    for action in [Action::Retry, Action::Replay] {
        assert!(store.change(&action, &[id], &AuditNote::default()).await.unwrap().is_empty(), "{action:?}");
    }
}
