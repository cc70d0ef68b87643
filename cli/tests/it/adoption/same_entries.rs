//! Consumers and the Django application see the same before and after an adoption.

use serde_json::{Value, json};

use super::{Adoption, fresh_schema, schema};
use crate::support::{eventually, redis};
use crate::test_outbox::DRAIN;

fn names(value: &Value) -> Vec<&str> {
    value.as_array().unwrap().iter().map(|name| name.as_str().unwrap()).collect()
}

/// Settings of a worker that publishes to the same stream as the application's own worker.
pub(super) fn settings(adoption: &Adoption) -> std::path::PathBuf {
    let stream = adoption.test.stream_name();
    let audit = format!("[publishers.audit]\n{}", adoption.test.stream().replace(stream, &format!("{stream}-audit")));
    adoption.test.settings().publisher(&audit).write()
}

#[tokio::test]
async fn an_adopted_table_drains_into_the_entries_that_its_own_worker_writes() {
    let adoption = Adoption::new().await;
    let django = &adoption.django;
    assert_eq!(names(&django.call("publish", &["0", "200"])).len(), 200);
    let undelivered = django.call("publish_later_and_never", &[]);
    let [later, never] = names(&undelivered)[..] else { panic!() };

    // The application's worker publishes the same rows from a copy.
    let copy = adoption.test.database().copy().await;
    let own_worker = super::Django { database: copy.url.clone(), redis: redis::url(), stream: redis::stream() };
    own_worker.call("work", &[]);

    adoption.adopt();
    let sql = adoption.test.sql().await;
    assert_eq!(schema(&sql).await, fresh_schema().await);
    let settings = settings(&adoption);
    adoption.test.drain(&settings).await;

    for suffix in ["", "-audit"] {
        let theirs = format!("{}{suffix}", own_worker.stream);
        let ours = format!("{}{suffix}", adoption.test.stream_name());
        let compared = django.call("compare", &[&theirs, &ours]);
        assert_eq!(compared["differences"], json!([]), "{suffix}");
        assert!(compared["entries"].as_u64().unwrap() >= 50, "{compared}");
    }
    let (theirs, ours) = (own_worker.call("statuses", &[]), django.call("statuses", &[]));
    assert_eq!((&theirs[later], &ours[later]), (&json!("pending"), &json!("pending")));
    // The application's worker retries an event that its client always rejects.
    assert_eq!((&theirs[never], &ours[never]), (&json!("retry"), &json!("failed")));
    let published = |statuses: &Value| statuses.as_object().unwrap().values().filter(|s| **s == "published").count();
    assert_eq!((published(&theirs), published(&ours)), (200, 200));
}

#[tokio::test]
async fn the_application_goes_on_writing_reading_and_retrying() {
    let adoption = Adoption::new().await;
    let django = &adoption.django;
    django.call("publish", &["0", "5"]);
    django.call("work", &[]);
    adoption.adopt();
    let settings = settings(&adoption);
    let before = adoption.test.length().await;
    adoption.test.drain(&settings).await;
    assert_eq!(adoption.test.length().await, before, "events published by its own worker were sent again");

    let list = ["events", "list", "--status", "published", "--format", "json"];
    let listed = adoption.test.outbox(&settings, &list).output().unwrap();
    assert_eq!(serde_json::from_slice::<Value>(&listed.stdout).unwrap().as_array().unwrap().len(), 5);

    let written = django.call("publish", &["5", "25"]);
    let undelivered = django.call("publish_later_and_never", &[]);
    let never = names(&undelivered)[1];
    adoption.test.drain(&settings).await;
    let statuses = django.call("statuses", &[]);
    assert!(names(&written).iter().all(|id| statuses[id] == "published"), "{statuses}");
    let failed = django.call("show", &[never]);
    assert_eq!((&failed[0], &failed[3]), (&json!("failed"), &json!(false)), "{failed}");
    assert!(failed[2].as_str().unwrap().contains("publisher_config"), "{failed}");

    let entries = adoption.test.event_ids().await;
    assert!(!entries.contains(&never.to_owned()));
    django.call("repair", &[never]);
    assert_eq!(django.call("retry_by_admin", &[never]), json!(["1 events marked for retry."]));
    assert_eq!(django.call("show", &[never]), json!(["pending", 0, "", false]));
    adoption.test.drain(&settings).await;
    assert_eq!(django.call("show", &[never]), json!(["published", 0, "", true]));
    let again = adoption.test.event_ids().await;
    assert_eq!(again[..entries.len()], entries);
    assert_eq!(again[entries.len()..], [never.to_owned()]);
}

#[tokio::test]
async fn a_retry_that_its_worker_scheduled_comes_due_after_the_adoption() {
    let adoption = Adoption::new().await;
    let never = adoption.django.call("publish_later_and_never", &[]);
    let never = names(&never)[1];
    adoption.django.call("work", &[]);
    assert_eq!(adoption.django.call("show", &[never])[0], "retry");
    adoption.adopt();
    adoption.django.call("repair", &[never]);
    let settings = settings(&adoption);
    adoption.test.drain(&settings).await;
    assert_eq!(adoption.django.call("show", &[never])[0], "retry", "it was postponed by two minutes");
    let sql = adoption.test.sql().await;
    sql.batch_execute("UPDATE outbox_events SET scheduled_at = now() WHERE status = 'retry'").await.unwrap();
    let _worker = adoption.test.worker(&settings, "worker");
    let published = "SELECT count(*) FROM outbox_events WHERE status = 'published'";
    eventually("it is published", DRAIN, async || adoption.test.number(published).await == 1).await;
    assert_eq!(adoption.django.call("show", &[never])[0], "published");
}

#[tokio::test]
async fn events_that_its_worker_left_in_processing_are_taken_up_and_counted() {
    let adoption = Adoption::new().await;
    adoption.django.call("publish", &["0", "8"]);
    let sql = adoption.test.sql().await;
    let left = "UPDATE outbox_events SET status = 'processing' WHERE retry_count = 0 AND max_retries < 3";
    let count = sql.execute(left, &[]).await.unwrap();
    let said = adoption.adopt();
    let expected = format!("pending again, left in processing by its worker: {count}\n");
    assert!(count > 0 && said.contains(&expected), "{said}");
    adoption.test.drain(&settings(&adoption)).await;
    assert_eq!(adoption.test.published().await, 8);
}
