//! Workers that deliver a number of events and end: `outbox worker --limit` and `Outbox::process_pending`.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use actix_outbox::{
    BackendError, EventTypes, Outbox, OutboxEvent, OutboxSystem, PublisherBackend, Settings, StoreError, SystemError,
};

use crate::actors::{Log, QUICK_RETRIES, Reply, Scripted, answer, event, handler};
use crate::support::process::Running;
use crate::support::{PATIENCE, eventually};
use crate::test_outbox::TestOutbox;

const ON_DEMAND: &str = "[publishers.mine]\nbackend = \"scripted\"\n[worker]\n";

/// A system that only publishes, with the test's own backend for its calls.
async fn on_demand(test: &TestOutbox, backend: Scripted) -> Outbox {
    let builder = OutboxSystem::builder(test.system_settings(&format!("{ON_DEMAND}{QUICK_RETRIES}")));
    let builder = builder.publish_only(true).backend("scripted", move |_| Ok(backend.clone()));
    builder.start().await.unwrap()
}

async fn send(outbox: &Outbox, count: usize) {
    for n in 0..count {
        outbox.send(event(&n.to_string()).partition_key((n % 3).to_string())).await.unwrap();
    }
}

/// Leases that run, and workers that are there.
async fn workers(test: &TestOutbox) -> (i64, i64) {
    let leases = test.number("SELECT count(*) FROM outbox_running_leases").await;
    (leases, test.number("SELECT count(*) FROM outbox_workers").await)
}

#[tokio::test]
async fn a_worker_with_a_limit_delivers_so_many_and_ends() {
    let test = TestOutbox::new().await;
    test.insert(50, 7).await;
    // Two publishers share the limit.
    let other = "\n[publishers.other]\nbackend = \"jsonl\"\npath = \"other.jsonl\"\n";
    let settings = test.settings().publisher(other).write();
    let sql = test.sql().await;
    sql.batch_execute("UPDATE outbox_events SET publisher_backend = 'other' WHERE seq % 2 = 0").await.unwrap();
    let run = async |limit: &str| {
        let mut worker = Running::spawn(&mut test.outbox(&settings, &["worker", "--limit", limit]));
        assert!(worker.wait_exit(PATIENCE).await.success(), "{}", worker.stderr());
    };
    for (limit, published) in [("1", 1), ("10", 11), ("13", 24), ("1000", 50), ("5", 50)] {
        run(limit).await;
        assert_eq!(test.published().await, published, "--limit {limit}");
        assert_eq!(workers(&test).await, (0, 0));
    }
    sql.batch_execute("DELETE FROM outbox_events WHERE publisher_backend = 'other'").await.unwrap();
    test.assert_delivered().await;
}

#[actix::test]
async fn a_call_delivers_what_is_due_up_to_its_limit_and_returns_how_many() {
    let test = TestOutbox::new().await;
    let (sent, handled) = (Log::default(), Log::default());
    let backend = {
        let sent = sent.clone();
        Scripted::new(move |event| {
            sent.add(&event.subject);
            Reply::Accept
        })
    };
    let outbox = on_demand(&test, backend).await;
    let seen = handled.clone();
    let mailer = handler("mailer", EventTypes::All, move |event| {
        seen.add(&event.subject);
        answer(Ok(()))
    });
    outbox.subscribe(mailer).await.unwrap();
    send(&outbox, 10).await;
    outbox.send(event("later").scheduled_in(Duration::from_secs(3_600))).await.unwrap();
    assert!(sent.lines().is_empty());

    for (limit, delivered, published) in [(0, 0, 0), (3, 3, 3), (100, 7, 10), (5, 0, 10)] {
        assert_eq!(outbox.process_pending(limit).await.unwrap(), delivered, "of {limit}");
        assert_eq!(sent.lines().len(), published);
        assert_eq!(
            test.number("SELECT count(*) FROM outbox_events WHERE status = 'published'").await,
            published as i64
        );
    }
    assert_eq!(handled.lines().len(), 10, "{:?}", handled.lines());
    for key in 0..3 {
        let of_key = |lines: Vec<String>| lines.into_iter().filter(|n| n.parse::<usize>().unwrap() % 3 == key);
        assert!(of_key(sent.lines()).is_sorted() && of_key(handled.lines()).is_sorted());
    }
    outbox.shutdown().await.unwrap();
    assert!(matches!(outbox.process_pending(1).await, Err(SystemError::Stopped)));
}

#[actix::test]
async fn a_rejected_event_counts_like_a_delivered_one() {
    let test = TestOutbox::new().await;
    let rejecting = Scripted::new(|event| match event.subject.as_str() {
        "0" => Reply::Refuse(BackendError::Rejected("no".to_owned())),
        _ => Reply::Accept,
    });
    let outbox = on_demand(&test, rejecting).await;
    for n in 0..3 {
        outbox.send(event(&n.to_string())).await.unwrap();
    }
    assert_eq!(outbox.process_pending(3).await.unwrap(), 3);
    let retries = "SELECT coalesce(sum(retry_count), 0)::bigint FROM outbox_events";
    assert!(test.number(retries).await >= 1);
    // Its retries, until it has failed.
    eventually("it has failed", PATIENCE, async || {
        outbox.process_pending(10).await.unwrap();
        test.number("SELECT count(*) FROM outbox_events WHERE status = 'failed'").await == 1
    })
    .await;
    assert_eq!(test.number(retries).await, 3);
    outbox.shutdown().await.unwrap();
}

#[actix::test]
async fn calls_at_the_same_time_deliver_no_event_twice_and_no_more_than_their_limits() {
    let test = TestOutbox::new().await;
    let sent = Log::default();
    let seen = sent.clone();
    let outbox = on_demand(
        &test,
        Scripted::new(move |event| {
            seen.add(&event.subject);
            Reply::Accept
        }),
    )
    .await;
    send(&outbox, 40).await;
    let calls = [outbox.process_pending(7), outbox.process_pending(8), outbox.process_pending(9)];
    let delivered: usize = futures_util::future::join_all(calls).await.into_iter().map(Result::unwrap).sum();
    assert_eq!((delivered, sent.lines().len()), (24, 24));
    assert_eq!(outbox.process_pending(1_000).await.unwrap(), 16);
    for n in 0..40 {
        assert_eq!(sent.count(&n.to_string()), 1);
    }
    outbox.shutdown().await.unwrap();
}

#[actix::test]
async fn a_call_that_is_dropped_ends_and_leaves_its_events_to_the_next() {
    let test = TestOutbox::new().await;
    let hangs = Log::default();
    let hanging = {
        let hangs = hangs.clone();
        Scripted::new(move |_| match hangs.lines().is_empty() {
            true => {
                hangs.add("hang");
                Reply::Hang
            }
            false => Reply::Accept,
        })
        .timeout(Duration::from_secs(1))
    };
    let outbox = on_demand(&test, hanging).await;
    outbox.send(event("1")).await.unwrap();
    let call = {
        let outbox = outbox.clone();
        actix::spawn(async move { outbox.process_pending(10).await })
    };
    hangs.wait(1).await;
    call.abort();
    assert!(call.await.unwrap_err().is_cancelled());
    eventually("its worker is gone", PATIENCE, async || workers(&test).await == (0, 0)).await;
    let retries = "SELECT max(retry_count)::bigint FROM outbox_events";
    assert_eq!((outbox.process_pending(10).await.unwrap(), test.number(retries).await), (1, 0));
    outbox.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_shutdown_waits_for_what_a_call_has_in_flight() {
    let test = TestOutbox::new().await;
    let (asked, answer) = (Log::default(), Arc::new(AtomicBool::new(false)));
    let backend = Slow { asked: asked.clone(), answer: Arc::clone(&answer) };
    let builder = OutboxSystem::builder(test.system_settings(ON_DEMAND)).publish_only(true);
    let outbox = builder.backend("scripted", move |_| Ok(backend.clone())).start_on_thread().await.unwrap();
    outbox.send(event("1")).await.unwrap();
    let call = {
        let outbox = outbox.clone();
        tokio::spawn(async move { outbox.process_pending(10).await })
    };
    asked.wait(1).await;
    let stopping = {
        let outbox = outbox.clone();
        tokio::spawn(async move { outbox.shutdown().await })
    };
    eventually("it is stopping", PATIENCE, async || outbox.send(event("late")).await.is_err()).await;
    assert!(!stopping.is_finished(), "an event is in flight");
    answer.store(true, Ordering::Release);
    stopping.await.unwrap().unwrap();
    assert!(matches!(call.await.unwrap(), Err(SystemError::Stopped)));
    let first = "SELECT count(*) FROM outbox_events WHERE subject = '1' AND status = 'published'";
    assert_eq!((test.number(first).await, workers(&test).await), (1, (0, 0)));
}

/// Answers when it may.
#[derive(Clone)]
struct Slow {
    asked: Log,
    answer: Arc<AtomicBool>,
}

#[async_trait::async_trait]
impl PublisherBackend for Slow {
    async fn publish(&self, _: &OutboxEvent) -> Result<(), BackendError> {
        self.asked.add("asked");
        while !self.answer.load(Ordering::Acquire) {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok(())
    }

    async fn health_check(&self) -> Result<(), BackendError> {
        Ok(())
    }
}

#[actix::test]
async fn a_call_without_a_workers_rights_says_so() {
    let test = TestOutbox::new().await;
    let role = "CREATE ROLE writer_of_pending LOGIN; GRANT SELECT, INSERT ON outbox_events TO writer_of_pending;
        GRANT USAGE ON SEQUENCE outbox_events_seq TO writer_of_pending;
        GRANT SELECT ON outbox_meta, outbox_migrations TO writer_of_pending";
    test.sql().await.batch_execute(role).await.unwrap();
    let mut url = url::Url::parse(test.url()).unwrap();
    url.set_username("writer_of_pending").unwrap();
    let tables = format!("[database]\nurl = \"{url}\"\n[publishers.default]\nbackend = \"local\"\n");
    let outbox = OutboxSystem::builder(Settings::from_toml(&tables).unwrap()).publish_only(true).start().await.unwrap();
    outbox.send(event("1")).await.unwrap();
    let error = outbox.process_pending(1).await.unwrap_err();
    assert!(matches!(error, SystemError::Store(StoreError::Unsuitable { .. })), "{error:?}");
    outbox.shutdown().await.unwrap();
}

#[actix::test]
async fn a_call_ends_with_its_system() {
    let test = TestOutbox::new().await;
    let hangs = Log::default();
    let seen = hangs.clone();
    let hanging = Scripted::new(move |_| {
        seen.add("hang");
        Reply::Hang
    });
    let outbox = on_demand(&test, hanging.timeout(Duration::from_secs(1))).await;
    outbox.send(event("1")).await.unwrap();
    let call = {
        let outbox = outbox.clone();
        actix::spawn(async move { outbox.process_pending(10).await })
    };
    hangs.wait(1).await;
    outbox.shutdown().await.unwrap();
    assert!(matches!(call.await.unwrap(), Err(SystemError::Stopped)));
    assert_eq!(workers(&test).await, (0, 0));
}
