//! An adoption on MariaDB.

use serde_json::json;

use super::django::Django;
use crate::mysql::MysqlOutbox;
use crate::support::process::Running;
use crate::support::{mysql, redis};
use crate::test_outbox::DRAIN;
use mysql_async::prelude::Queryable;

/// An application whose table was created by django-broadcaster's migration, with a number of events.
async fn application(events: &str) -> (MysqlOutbox, Django) {
    let test = MysqlOutbox::unmigrated().await;
    let django = Django { database: test.database.url.clone(), redis: redis::url(), stream: test.stream.clone() };
    django.call("migrate", &[]);
    django.call("publish", &["0", events]);
    (test, django)
}

fn adopt(test: &MysqlOutbox) {
    let adopted = test.outbox(&test.settings(""), &["migrate"]).output().unwrap();
    let said = String::from_utf8_lossy(&adopted.stdout);
    assert!(
        said.starts_with("adopted django-broadcaster's table:"),
        "{said}{}",
        String::from_utf8_lossy(&adopted.stderr)
    );
}

async fn drain(test: &MysqlOutbox) {
    let stream = &test.stream;
    let audit = format!(
        "[publishers.audit]\nbackend = \"redis_stream\"\nurl = \"{}\"\nstream_name = \"{stream}-audit\"\nmax_len = 0\n",
        redis::url()
    );
    let mut worker = Running::spawn(&mut test.outbox(&test.settings(&audit), &["worker", "--until-empty"]));
    let status = worker.wait_exit(DRAIN).await;
    assert!(status.success(), "{status}: {}", worker.stderr());
}

#[tokio::test]
async fn on_mariadb_an_adopted_table_drains_into_the_entries_that_its_own_worker_writes() {
    let (test, django) = application("200").await;
    // The application's worker publishes the same rows from a copy.
    let copy = mysql::database().await;
    let rows = format!(
        "CREATE TABLE {0}.outbox_events LIKE outbox_events; INSERT INTO {0}.outbox_events SELECT * FROM outbox_events",
        copy.name
    );
    test.sql().await.query_drop(rows).await.unwrap();
    let own_worker = Django { database: copy.url.clone(), redis: redis::url(), stream: redis::stream() };
    own_worker.call("work", &[]);

    adopt(&test);
    drain(&test).await;
    for suffix in ["", "-audit"] {
        let (theirs, ours) = (format!("{}{suffix}", own_worker.stream), format!("{}{suffix}", test.stream));
        let compared = django.call("compare", &[&theirs, &ours]);
        assert_eq!(compared["differences"], json!([]), "{suffix}");
        assert!(compared["entries"].as_u64().unwrap() >= 50, "{compared}");
    }
    assert_eq!(test.unpublished().await, 0);
}

#[tokio::test]
async fn on_mariadb_the_application_goes_on_writing_and_its_worker_comes_back() {
    let (test, django) = application("20").await;
    django.call("work", &[]);
    let before = test.length().await;
    adopt(&test);
    drain(&test).await;
    assert_eq!(test.length().await, before, "events published by its own worker were sent again");
    django.call("publish", &["20", "60"]);
    drain(&test).await;
    assert_eq!(test.unpublished().await, 0);
    django.call("publish", &["60", "70"]);
    django.call("work", &[]);
    assert_eq!(test.unpublished().await, 0);
}
