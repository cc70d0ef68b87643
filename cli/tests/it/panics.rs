//! Custom backends that panic, or block their thread.

use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex};
use std::time::{Duration, Instant};

use actix_outbox::{BackendError, Outbox, OutboxEvent, OutboxSystem, PublisherBackend};
use async_trait::async_trait;

use crate::actors::{Log, QUICK_RETRIES, Reply, Scripted, event, row, wait_status};
use crate::support::{PATIENCE, eventually};
use crate::test_outbox::TestOutbox;

/// A system with a publisher named `mine` and the default one.
async fn start<B: PublisherBackend + Clone>(test: &TestOutbox, backend: B) -> Outbox {
    let tables = format!(
        "[publishers.default]\n{}[publishers.mine]\nbackend = \"fragile\"\n[worker]\n{QUICK_RETRIES}",
        test.stream()
    );
    let builder = OutboxSystem::builder(test.system_settings(&tables));
    builder.backend("fragile", move |_| Ok(backend.clone())).start().await.unwrap()
}

async fn health_says(outbox: &Outbox, why: &str) {
    eventually(&format!("its health says {why:?}"), PATIENCE, async || {
        let health = outbox.health().await.unwrap();
        health.backends["default"].is_ok() && matches!(&health.backends["mine"], Err(reason) if reason.contains(why))
    })
    .await;
}

/// Panics in `publish_batch`, or in its health check, while it is set to.
#[derive(Clone, Default)]
struct Fragile {
    batch_panics: Arc<AtomicBool>,
    check_panics: Arc<AtomicBool>,
    batches: Arc<AtomicUsize>,
    checks: Arc<AtomicUsize>,
}

#[async_trait]
impl PublisherBackend for Fragile {
    async fn publish(&self, _: &OutboxEvent) -> Result<(), BackendError> {
        Ok(())
    }

    async fn publish_batch(&self, events: &[Arc<OutboxEvent>]) -> Vec<Option<Result<(), BackendError>>> {
        self.batches.fetch_add(1, Ordering::SeqCst);
        assert!(!self.batch_panics.load(Ordering::SeqCst), "the batch form is broken");
        vec![Some(Ok(())); events.len()]
    }

    async fn health_check(&self) -> Result<(), BackendError> {
        self.checks.fetch_add(1, Ordering::SeqCst);
        assert!(!self.check_panics.load(Ordering::SeqCst), "the check is broken");
        Ok(())
    }
}

/// The minimum time in which the breaker allows this many attempts: each pause lasts at least half of its longest time.
fn least_time_of(tries: u32) -> Duration {
    (0..tries - 1).map(|failures| Duration::from_millis(25 << failures.min(4))).sum()
}

#[actix::test]
async fn an_event_that_panics_a_backend_is_rejected_and_the_others_go_on() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let backend = {
        let log = log.clone();
        Scripted::new(move |event: &OutboxEvent| {
            log.add(&event.subject);
            assert_ne!(event.subject, "bad", "no number in it");
            Reply::Accept
        })
    };
    let outbox = start(&test, backend).await;
    for subject in ["good 1", "bad", "good 2"] {
        outbox.send(event(subject).backend("mine").partition_key(subject).max_retries(2)).await.unwrap();
    }
    let sql = test.sql().await;
    let row = wait_status(&sql, "bad", "failed").await;
    assert_eq!((row.retry_count, row.errors), (2, 2));
    assert!(row.last_error.contains("panicked") && row.last_error.contains("no number in it"), "{}", row.last_error);
    for subject in ["good 1", "good 2"] {
        assert_eq!(wait_status(&sql, subject, "published").await.retry_count, 0);
    }
    assert_eq!(log.count("bad"), 2);
    assert!(outbox.health().await.unwrap().is_ok(), "one rejected event is not an outage");
}

#[actix::test]
async fn a_publish_batch_that_panics_is_an_outage_that_costs_no_retries() {
    const TRIES: u32 = 6;
    let (test, backend) = (TestOutbox::new().await, Fragile::default());
    backend.batch_panics.store(true, Ordering::SeqCst);
    let outbox = start(&test, backend.clone()).await;
    let began = Instant::now();
    outbox.send(event("1").backend("mine")).await.unwrap();
    health_says(&outbox, "panicked: the batch form is broken").await;
    let tried = || backend.batches.load(Ordering::SeqCst) >= TRIES as usize;
    eventually("several attempts were made", PATIENCE, async || tried()).await;
    assert!(began.elapsed() >= least_time_of(TRIES), "{TRIES} attempts within {:?}", began.elapsed());
    outbox.send(event("2")).await.unwrap();
    test.wait_length(1).await;

    backend.batch_panics.store(false, Ordering::SeqCst);
    test.wait_published().await;
    let row = row(&test.sql().await, "1").await;
    assert_eq!((row.retry_count, row.errors), (0, 0));
    assert!(outbox.health().await.unwrap().is_ok());
}

#[actix::test]
async fn a_health_check_that_panics_closes_its_lanes_until_it_stops_panicking() {
    const TRIES: u32 = 6;
    let (test, backend) = (TestOutbox::new().await, Fragile::default());
    backend.check_panics.store(true, Ordering::SeqCst);
    let began = Instant::now();
    let outbox = start(&test, backend.clone()).await;
    health_says(&outbox, "panicked: the check is broken").await;
    let tried = || backend.checks.load(Ordering::SeqCst) >= TRIES as usize;
    eventually("several checks were made", PATIENCE, async || tried()).await;
    assert!(began.elapsed() >= least_time_of(TRIES), "{TRIES} checks within {:?}", began.elapsed());

    backend.check_panics.store(false, Ordering::SeqCst);
    outbox.send(event("1").backend("mine")).await.unwrap();
    test.wait_published().await;
    assert!(outbox.health().await.unwrap().is_ok());
}

/// A gate that blocks callers until it is opened.
#[derive(Default)]
struct Gate(Mutex<bool>, Condvar);

impl Gate {
    fn wait(&self) {
        drop(self.1.wait_while(self.0.lock().unwrap(), |open| !*open).unwrap());
    }

    fn open(&self) {
        *self.0.lock().unwrap() = true;
        self.1.notify_all();
    }
}

#[actix::test]
async fn a_backend_that_blocks_its_thread_is_an_outage_until_it_unblocks() {
    let (test, log, gate) = (TestOutbox::new().await, Log::default(), Arc::new(Gate::default()));
    let backend = {
        let (log, gate) = (log.clone(), Arc::clone(&gate));
        Scripted::new(move |event: &OutboxEvent| {
            log.add(&event.subject);
            gate.wait();
            Reply::Accept
        })
    };
    let outbox = start(&test, backend.timeout(Duration::from_millis(50))).await;
    outbox.send(event("stuck").backend("mine")).await.unwrap();
    log.wait(1).await;
    health_says(&outbox, "blocks its thread").await;
    outbox.send(event("other")).await.unwrap();
    test.wait_length(1).await;
    assert_eq!(log.lines(), ["stuck"], "no other call begins meanwhile");

    gate.open();
    test.wait_published().await;
    assert_eq!(row(&test.sql().await, "stuck").await.retry_count, 0);
}

#[actix::test]
async fn a_factory_that_panics_is_an_error_of_the_settings() {
    let test = TestOutbox::new().await;
    let settings = test.system_settings("[publishers.mine]\nbackend = \"fragile\"");
    let builder = OutboxSystem::builder(settings);
    let started = builder.backend("fragile", |_| -> Result<Fragile, String> { panic!("no driver") }).start().await;
    let error = started.expect_err("it cannot start").to_string();
    assert!(error.contains("publishers.mine") && error.contains("no driver"), "{error}");
}
