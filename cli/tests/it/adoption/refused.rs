//! Tables that have the outbox's name and another structure.

use tokio_postgres::Client;

use crate::support::{postgres, redis};
use crate::test_outbox::TestOutbox;

/// Every relation and column, with the transaction that last changed its catalog row.
async fn everything(sql: &Client) -> Vec<String> {
    let query = "SELECT concat_ws(' ', c.relname, c.relkind, c.xmin, a.attname, a.xmin) FROM pg_class c
        LEFT JOIN pg_attribute a ON a.attrelid = c.oid WHERE c.relnamespace = 'public'::regnamespace ORDER BY 1";
    sql.query(query, &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

/// The program's output for a database with these statements.
async fn refusal(statements: &str) -> String {
    let test = TestOutbox::unmigrated(postgres::database().await, redis::url());
    let sql = test.sql().await;
    sql.batch_execute(statements).await.unwrap();
    let before = everything(&sql).await;
    let settings = test.settings().write();
    let [planned, done] = [&["migrate", "--dry-run"][..], &["migrate"]].map(|arguments| {
        let output = test.outbox(&settings, arguments).output().unwrap();
        assert_eq!((output.status.code(), &*output.stdout), (Some(1), &b""[..]));
        String::from_utf8(output.stderr).unwrap()
    });
    assert_eq!(planned, done);
    assert_eq!(everything(&sql).await, before, "something was changed");
    done
}

#[tokio::test]
async fn an_unknown_table_is_left_unchanged_and_its_differences_are_named() {
    let said = refusal("CREATE TABLE outbox_events (id bigserial PRIMARY KEY, source varchar(255), data jsonb)").await;
    assert!(
        said.contains("was not changed: column id is bigint, not uuid; column spec_version is missing; "),
        "{said}"
    );
    assert!(said.contains("; column source may be NULL; "), "{said}");
}

#[tokio::test]
async fn what_is_no_table_or_has_another_key_is_refused() {
    let said = refusal("CREATE VIEW outbox_events AS SELECT 1 AS id").await;
    assert!(said.contains("it is not an ordinary table"), "{said}");
    let said = refusal("CREATE TABLE outbox_events (id uuid NOT NULL); CREATE TABLE outbox_leases ()").await;
    assert!(said.contains("; its primary key is not id; table outbox_leases already exists"), "{said}");
}
