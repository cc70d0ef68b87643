//! Events that are deleted once they are done.

use actix_outbox::{NewEvent, OutboxSystem};
use uuid::Uuid;

use crate::actors::{Log, QUICK_RETRIES, answer, handler};
use crate::support::process::Running;
use crate::support::{PATIENCE, eventually};
use crate::test_outbox::TestOutbox;

const DELETES: &str = "lease = \"1s\"\n[retention]\npublished_retention_days = 0";

const ROWS: &str = "SELECT count(*) FROM outbox_events";
const DELIVERIES: &str = "SELECT count(*) FROM outbox_handler_deliveries";

#[tokio::test]
async fn kills_of_workers_lose_and_repeat_no_event_and_the_table_ends_empty() {
    let test = TestOutbox::new().await;
    test.keep_list().await;
    let settings = test.settings().worker(DELETES).publisher("rate_limit = { per_second = 3000 }").write();
    for round in 1..=6 {
        test.insert(1_000, 50).await;
        let mut worker = test.worker(&settings, "worker");
        test.wait_length(round * 800).await;
        worker.kill();
    }
    test.drain(&settings).await;
    test.assert_delivered().await;
    assert_eq!(test.number(ROWS).await, 0);
    assert_eq!(test.length().await, 6_000);
}

#[tokio::test]
async fn the_history_counts_deleted_events_and_other_publishers_keep_theirs() {
    let test = TestOutbox::new().await;
    let kept = format!("[publishers.kept]\n{}", test.stream());
    let settings = test.settings().publisher(format!("published_retention_days = 0\n{kept}")).write();
    test.insert(30, 3).await;
    let other = "UPDATE outbox_events SET publisher_backend = 'kept' WHERE partition_key = 'key-0'";
    test.sql().await.execute(other, &[]).await.unwrap();
    test.drain(&settings).await;
    assert_eq!((test.published().await, test.number(ROWS).await), (10, 10));
    let counted = "SELECT sum(published)::bigint FROM outbox_history WHERE span = 60";
    assert_eq!(test.number(counted).await, 30);
}

#[tokio::test]
async fn an_event_that_is_gone_is_said_to_be_gone() {
    let test = TestOutbox::new().await;
    let settings = test.settings().worker(DELETES).write();
    test.insert(1, 1).await;
    let id: Uuid = test.sql().await.query_one("SELECT id FROM outbox_events", &[]).await.unwrap().get(0);
    test.drain(&settings).await;
    let said = format!("no event has the id {id}; one that was done may have been deleted");
    for arguments in [&["events", "explain"][..], &["events", "show"], &["events", "retry"], &["events", "replay"]] {
        let id = id.to_string();
        let mut program = Running::spawn(&mut test.outbox(&settings, &[arguments, &[id.as_str()]].concat()));
        assert!(!program.wait_exit(PATIENCE).await.success(), "{arguments:?}");
        assert!(program.stderr().contains(&said), "{arguments:?}: {}", program.stderr());
    }
}

#[actix::test]
async fn an_event_is_deleted_when_all_its_handlers_in_all_services_have_answered() {
    let test = TestOutbox::new().await;
    test.keep_list().await;
    let tables = format!("[publishers.default]\n{}[worker]\n{QUICK_RETRIES}{DELETES}\n", test.stream());
    let (here, there) = (Log::default(), Log::default());
    let recorder = |name: &'static str, log: &Log| {
        let log = log.clone();
        handler(name, "thing.happened", move |event| {
            log.add(event.id.to_string());
            answer(Ok(()))
        })
    };
    let service = OutboxSystem::builder(test.system_settings(&tables)).subscribe(recorder("here", &here));
    let service = service.start().await.unwrap();
    let other = OutboxSystem::builder(test.system_settings(&tables)).publish_only(true);
    let other = other.subscribe(recorder("there", &there)).start().await.unwrap();
    for n in 0..200 {
        let event = NewEvent::new("thing.happened", "tests").partition_key(format!("key-{}", n % 5));
        service.send(event).await.unwrap();
    }
    eventually("the table is empty", PATIENCE, async || {
        test.number(ROWS).await == 0 && test.number(DELIVERIES).await == 0
    })
    .await;
    for log in [here, there] {
        assert_eq!(log.lines().len(), 200);
    }
    test.assert_delivered().await;
    service.shutdown().await.unwrap();
    other.shutdown().await.unwrap();
}
