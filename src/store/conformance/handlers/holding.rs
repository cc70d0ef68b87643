//! `on_failed = "hold"`: an event that a handler failed holds back the later deliveries of its key to that handler only.

use super::*;

/// Events of a key, in order, of which the handler has failed the first permanently.
async fn held(fixture: &impl Fixture, taker: &Taker, owed: &[&str]) -> ([Uuid; 2], i16) {
    let store = fixture.store();
    let first = owed_event(fixture, TestRow::keyed("k").at(-90_000), owed).await;
    let second = owed_event(fixture, TestRow::keyed("k").at(-80_000), owed).await;
    let delivery = deliveries(&store, taker.handler).await.into_iter().find(|delivery| delivery.id == first).unwrap();
    let rejected = RejectedDelivery { gives_up: true, holds: true, ..taker.reject(&delivery) };
    for _ in 0..2 {
        assert_eq!(taker.settle(&store, rejected.clone()).await, Settled::Recorded);
    }
    let event = find(&store, first).await;
    assert_eq!((event.status, event.pending_handlers), (Status::Failed, Some(names(&[taker.handler]))));
    ([first, second], delivery.shard)
}

pub(in crate::store::conformance) async fn a_handler_that_gives_up_holds_its_own_deliveries_of_the_key_alone<
    F: Fixture,
>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    announce(&store, &[("audit", "*"), ("mail", "*")]).await;
    let taker = Taker::new(&store, "audit").await;
    let ([first, second], _) = held(&fixture, &taker, &["audit", "mail"]).await;
    let other = owed_event(&fixture, TestRow::keyed("other"), &["audit", "mail"]).await;
    assert_eq!(owed_ids(&store, "audit").await, [other]);
    assert_eq!(owed_ids(&store, "mail").await, [first, second, other]);
    let later = TestRow::keyed("k").insert(&fixture).await;
    let question = ask_before(&store, "k", later).await;
    assert!(store.blockers(&lane(), true, &[question]).await.unwrap().is_empty(), "the backend has it");
    let owed = store.owed_before(&lane(), &names(&["k"])).await.unwrap();
    assert_eq!(owed["k"], names(&["audit", "mail"]), "a worker with the handler leaves it what comes later");
    assert_eq!(handle(&store, "mail", first).await, Settled::Recorded);
    assert_eq!(find(&store, first).await.status, Status::Failed);
}

pub(in crate::store::conformance) async fn what_a_failure_holds_goes_on_once_the_event_was_tried_again<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    announce(&store, &[("audit", "*"), ("mail", "*")]).await;
    let taker = Taker::new(&store, "audit").await;
    let ([first, second], _) = held(&fixture, &taker, &["audit", "mail"]).await;
    let mail = Taker::new(&store, "mail").await;
    let delivery = deliveries(&store, "mail").await.remove(0);
    mail.settle(&store, RejectedDelivery { gives_up: true, holds: true, ..mail.reject(&delivery) }).await;
    assert_eq!(store.change(&Action::Retry, &[first], &AuditNote::default()).await.unwrap(), [first]);
    assert!(owed_ids(&store, "audit").await.is_empty(), "it has not been delivered yet");
    // The delivering process has one of the two handlers.
    assert_eq!(accept(&store, first, &["mail"], &["audit"]).await, owing(&["audit"]));
    assert_eq!(owed_ids(&store, "mail").await, [second]);
    assert_eq!(owed_ids(&store, "audit").await, [first, second]);
    assert_eq!(deliveries(&store, "audit").await[0].attempts, 0);
    assert_eq!(handle(&store, "audit", first).await, Settled::Recorded);
    assert_eq!(find(&store, first).await.status, Status::Published);
}

pub(in crate::store::conformance) async fn an_operator_who_gives_a_failed_event_up_frees_what_it_holds<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    announce(&store, &[("audit", "*")]).await;
    let taker = Taker::new(&store, "audit").await;
    let ([first, second], _) = held(&fixture, &taker, &["audit"]).await;
    let old = fixture.time(-3_600_000);
    let age = format!("UPDATE outbox_events SET created_at = {old}, updated_at = {old}, published_at = {old}");
    fixture.execute(&age).await;
    let expiry = RetentionCutoff { published: Some(Duration::ZERO), failed: Some(Duration::ZERO), limit: 10 };
    assert_eq!(delete_old(&store, expiry, &[]).await, 0, "retention keeps what holds its key");
    let fail = Action::Fail { reason: "given up".to_owned() };
    assert_eq!(store.change(&fail, &[first], &AuditNote::default()).await.unwrap(), [first]);
    assert_eq!(owed_ids(&store, "audit").await, [second]);
}

pub(in crate::store::conformance) async fn a_failure_of_a_handler_of_the_delivering_process_holds_likewise<
    F: Fixture,
>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    announce(&store, &[("audit", "*"), ("cache", "*")]).await;
    let worker = TestWorker::owner(&store).await;
    let first = TestRow::keyed("k").at(-90_000).insert(&fixture).await;
    let failed = FailureRecord {
        status: Status::Failed,
        published: true,
        pending_handlers: Some(names(&["cache"])),
        asked: names(&["cache"]).into(),
        holds_for_handlers: true,
        ..worker.reject(&fetch_one(&store, first).await)
    };
    let settled = store.settle_rescheduled(worker.id, std::slice::from_ref(&failed)).await.unwrap();
    assert_eq!(settled, [owing(&["audit", "cache"])]);
    assert_eq!(store.settle_rescheduled(worker.id, &[failed]).await.unwrap(), [owing(&[])]);
    let second = TestRow::keyed("k").at(-80_000).insert(&fixture).await;
    let question = ask_before(&store, "k", second).await;
    assert!(store.blockers(&lane(), true, &[question]).await.unwrap().is_empty());
    assert_eq!(accept(&store, second, &[], &["cache"]).await, owing(&["audit", "cache"]));
    assert_eq!(owed_ids(&store, "audit").await, [first, second]);
    assert!(owed_ids(&store, "cache").await.is_empty());
    assert_eq!(store.change(&Action::Retry, &[first], &AuditNote::default()).await.unwrap(), [first]);
    assert_eq!(accept(&store, first, &["cache"], &[]).await, owing(&[]));
    assert_eq!(owed_ids(&store, "cache").await, [second]);
}

pub(in crate::store::conformance) async fn what_waits_behind_a_failure_hides_no_other_delivery<F: Fixture>() {
    let fixture = F::fresh().await;
    let store = fixture.store();
    announce(&store, &[("audit", "*")]).await;
    let taker = Taker::new(&store, "audit").await;
    let (_, shard) = held(&fixture, &taker, &["audit"]).await;
    // More deliveries than one read returns.
    let copies = "INSERT INTO outbox_handler_deliveries (event_id, seq, handler, generation, lane, shard, partition_key, \
            scheduled_at, max_attempts, next_at, created_at) \
        SELECT d.event_id, d.seq + n.n, d.handler, d.generation, d.lane, d.shard, d.partition_key, d.scheduled_at, \
            d.max_attempts, d.created_at, d.created_at \
        FROM outbox_handler_deliveries d CROSS JOIN (WITH RECURSIVE n (n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n \
            WHERE n < 1500) SELECT n FROM n) n WHERE d.next_at <= d.created_at";
    fixture.execute(copies).await;
    let of_another = "INSERT INTO outbox_handler_deliveries (event_id, seq, handler, generation, lane, shard, partition_key, \
            scheduled_at, max_attempts, next_at, created_at) \
        SELECT event_id, seq, 'mail', generation, lane, shard, partition_key, scheduled_at, max_attempts, created_at, created_at \
        FROM outbox_handler_deliveries WHERE next_at <= created_at";
    fixture.execute(of_another).await;
    let other = owed_event(&fixture, TestRow::keyed("k").lane("other"), &["audit"]).await;
    let few = DeliveryRequest { max_events: 10, shards: vec![shard], ..request(&store, "audit") };
    let mut fetches = 0;
    loop {
        fetches += 1;
        assert!(fetches < 50, "they are read again and again");
        let found = store.fetch_deliveries(&few).await.unwrap();
        if let [delivery] = &found[..] {
            assert_eq!(delivery.id, other);
            break;
        }
        assert!(found.is_empty());
    }
    let put_off = "SELECT count(*) FROM outbox_handler_deliveries WHERE handler = 'mail' AND next_at > created_at";
    assert_eq!(fixture.number(put_off).await, 0, "those of another handler do not wait for this one");
}
