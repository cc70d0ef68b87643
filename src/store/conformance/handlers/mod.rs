//! Deliveries that are owed to handlers in other processes.

pub(super) mod holding;

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::Fixture;
use super::builders::*;
use crate::event::Status;
use crate::store::{
    Acceptance, Action, Announcement, AuditNote, Care, DeliveryRequest, FailureRecord, FetchRequest, FetchedDelivery,
    HandledDelivery, Heartbeat, LeaseStore, NOT_COVERED, RejectedDelivery, RetentionCutoff, Settled, SettledEvent,
    Shard, Store, UnrecordedEvents, handler_lane,
};

const DAY: Duration = Duration::from_secs(24 * 60 * 60);

pub(super) async fn announce(store: &Arc<dyn Store>, handlers: &[(&str, &str)]) {
    let announcement = |&(name, pattern): &(&str, &str)| Announcement {
        name: name.to_owned(),
        types: vec!["never".to_owned(), pattern.to_owned()],
        owed_for: DAY,
    };
    // A worker's first heartbeat starts the protocol under which events are owed to handlers.
    TestWorker::idle(store).await;
    store.announce(&handlers.iter().map(announcement).collect::<Vec<_>>()).await.unwrap();
}

pub(super) async fn beside_an_older_worker_no_handler_elsewhere_is_owed_anything<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let (id, now) = (fixture.id(Uuid::now_v7()), fixture.time(0));
    let older = format!(
        "INSERT INTO outbox_workers (id, name, version, backends, handlers, started_at, heartbeat_at) \
         VALUES ({id}, 'older', '0.1.0', '{{}}', '[]', {now}, {now})"
    );
    fixture.execute(&older).await;
    announce(&store, &[("mail", "*")]).await;
    let id = TestRow::new().insert(&fixture).await;
    assert_eq!(accept(&store, id, &[], &[]).await, owing(&[]));
    assert_eq!(find(&store, id).await.status, Status::Published);
}

fn names(names: &[&str]) -> Vec<String> {
    names.iter().map(|&name| name.to_owned()).collect()
}

/// Records that the backend has accepted the event and that these handlers were asked.
pub(super) async fn accept(store: &Arc<dyn Store>, id: Uuid, asked: &[&str], left: &[&str]) -> SettledEvent {
    let seq = find(store, id).await.seq;
    let event = Acceptance { id, seq, place: None, asked: names(asked).into(), left: names(left), deletes: false };
    store.settle_published(&[event], Care::Usual).await.unwrap().remove(0)
}

fn owing(owed: &[&str]) -> SettledEvent {
    SettledEvent { outcome: Settled::Recorded, owed: names(owed) }
}

fn request(store: &Arc<dyn Store>, handler: &str) -> DeliveryRequest {
    DeliveryRequest {
        handler: handler.to_owned(),
        shards: (0..store.shards()).collect(),
        except: Vec::new(),
        max_events: 500,
        max_bytes: usize::MAX,
        max_event_bytes: usize::MAX,
    }
}

async fn deliveries(store: &Arc<dyn Store>, handler: &str) -> Vec<FetchedDelivery> {
    store.fetch_deliveries(&request(store, handler)).await.unwrap()
}

pub(super) async fn owed_ids(store: &Arc<dyn Store>, handler: &str) -> Vec<Uuid> {
    deliveries(store, handler).await.iter().map(|delivery| delivery.id).collect()
}

async fn handle(store: &Arc<dyn Store>, handler: &str, id: Uuid) -> Settled {
    let answer = HandledDelivery::kept(handler, id, find(store, id).await.seq);
    store.settle_handled(&[answer], Care::Usual).await.unwrap().remove(0)
}

/// An event of [`lane`] that is owed to these handlers.
async fn owed_event(fixture: &impl Fixture, row: TestRow, owed: &[&str]) -> Uuid {
    let id = row.of_type("user.made").insert(fixture).await;
    assert_eq!(accept(&fixture.store(), id, &[], &[]).await, owing(owed));
    id
}

async fn count(fixture: &impl Fixture, table: &str) -> i64 {
    fixture.number(&format!("SELECT CAST(count(*) AS bigint) FROM {table}")).await
}

/// A worker that has all leases of a handler's lane.
struct Taker {
    id: Uuid,
    handler: &'static str,
    leases: Box<dyn LeaseStore>,
    held: Vec<(Shard, i64)>,
}

impl Taker {
    async fn new(store: &Arc<dyn Store>, handler: &'static str) -> Self {
        let mut taker = Self { id: Uuid::now_v7(), handler, leases: store.leases(), held: Vec::new() };
        taker.take(store).await;
        taker
    }

    async fn take(&mut self, store: &Arc<dyn Store>) {
        let lane = handler_lane(self.handler);
        let beat = Heartbeat { lanes: vec![lane.clone()], held: self.held.clone(), ..heartbeat(self.id) };
        self.leases.beat(&beat).await.unwrap();
        let want = usize::try_from(store.shards()).unwrap();
        self.held = self.leases.acquire(self.id, &lane, want, LEASE).await.unwrap();
        assert_eq!(self.held.len(), want);
    }

    /// A rejection whose retry is due in an hour.
    fn reject(&self, delivery: &FetchedDelivery) -> RejectedDelivery {
        let shard = Shard { lane: handler_lane(self.handler), number: delivery.shard };
        let epoch = self.held.iter().find(|(held, _)| *held == shard).unwrap().1;
        RejectedDelivery {
            handler: self.handler.to_owned(),
            id: delivery.id,
            seq: delivery.seq,
            shard,
            epoch,
            fetched_attempts: delivery.attempts,
            attempts: delivery.attempts + 1,
            delay: Duration::from_secs(3600),
            error: "no such account".to_owned(),
            gives_up: false,
            holds: false,
        }
    }

    async fn settle(&self, store: &Arc<dyn Store>, rejected: RejectedDelivery) -> Settled {
        store.settle_rejected_deliveries(self.id, &[rejected]).await.unwrap().remove(0)
    }
}

pub(super) async fn an_event_of_which_no_handler_elsewhere_is_owed_anything_is_published<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    announce(&store, &[("mail", "order.*"), ("audit", "user.*")]).await;
    let id = TestRow::new().of_type("user.made").insert(&fixture).await;
    assert_eq!(accept(&store, id, &["audit"], &[]).await, owing(&[]));
    let event = find(&store, id).await;
    assert_eq!((event.status, event.pending_handlers), (Status::Published, None));
    assert_eq!(count(&fixture, "outbox_handler_deliveries").await, 0);
}

pub(super) async fn what_is_announced_is_owed_until_it_is_answered<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    announce(&store, &[("audit", "user.*"), ("mail", "*"), ("stock", "user")]).await;
    let id = TestRow::keyed("k").of_type("user.made").insert(&fixture).await;
    assert_eq!(accept(&store, id, &["cache"], &[]).await, owing(&["audit", "mail"]));
    let event = find(&store, id).await;
    assert_eq!((event.status, event.pending_handlers), (Status::Processing, Some(names(&["audit", "mail"]))));
    assert!(event.published_at.is_some());
    for (handler, status) in [("audit", Status::Processing), ("mail", Status::Published)] {
        let found = deliveries(&store, handler).await;
        assert_eq!((found.len(), found[0].id, found[0].attempts, &*found[0].lane), (1, id, 0, "orders"));
        assert_eq!(found[0].event.as_ref().unwrap().event_type, "user.made");
        assert_eq!(handle(&store, handler, id).await, Settled::Recorded);
        assert!(deliveries(&store, handler).await.is_empty());
        assert_eq!(find(&store, id).await.status, status);
    }
    assert_eq!(find(&store, id).await.pending_handlers, None);
}

pub(super) async fn what_only_handlers_elsewhere_are_owed_is_in_nobodys_way<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    announce(&store, &[("audit", "*")]).await;
    owed_event(&fixture, TestRow::keyed("k").at(-90_000), &["audit"]).await;
    assert!(fetch_all(&store).await.is_empty());
    assert!(!store.has_due(&[lane()], &[lane()], &UnrecordedEvents::default()).await.unwrap());
    assert!(store.due().await.unwrap().is_empty());
    let later = TestRow::keyed("k").insert(&fixture).await;
    let question = ask_before(&store, "k", later).await;
    assert!(store.blockers(&lane(), true, &[question]).await.unwrap().is_empty());
    assert_eq!(ids(&fetch_all(&store).await), [later]);
}

pub(super) async fn what_an_event_owes_is_fixed_by_the_first_record_of_its_acceptance<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    let before = owed_event(&fixture, TestRow::new(), &[]).await;
    announce(&store, &[("audit", "*")]).await;
    let id = owed_event(&fixture, TestRow::new(), &["audit"]).await;
    announce(&store, &[("mail", "*")]).await;
    for care in [Care::Usual, Care::AfterDoubt] {
        let events = accepted(&[(before, find(&store, before).await.seq), (id, find(&store, id).await.seq)]);
        assert_eq!(store.settle_published(&events, care).await.unwrap(), [owing(&[]), owing(&[])], "{care:?}");
    }
    assert_eq!(find(&store, before).await.status, Status::Published);
    assert_eq!(find(&store, id).await.pending_handlers, Some(names(&["audit"])));
}

pub(super) async fn a_late_settle_adds_no_name_that_has_answered<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    announce(&store, &[("audit", "*")]).await;
    let id = TestRow::new().insert(&fixture).await;
    assert_eq!(accept(&store, id, &[], &["mail"]).await, owing(&["audit", "mail"]));
    handle(&store, "mail", id).await;
    assert_eq!(accept(&store, id, &[], &["mail"]).await, owing(&[]));
    assert_eq!(find(&store, id).await.pending_handlers, Some(names(&["audit"])));
    handle(&store, "audit", id).await;
    assert_eq!(accept(&store, id, &[], &["mail"]).await, owing(&[]));
    assert_eq!(find(&store, id).await.status, Status::Published);
}

pub(super) async fn what_a_process_leaves_to_others_is_owed_announced_or_not<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    announce(&store, &[("audit", "other")]).await;
    let met_again =
        TestRow::new().retry_in(&fixture, -1000).with("published_at", fixture.time(-5000)).insert(&fixture).await;
    let new = TestRow::new().insert(&fixture).await;
    for id in [new, met_again] {
        assert_eq!(accept(&store, id, &["cache"], &["audit", "mail"]).await, owing(&["audit", "mail"]));
        assert_eq!(find(&store, id).await.status, Status::Processing);
    }
    assert_eq!(owed_ids(&store, "audit").await.len(), 2);
    announce(&store, &[("mail", "*")]).await;
    assert_eq!(owed_ids(&store, "mail").await.len(), 2, "owed before it was announced");
}

pub(super) async fn an_announcement_that_ran_out_owes_nothing_new_and_keeps_what_was_owed<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    announce(&store, &[("audit", "*")]).await;
    let owed = owed_event(&fixture, TestRow::new(), &["audit"]).await;
    let long_ago = fixture.time(-25 * 60 * 60 * 1000);
    fixture.execute(&format!("UPDATE outbox_handlers SET seen_at = {long_ago}")).await;
    owed_event(&fixture, TestRow::new(), &[]).await;
    let shown = store.owed().await.unwrap();
    assert!(shown[0].expired && shown[0].owed == 1 && shown[0].seen_for.unwrap() > DAY, "{shown:?}");
    store.see_handlers(&names(&["audit"])).await.unwrap();
    owed_event(&fixture, TestRow::new(), &["audit"]).await;
    assert!(owed_ids(&store, "audit").await.contains(&owed));
}

pub(super) async fn of_handlers_that_answer_together_the_last_one_publishes<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    announce(&store, &[("audit", "*"), ("mail", "*"), ("stock", "*")]).await;
    let mut sent = Vec::new();
    for _ in 0..30 {
        let id = owed_event(&fixture, TestRow::new(), &["audit", "mail", "stock"]).await;
        sent.push((id, find(&store, id).await.seq));
    }
    let answer = async |handler: &str| {
        let handled: Vec<_> = sent.iter().map(|&(id, seq)| HandledDelivery::kept(handler, id, seq)).collect();
        for one in handled.chunks(1) {
            while store.settle_handled(one, Care::Usual).await.unwrap() != [Settled::Recorded] {}
        }
    };
    tokio::join!(answer("audit"), answer("mail"), answer("stock"));
    for (id, _) in sent {
        let event = find(&store, id).await;
        assert_eq!((event.status, event.pending_handlers), (Status::Published, None));
    }
}

pub(super) async fn an_answer_is_a_fact_and_may_come_twice<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    announce(&store, &[("audit", "*")]).await;
    let id = owed_event(&fixture, TestRow::new(), &["audit"]).await;
    let seq = find(&store, id).await.seq;
    let handled =
        [("audit", seq), ("audit", seq + 1), ("mail", seq)].map(|(name, seq)| HandledDelivery::kept(name, id, seq));
    let expected = [Settled::Recorded, Settled::Superseded, Settled::Recorded];
    for care in [Care::Usual, Care::AfterDoubt, Care::Usual] {
        assert_eq!(store.settle_handled(&handled, care).await.unwrap(), expected, "{care:?}");
    }
    assert_eq!(find(&store, id).await.status, Status::Published);
    assert!(store.settle_handled(&[], Care::Usual).await.unwrap().is_empty());
}

pub(super) async fn an_answer_whose_row_is_held_or_refused_is_named_and_holds_no_other<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    announce(&store, &[("audit", "*")]).await;
    let (one, other) = (
        owed_event(&fixture, TestRow::new(), &["audit"]).await,
        owed_event(&fixture, TestRow::new(), &["audit"]).await,
    );
    let mut handled = Vec::new();
    for id in [one, other] {
        handled.push(HandledDelivery::kept("audit", id, find(&store, id).await.seq));
    }
    if fixture.writers_overlap() {
        let mut transaction = fixture.begin().await;
        let row = fixture.id(one);
        transaction.execute(&format!("UPDATE outbox_events SET subject = 'held' WHERE id = {row}")).await;
        let outcomes = store.settle_handled(&handled, Care::Usual).await.unwrap();
        assert_eq!(outcomes, [Settled::Locked, Settled::Recorded]);
        assert_eq!(owed_ids(&store, "audit").await, [one]);
        transaction.commit().await;
    }
    fixture.refuse_updates(one).await;
    let outcomes = store.settle_handled(&handled, Care::Usual).await.unwrap();
    assert!(matches!(&outcomes[0], Settled::Refused(reason) if reason.contains("not this one")), "{outcomes:?}");
    assert_eq!(outcomes[1], Settled::Recorded);
    assert_eq!(owed_ids(&store, "audit").await, [one], "what is not recorded is not half recorded");
}

pub(super) async fn a_rejected_delivery_is_tried_again_and_counts_once<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    announce(&store, &[("audit", "*"), ("mail", "*")]).await;
    let id = owed_event(&fixture, TestRow::new(), &["audit", "mail"]).await;
    let taker = Taker::new(&store, "audit").await;
    let delivery = deliveries(&store, "audit").await.remove(0);
    assert_eq!(delivery.max_attempts, find(&store, id).await.max_retries);
    let rejected = taker.reject(&delivery);
    for _ in 0..2 {
        assert_eq!(taker.settle(&store, rejected.clone()).await, Settled::Recorded);
    }
    assert!(deliveries(&store, "audit").await.is_empty());
    assert!(!store.has_due_deliveries(&names(&["audit"])).await.unwrap());
    assert_eq!(find(&store, id).await.retry_count, 0, "counted for the handler alone");
    assert_eq!(deliveries(&store, "mail").await[0].attempts, 0);
    assert_eq!(store.change(&Action::Retry, &[id], &AuditNote::default()).await.unwrap(), [id]);
    assert_eq!(deliveries(&store, "audit").await[0].attempts, 0, "an operator has it tried again now");
    assert_eq!(find(&store, id).await.status, Status::Processing);
}

/// The status of its handler counts it.
pub(super) async fn a_delivery_of_an_uncovered_type_is_deferred_and_spends_no_attempt<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    announce(&store, &[("audit", "*")]).await;
    let id = owed_event(&fixture, TestRow::new(), &["audit"]).await;
    owed_event(&fixture, TestRow::new(), &["audit"]).await;
    let taker = Taker::new(&store, "audit").await;
    let delivery = deliveries(&store, "audit").await.into_iter().find(|delivery| delivery.id == id).unwrap();
    let put_off = RejectedDelivery { attempts: 0, error: NOT_COVERED.to_owned(), ..taker.reject(&delivery) };
    for _ in 0..2 {
        assert_eq!(taker.settle(&store, put_off.clone()).await, Settled::Recorded);
    }
    assert_eq!(deliveries(&store, "audit").await.len(), 1, "the other one");
    let shown = store.owed().await.unwrap();
    assert_eq!((shown[0].owed, shown[0].not_covered), (2, 1));
    assert_eq!(store.change(&Action::Retry, &[id], &AuditNote::default()).await.unwrap(), [id]);
    assert_eq!(deliveries(&store, "audit").await.iter().map(|delivery| delivery.attempts).collect::<Vec<_>>(), [0, 0]);
}

pub(super) async fn a_rejection_under_a_lost_lease_or_of_another_attempt_is_refused<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    announce(&store, &[("audit", "*")]).await;
    owed_event(&fixture, TestRow::new(), &["audit"]).await;
    let mut taker = Taker::new(&store, "audit").await;
    let delivery = deliveries(&store, "audit").await.remove(0);
    let rejected = taker.reject(&delivery);
    expire_leases(&fixture).await;
    let other = Taker::new(&store, "audit").await;
    assert_eq!(taker.settle(&store, rejected.clone()).await, Settled::Superseded);
    assert_eq!(other.settle(&store, rejected.clone()).await, Settled::Superseded, "its epoch is another");
    expire_leases(&fixture).await;
    taker.take(&store).await;
    assert_eq!(taker.settle(&store, rejected).await, Settled::Superseded);
    let another_attempt = RejectedDelivery { fetched_attempts: 1, attempts: 2, ..taker.reject(&delivery) };
    assert_eq!(taker.settle(&store, another_attempt).await, Settled::Superseded);
    assert_eq!(deliveries(&store, "audit").await[0].attempts, 0);
}

pub(super) async fn a_handler_that_gives_up_fails_the_event_and_ends_no_other_delivery<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    announce(&store, &[("audit", "*"), ("mail", "*"), ("stock", "*")]).await;
    let id = owed_event(&fixture, TestRow::new(), &["audit", "mail", "stock"]).await;
    for handler in ["mail", "audit"] {
        let taker = Taker::new(&store, handler).await;
        let delivery = deliveries(&store, handler).await.remove(0);
        let rejected = RejectedDelivery { gives_up: true, ..taker.reject(&delivery) };
        for _ in 0..2 {
            assert_eq!(taker.settle(&store, rejected.clone()).await, Settled::Recorded);
        }
    }
    let failed = find(&store, id).await;
    assert_eq!((failed.status, &*failed.last_error), (Status::Failed, "handler `audit`: no such account"));
    assert_eq!(failed.pending_handlers, Some(names(&["audit", "mail"])), "these have failed");
    let errors: Vec<serde_json::Value> = failed.errors.unwrap().parse().unwrap();
    assert_eq!((errors.len(), &errors[0]["error"]), (2, &"handler `mail`: no such account".into()));
    let question = TestRow::keyed("k").insert(&fixture).await;
    assert!(!store.has_due(&[], &[], &UnrecordedEvents::default()).await.unwrap() && question != id);
    // The late handler is still asked, and its answer changes nothing for the others.
    assert_eq!(owed_ids(&store, "stock").await, [id]);
    assert_eq!(handle(&store, "stock", id).await, Settled::Recorded);
    let event = find(&store, id).await;
    assert_eq!((event.status, event.pending_handlers), (Status::Failed, Some(names(&["audit", "mail"]))));
    // A late repetition of the settle that created the deliveries.
    assert_eq!(accept(&store, id, &[], &[]).await, owing(&[]));
    assert_eq!(find(&store, id).await.status, Status::Failed);
    // An operator's retry asks exactly these handlers again.
    assert_eq!(store.change(&Action::Retry, &[id], &AuditNote::default()).await.unwrap(), [id]);
    let retried = find(&store, id).await;
    assert_eq!((retried.status, retried.pending_handlers), (Status::Pending, Some(names(&["audit", "mail"]))));
    assert!(retried.published_at.is_some());
    assert_eq!(accept(&store, id, &["mail"], &["audit"]).await, owing(&["audit"]));
    assert_eq!(find(&store, id).await.pending_handlers, Some(names(&["audit"])));
    assert_eq!(deliveries(&store, "audit").await[0].attempts, 0);
}

pub(super) async fn an_event_failed_by_a_handler_does_not_hold_its_key<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    announce(&store, &[("audit", "*")]).await;
    owed_event(&fixture, TestRow::keyed("k").at(-90_000), &["audit"]).await;
    let taker = Taker::new(&store, "audit").await;
    let delivery = deliveries(&store, "audit").await.remove(0);
    taker.settle(&store, RejectedDelivery { gives_up: true, ..taker.reject(&delivery) }).await;
    let later = TestRow::keyed("k").insert(&fixture).await;
    let question = ask_before(&store, "k", later).await;
    assert!(store.blockers(&lane(), true, &[question]).await.unwrap().is_empty());
}

pub(super) async fn a_remote_handler_that_gives_up_does_not_end_retries_of_local_handlers<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    announce(&store, &[("audit", "*"), ("cache", "*")]).await;
    let worker = TestWorker::owner(&store).await;
    let id = TestRow::new().insert(&fixture).await;
    let local = FailureRecord {
        published: true,
        pending_handlers: Some(names(&["cache"])),
        asked: names(&["cache"]).into(),
        ..worker.reject(&fetch_one(&store, id).await)
    };
    let settled = store.settle_rescheduled(worker.id, std::slice::from_ref(&local)).await.unwrap();
    assert_eq!(settled, [owing(&["audit"])]);
    assert_eq!(store.settle_rescheduled(worker.id, &[local]).await.unwrap(), [owing(&[])], "fixed by the first");
    let taker = Taker::new(&store, "audit").await;
    let delivery = deliveries(&store, "audit").await.remove(0);
    let rejected = RejectedDelivery { gives_up: true, delay: Duration::ZERO, ..taker.reject(&delivery) };
    assert_eq!(taker.settle(&store, rejected).await, Settled::Recorded);
    let event = find(&store, id).await;
    assert_eq!((event.status, event.pending_handlers), (Status::Retry, Some(names(&["cache"]))));
    // The local handler answers; the other's delivery stays.
    assert_eq!(accept(&store, id, &["cache"], &[]).await, owing(&[]));
    assert_eq!(find(&store, id).await.pending_handlers, Some(names(&["audit"])));
    let delivery = deliveries(&store, "audit").await.remove(0);
    let rejected = RejectedDelivery { gives_up: true, ..taker.reject(&delivery) };
    assert_eq!(taker.settle(&store, rejected).await, Settled::Recorded);
    assert_eq!(find(&store, id).await.status, Status::Failed);
}

pub(super) async fn a_local_handlers_failure_does_not_end_what_others_are_owed<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    announce(&store, &[("audit", "*"), ("cache", "*")]).await;
    let worker = TestWorker::owner(&store).await;
    let rejected = TestRow::new().insert(&fixture).await;
    let unsent = TestRow::new().insert(&fixture).await;
    let settle = |row: &_, published| FailureRecord {
        status: Status::Failed,
        published,
        pending_handlers: published.then(|| names(&["cache"])),
        asked: names(&["cache"]).into(),
        left: names(&["mail"]),
        ..worker.reject(row)
    };
    let settles = [settle(&fetch_one(&store, rejected).await, true), settle(&fetch_one(&store, unsent).await, false)];
    let settled = store.settle_rescheduled(worker.id, &settles).await.unwrap();
    assert_eq!(
        settled,
        [owing(&["audit", "mail"]), owing(&[])],
        "what the backend does not have is owed to no handler"
    );
    assert_eq!(owed_ids(&store, "audit").await, [rejected]);
    assert_eq!(handle(&store, "audit", rejected).await, Settled::Recorded);
    let event = find(&store, rejected).await;
    assert_eq!((event.status, event.pending_handlers), (Status::Failed, Some(names(&["cache"]))));
}

pub(super) async fn a_settle_from_before_a_release_drops_no_pending_handler<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    announce(&store, &[("audit", "*"), ("bill", "*")]).await;
    let worker = TestWorker::owner(&store).await;
    for (asked, owed) in [(&[][..], &["audit"][..]), (&["audit"], &[])] {
        let id = TestRow::new().insert(&fixture).await;
        let fetched = fetch_one(&store, id).await;
        // The owner of the lease releases the event before its own handler was called.
        let released = FailureRecord {
            status: Status::Pending,
            retry_count: fetched.retry_count,
            error: None,
            published: true,
            pending_handlers: Some(names(&["audit"])),
            asked: names(&["audit"]).into(),
            left: names(&["bill"]),
            ..worker.reject(&fetched)
        };
        assert_eq!(store.settle_rescheduled(worker.id, &[released]).await.unwrap(), [owing(&["bill"])]);
        // The next owner found the event in the journal before that was recorded, and knows of no pending handler.
        assert_eq!(accept(&store, id, asked, &[]).await, owing(owed), "{asked:?} was called");
        assert_eq!(handle(&store, "bill", id).await, Settled::Recorded);
        for handler in owed {
            assert_eq!(find(&store, id).await.pending_handlers, Some(names(owed)));
            assert_eq!(handle(&store, handler, id).await, Settled::Recorded);
        }
        assert_eq!(find(&store, id).await.status, Status::Published);
    }
}

pub(super) async fn deliveries_of_a_key_come_in_its_order<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    announce(&store, &[("audit", "*"), ("mail", "*")]).await;
    let both = ["audit", "mail"];
    let first = owed_event(&fixture, TestRow::keyed("k").at(-3000), &both).await;
    let second = owed_event(&fixture, TestRow::keyed("k").at(-2000), &both).await;
    let other = owed_event(&fixture, TestRow::keyed("other").at(-1000), &both).await;
    assert_eq!(owed_ids(&store, "audit").await, [first, second, other]);
    let one = DeliveryRequest { max_events: 1, ..request(&store, "audit") };
    assert_eq!(store.fetch_deliveries(&one).await.unwrap()[0].id, first);
    // While it is in flight, later events of its key wait.
    let seq = find(&store, first).await.seq;
    let flying = DeliveryRequest { except: vec![(first, seq)], ..request(&store, "audit") };
    let ids: Vec<_> = store.fetch_deliveries(&flying).await.unwrap().iter().map(|delivery| delivery.id).collect();
    assert_eq!(ids, [other]);
    // After a rejection they wait too, for this handler only.
    let taker = Taker::new(&store, "audit").await;
    let delivery = deliveries(&store, "audit").await.remove(0);
    taker.settle(&store, taker.reject(&delivery)).await;
    assert_eq!(owed_ids(&store, "audit").await, [other]);
    assert_eq!(owed_ids(&store, "mail").await, [first, second, other]);
    handle(&store, "audit", first).await;
    assert_eq!(owed_ids(&store, "audit").await, [second, other]);
}

pub(super) async fn an_unsettled_event_holds_back_later_deliveries_of_its_key<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    announce(&store, &[("audit", "*")]).await;
    let pending = TestRow::keyed("k").at(-3000).of_type("user.made").insert(&fixture).await;
    let later = owed_event(&fixture, TestRow::keyed("k").at(-2000), &["audit"]).await;
    owed_event(&fixture, TestRow::keyed("k").lane("other").at(-2000), &["audit"]).await;
    let found = deliveries(&store, "audit").await;
    assert_eq!(found.iter().map(|delivery| &*delivery.lane).collect::<Vec<_>>(), ["other"]);
    assert_eq!(accept(&store, pending, &[], &[]).await, owing(&["audit"]));
    assert_eq!(owed_ids(&store, "audit").await[..2], [pending, later]);
}

pub(super) async fn deliveries_that_wait_for_one_of_their_key_hide_no_other<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    announce(&store, &[("audit", "*")]).await;
    let first = owed_event(&fixture, TestRow::keyed("k").at(-90_000), &["audit"]).await;
    let taker = Taker::new(&store, "audit").await;
    let delivery = deliveries(&store, "audit").await.remove(0);
    taker.settle(&store, taker.reject(&delivery)).await;
    let mut sent = Vec::new();
    let mut insert = String::new();
    for n in 0..1500 {
        let row = TestRow::keyed("k").at(-80_000 + n);
        sent.push(row.id);
        insert += &(row.insert_sql(&fixture) + ";");
    }
    fixture.execute(&insert).await;
    let (mut events, mut except) = (Vec::new(), Vec::new());
    while events.len() < sent.len() {
        let request = FetchRequest { except: except.clone(), ..everything(&store) };
        for row in store.fetch(&request).await.unwrap().rows {
            events.push((row.id, row.position.seq));
            except.push(row.excepted());
        }
    }
    store.settle_published(&accepted(&events), Care::Usual).await.unwrap();
    // In the shard of the key, after all of these.
    let other = owed_event(&fixture, TestRow::keyed("k").lane("other"), &["audit"]).await;
    let mut few = DeliveryRequest { max_events: 10, ..request(&store, "audit") };
    few.shards = vec![delivery.shard];
    let mut fetches = 0;
    let found = loop {
        fetches += 1;
        assert!(fetches < 50, "they are read again and again");
        let found = store.fetch_deliveries(&few).await.unwrap();
        if !found.is_empty() {
            break found;
        }
    };
    assert_eq!((found.len(), found[0].id), (1, other));
    handle(&store, "audit", other).await;
    handle(&store, "audit", first).await;
    // Deliveries that were postponed are due at the time of the one that they wait for.
    let due = "UPDATE outbox_handler_deliveries SET next_at = (SELECT first FROM (SELECT min(created_at) AS first FROM outbox_handler_deliveries) AS all_rows)";
    fixture.execute(&format!("{due} WHERE next_at > {}", fixture.time(0))).await;
    let order: Vec<_> = deliveries(&store, "audit").await.iter().map(|delivery| delivery.id).collect();
    assert_eq!(order[..5], sent[..5]);
}

pub(super) async fn reading_deliveries_stops_at_its_budgets<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    announce(&store, &[("audit", "*")]).await;
    let data = |bytes: usize| format!("'\"{}\"'", "x".repeat(bytes));
    let mut sent = Vec::new();
    for (at, bytes) in [(-5000, 1000), (-4000, 1000), (-3000, 9000), (-2000, 10)] {
        sent.push(owed_event(&fixture, TestRow::keyed("k").at(at).with("data", data(bytes)), &["audit"]).await);
    }
    let fetched = async |max_events, max_bytes, max_event_bytes| {
        let request = DeliveryRequest { max_events, max_bytes, max_event_bytes, ..request(&store, "audit") };
        store.fetch_deliveries(&request).await.unwrap()
    };
    let ids = |found: &[FetchedDelivery]| found.iter().map(|delivery| delivery.id).collect::<Vec<_>>();
    assert_eq!(ids(&fetched(3, usize::MAX, usize::MAX).await), sent[..3]);
    assert_eq!(ids(&fetched(9, 1, usize::MAX).await), sent[..1]);
    assert_eq!(ids(&fetched(9, 2500, usize::MAX).await), sent[..2]);
    let found = fetched(9, usize::MAX, 5000).await;
    assert_eq!(ids(&found), sent);
    assert!(found[2].event.as_ref().unwrap_err().contains("max_event_bytes"), "{:?}", found[2].event);
    assert!(found[3].event.is_ok());
}

pub(super) async fn a_dropped_handler_is_owed_nothing_and_inherits_nothing<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    announce(&store, &[("audit", "*"), ("mail", "*")]).await;
    let id = owed_event(&fixture, TestRow::keyed("k"), &["audit", "mail"]).await;
    let both = owed_event(&fixture, TestRow::new(), &["audit", "mail"]).await;
    handle(&store, "mail", id).await;
    assert_eq!(store.drop_handler("audit").await.unwrap(), 2);
    assert_eq!(find(&store, id).await.status, Status::Published);
    assert_eq!(find(&store, both).await.pending_handlers, Some(names(&["mail"])));
    assert_eq!(store.drop_handler("audit").await.unwrap(), 0);
    owed_event(&fixture, TestRow::new(), &["mail"]).await;
    // A settle that read the announcement before it was dropped writes its delivery after that.
    announce(&store, &[("audit", "*")]).await;
    let late = owed_event(&fixture, TestRow::keyed("late"), &["audit", "mail"]).await;
    handle(&store, "mail", late).await;
    fixture.execute("UPDATE outbox_handler_deliveries SET generation = 1 WHERE handler = 'audit'").await;
    assert!(deliveries(&store, "audit").await.is_empty());
    assert!(store.owed_before(&lane(), &names(&["late"])).await.unwrap().is_empty());
    assert!(!store.has_due_deliveries(&names(&["audit"])).await.unwrap());
    let after = owed_event(&fixture, TestRow::keyed("late"), &["audit", "mail"]).await;
    assert_eq!(owed_ids(&store, "audit").await, [after], "it does not wait for what was dropped");
    assert_eq!(store.finish_settled().await.unwrap(), 1);
    assert_eq!(find(&store, late).await.status, Status::Published);
    assert_eq!(owed_ids(&store, "audit").await, [after]);
}

pub(super) async fn announcing_again_keeps_what_is_owed<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    announce(&store, &[("audit", "*")]).await;
    let id = owed_event(&fixture, TestRow::new(), &["audit"]).await;
    announce(&store, &[("audit", "order.*")]).await;
    assert_eq!(owed_ids(&store, "audit").await, [id]);
    owed_event(&fixture, TestRow::new(), &[]).await;
    let shown = store.owed().await.unwrap();
    assert_eq!((shown.len(), &*shown[0].name, shown[0].types.clone()), (1, "audit", names(&["never", "order.*"])));
}

pub(super) async fn a_delivery_whose_event_is_gone_is_dropped_when_it_is_met<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    announce(&store, &[("audit", "*"), ("mail", "*")]).await;
    let gone = owed_event(&fixture, TestRow::keyed("k"), &["audit", "mail"]).await;
    let left = owed_event(&fixture, TestRow::keyed("k"), &["audit", "mail"]).await;
    fixture.execute(&format!("DELETE FROM outbox_events WHERE id = {}", fixture.id(gone))).await;
    assert_eq!(owed_ids(&store, "audit").await, [left]);
    assert_eq!(count(&fixture, "outbox_handler_deliveries").await, 3);
    assert_eq!(store.finish_settled().await.unwrap(), 1, "the other handler may never come");
    assert_eq!(count(&fixture, "outbox_handler_deliveries").await, 2);
}

pub(super) async fn the_janitor_publishes_what_owes_nothing_any_more<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    announce(&store, &[("audit", "*")]).await;
    let over = owed_event(&fixture, TestRow::new(), &["audit"]).await;
    fixture.execute("DELETE FROM outbox_handler_deliveries").await;
    let owed = owed_event(&fixture, TestRow::new(), &["audit"]).await;
    let unsent = TestRow::new().status("processing").insert(&fixture).await;
    assert_eq!(store.finish_settled().await.unwrap(), 1);
    let statuses =
        [find(&store, over).await.status, find(&store, owed).await.status, find(&store, unsent).await.status];
    assert_eq!(statuses, [Status::Published, Status::Processing, Status::Processing]);
    assert_eq!(store.finish_settled().await.unwrap(), 0);
}

pub(super) async fn retention_keeps_what_is_owed<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    announce(&store, &[("audit", "*"), ("mail", "*")]).await;
    let owed = owed_event(&fixture, TestRow::new(), &["audit", "mail"]).await;
    let failed = owed_event(&fixture, TestRow::new(), &["audit", "mail"]).await;
    let taker = Taker::new(&store, "mail").await;
    let delivery = deliveries(&store, "mail").await.remove(1);
    taker.settle(&store, RejectedDelivery { gives_up: true, ..taker.reject(&delivery) }).await;
    let old = fixture.time(-3_600_000);
    fixture
        .execute(&format!("UPDATE outbox_events SET created_at = {old}, updated_at = {old}, published_at = {old}"))
        .await;
    let expiry = RetentionCutoff { published: Some(Duration::ZERO), failed: Some(Duration::ZERO), limit: 10 };
    assert_eq!(delete_old(&store, expiry, &[]).await, 0);
    handle(&store, "audit", failed).await;
    assert_eq!(delete_old(&store, expiry, &[]).await, 1);
    assert_eq!(find(&store, owed).await.status, Status::Processing);
}

pub(super) async fn an_operator_who_fails_or_replays_an_event_ends_its_deliveries<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    announce(&store, &[("audit", "*")]).await;
    let id = owed_event(&fixture, TestRow::new(), &["audit"]).await;
    let fail = Action::Fail { reason: "not needed".to_owned() };
    assert_eq!(store.change(&fail, &[id], &AuditNote::default()).await.unwrap(), [id]);
    assert_eq!(count(&fixture, "outbox_handler_deliveries").await, 0);
    let event = find(&store, id).await;
    assert_eq!((event.status, event.pending_handlers), (Status::Failed, Some(names(&["audit"]))));
    assert_eq!(handle(&store, "audit", id).await, Settled::Recorded);
    assert_eq!(find(&store, id).await.status, Status::Failed);
    // After a retry, the handler that had not answered is asked.
    store.change(&Action::Retry, &[id], &AuditNote::default()).await.unwrap();
    assert_eq!(accept(&store, id, &[], &["audit"]).await, owing(&["audit"]));
    handle(&store, "audit", id).await;
    // After a replay, it is a new event.
    let seq = find(&store, id).await.seq;
    assert_eq!(store.change(&Action::Replay, &[id], &AuditNote::default()).await.unwrap(), [id]);
    let late = [HandledDelivery::kept("audit", id, seq)];
    assert_eq!(accept(&store, id, &[], &[]).await, owing(&["audit"]));
    assert_eq!(store.settle_handled(&late, Care::Usual).await.unwrap(), [Settled::Superseded]);
    assert_eq!(owed_ids(&store, "audit").await, [id]);
}

pub(super) async fn a_sent_event_that_an_operator_failed_is_owed_to_all_once_it_is_retried<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    announce(&store, &[("audit", "user.*"), ("mail", "order.*")]).await;
    let id = TestRow::new().of_type("user.made").status("failed").insert(&fixture).await;
    store.mark_failed_as_sent(&[(id, find(&store, id).await.seq)]).await.unwrap();
    store.change(&Action::Retry, &[id], &AuditNote::default()).await.unwrap();
    assert_eq!(find(&store, id).await.pending_handlers, Some(names(&["audit"])));
}

pub(super) async fn who_is_owed_a_key_and_how_much_is_known<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    assert!(store.owed().await.unwrap().is_empty());
    announce(&store, &[("audit", "*"), ("mail", "*"), ("idle", "none")]).await;
    let one = owed_event(&fixture, TestRow::keyed("one"), &["audit", "mail"]).await;
    owed_event(&fixture, TestRow::keyed("two"), &["audit", "mail"]).await;
    handle(&store, "mail", one).await;
    let owed = store.owed_before(&lane(), &names(&["one", "two", "three"])).await.unwrap();
    assert_eq!((owed.len(), &owed["one"], &owed["two"]), (2, &names(&["audit"]), &names(&["audit", "mail"])));
    assert!(store.owed_before("other", &names(&["one"])).await.unwrap().is_empty());
    let shown = store.owed().await.unwrap();
    let counts: Vec<_> = shown.iter().map(|handler| (&*handler.name, handler.owed)).collect();
    assert_eq!(counts, [("audit", 2), ("idle", 0), ("mail", 1)]);
    assert!(shown.iter().all(|handler| handler.owed_for == DAY && !handler.expired && !handler.more_owed));
    assert!(shown[0].oldest.is_some() && shown[1].oldest.is_none());
    assert!(store.has_due_deliveries(&names(&["idle", "audit"])).await.unwrap());
    assert!(!store.has_due_deliveries(&names(&["idle"])).await.unwrap());
}
