//! Publishing from SQL: who may call the functions, what they refuse, and that they survive a dump.

use std::collections::HashSet;
use std::sync::{Arc, Mutex};

use actix_outbox::{NewEvent, PublishError};
use diesel_async::{AsyncConnection, AsyncPgConnection};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;
use uuid::Uuid;

use crate::support::postgres::{self, Server};
use crate::support::{PATIENCE, eventually, redis};
use crate::test_outbox::TestOutbox;
use crate::waking::announcements;

const POSTGRES: &str = include_str!("../../../docs/postgres.md");
const PUBLISHING: &str = include_str!("../../../docs/publishing.md");

/// The blocks of SQL in a chapter of the book.
fn documented(document: &'static str, chapter: &str) -> Vec<&'static str> {
    let (_, chapter) = document.split_once(&format!("\n## {chapter}\n")).unwrap();
    let chapter = chapter.split("\n## ").next().unwrap();
    chapter.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect()
}

async fn refused(client: &Client, sql: &str) -> (SqlState, String) {
    let error = client.batch_execute(sql).await.expect_err(sql);
    let error = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error}"));
    (error.code().clone(), error.message().to_owned())
}

async fn call(client: &Client, sql: &str) -> Uuid {
    client.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}")).get(0)
}

#[tokio::test]
async fn the_documented_statements_publish_and_an_event_is_delivered_once() {
    let test = TestOutbox::new().await;
    let sql = test.sql().await;
    sql.batch_execute("CREATE TABLE users (name text)").await.unwrap();
    for block in documented(PUBLISHING, "From SQL") {
        for _ in 0..2 {
            sql.batch_execute(block).await.unwrap_or_else(|error| panic!("{block}: {error:?}"));
        }
    }
    let written = test.number("SELECT count(*) FROM outbox_events").await;
    assert!(written >= 4, "{written}");
    test.drain(&test.settings().write()).await;
    assert_eq!(test.published().await, written);
}

#[tokio::test]
async fn a_role_with_execute_and_nothing_else_publishes() {
    let server = Server::start();
    let test = TestOutbox::unmigrated(server.database().await, redis::url());
    let sql = test.sql().await;
    let path = format!("ALTER ROLE current_user IN DATABASE {} SET search_path = outbox", test.database().name);
    sql.batch_execute(&format!("CREATE SCHEMA outbox; CREATE ROLE app LOGIN; {path}")).await.unwrap();
    test.run(&["migrate"]).await;
    let sql = test.sql().await;
    let mut url = url::Url::parse(test.url()).unwrap();
    url.set_username("app").unwrap();
    let app = postgres::connect(url.as_str()).await;
    let calls = [
        "SELECT outbox.outbox_publish('t', 's')",
        r#"SELECT outbox.outbox_publish_cloudevent('{"specversion": "1.0", "id": "1", "type": "t", "source": "s"}')"#,
        r#"SELECT outbox.outbox_publish_many('[{"specversion": "1.0", "id": "2", "type": "t", "source": "s"}]')"#,
    ];
    sql.batch_execute("GRANT USAGE ON SCHEMA outbox TO app").await.unwrap();
    for call in calls.into_iter().chain(["SELECT outbox.outbox_wake()"]) {
        assert_eq!(refused(&app, call).await.0, SqlState::INSUFFICIENT_PRIVILEGE);
    }
    for grant in documented(POSTGRES, "Functions") {
        sql.batch_execute(grant).await.unwrap();
    }
    // Used instead of the outbox's tables and functions if the functions followed the caller's path.
    app.batch_execute(
        "CREATE TEMP TABLE outbox_events (LIKE information_schema.sql_features); CREATE TEMP TABLE outbox_meta (id int); \
         CREATE FUNCTION pg_temp.outbox_new_id() RETURNS uuid LANGUAGE plpgsql AS $$ BEGIN RAISE 'hijacked'; END $$; \
         CREATE FUNCTION pg_temp.octet_length(text) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RAISE 'hijacked'; END $$; \
         CREATE OPERATOR pg_temp.<> (LEFTARG = text, RIGHTARG = text, FUNCTION = pg_catalog.text_lt); \
         SET search_path = pg_temp, pg_catalog; SET standard_conforming_strings = off; SET bytea_output = 'escape'; \
         SET transform_null_equals = on; SET DateStyle = 'German'; SET TimeZone = 'Asia/Kathmandu'",
    )
    .await
    .unwrap();
    for sql in calls {
        call(&app, sql).await;
        assert_eq!(refused(&app, "SELECT FROM outbox.outbox_events").await.0, SqlState::INSUFFICIENT_PRIVILEGE);
    }
    app.batch_execute("SELECT outbox.outbox_wake()").await.unwrap();
    assert_eq!(refused(&app, "SELECT outbox.outbox_new_id()").await.0, SqlState::INSUFFICIENT_PRIVILEGE);
    assert_eq!(test.number("SELECT count(*) FROM outbox.outbox_events").await, 3);
    let owners = "SELECT count(*) FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace AND n.nspname = 'outbox' \
                  WHERE p.prosecdef AND p.proconfig = ARRAY['search_path=outbox, pg_temp']";
    assert_eq!(test.number(owners).await, 4);
}

#[tokio::test]
async fn the_functions_of_an_adopted_table_belong_to_its_owner() {
    let server = Server::start();
    let test = TestOutbox::unmigrated(server.database().await, redis::url());
    test.run(&["migrate"]).await;
    let move_to = "CREATE ROLE django; GRANT CREATE ON SCHEMA public TO django; ALTER TABLE outbox_events OWNER TO django; \
                   DELETE FROM outbox_migrations WHERE version >= 7";
    test.sql().await.batch_execute(move_to).await.unwrap();
    test.run(&["migrate"]).await;
    let owned = "SELECT count(*) FROM pg_proc WHERE proname ~ '^outbox_publish' AND proowner = 'django'::regrole";
    assert_eq!(test.number(owned).await, 3);
    let sql = test.sql().await;
    call(&sql, "SELECT outbox_publish('t', 's')").await;
    sql.batch_execute("SELECT outbox_wake()").await.unwrap();
}

#[tokio::test]
async fn hostile_input_is_an_error_and_writes_nothing() {
    let test = TestOutbox::new().await;
    let sql = test.sql().await;
    let event = |attributes: &str| {
        format!(
            r#"outbox_publish_cloudevent(('{{"specversion": "1.0", "id": "1", "type": "t", "source": "s", {attributes}}}')::jsonb)"#
        )
    };
    let ours = [
        "outbox_publish(NULL, NULL)".to_owned(),
        "outbox_publish('t', repeat('x', 10000000))".to_owned(),
        "outbox_publish('t', 's', to_jsonb(repeat('x', 10000000)))".to_owned(),
        "outbox_publish('t', 's', extensions => jsonb_build_object('x', repeat('x', 10000000)))".to_owned(),
        "outbox_publish('t', 's', extensions => jsonb_build_object(repeat('x', 10000000), 1))".to_owned(),
        "outbox_publish('t', 's', publisher_config => jsonb_build_object('x', repeat('x', 10000000)))".to_owned(),
        "outbox_publish('t', 's', (repeat('[', 1000) || repeat(']', 1000))::jsonb)".to_owned(),
        "outbox_publish('t', 's', '{\"n\": 1e131071}')".to_owned(),
        "outbox_publish('t', 's', '[1e-16000]')".to_owned(),
        r#"outbox_publish('t', 's', publisher_config => '{"n": 1e131071}')"#.to_owned(),
        "outbox_publish('t', 's', publisher_config => '{\"n\": 1e9000000}')".to_owned(),
        "outbox_publish('t', 's', extensions => '{\"n\": 1e131071}')".to_owned(),
        "outbox_publish('t', 's', extensions => '[]')".to_owned(),
        "outbox_publish('t', 's', extensions => 'null')".to_owned(),
        "outbox_publish('t', 's', publisher_config => '7')".to_owned(),
        "outbox_publish('t', 's', scheduled_at => 'infinity')".to_owned(),
        "outbox_publish('t', 's', event_time => '-infinity')".to_owned(),
        "outbox_publish('t', 's', event_time => '0044-03-15 BC')".to_owned(),
        "outbox_publish('t', 's', scheduled_at => '10000-01-01')".to_owned(),
        "outbox_publish('t', 's', max_retries => -2147483648)".to_owned(),
        "outbox_publish('t', 's', backend => 'x''); DROP TABLE outbox_events; --')".to_owned(),
        "outbox_publish('t', 's', extensions => '{\"x); DROP TABLE outbox_events; --\": 1}')".to_owned(),
        "outbox_publish(E't\\n', 's')".to_owned(),
        "outbox_publish_cloudevent(NULL)".to_owned(),
        "outbox_publish_cloudevent('null')".to_owned(),
        "outbox_publish_many(NULL)".to_owned(),
        "outbox_publish_many('{}')".to_owned(),
        "outbox_publish_many('[1]')".to_owned(),
        event("\"time\": \"2025-02-30T00:00:00Z\""),
        event("\"time\": \"2025-02-30; DROP TABLE outbox_events\""),
        event("\"time\": {}"),
        event("\"data_base64\": \"!\""),
        event("\"data_base64\": [1]"),
        "outbox_publish_cloudevent(jsonb_build_object('specversion', '1.0', 'id', repeat('x', 10000000), 'type', 't', 'source', 's'))"
            .to_owned(),
        "outbox_publish_cloudevent(jsonb_build_object('specversion', '1.0', 'id', '1', 'type', 't', 'source', 's', \
            'data_base64', repeat('AAAA', 2500000)))"
            .to_owned(),
    ];
    for call in &ours {
        let (state, message) = refused(&sql, &format!("SELECT {call}")).await;
        let is_parsed = call.contains("1e9000000");
        assert!(state == SqlState::INVALID_PARAMETER_VALUE || is_parsed, "{call}: {state:?} {message}");
        assert!(
            message.len() < 300 && !message.contains("xxxxxxxxxx") || call.contains("(repeat"),
            "{call}: {message}"
        );
    }
    // PostgreSQL's own, while it reads the arguments.
    for call in [
        r#"outbox_publish('t', 's', '"\u0000"')"#,
        r#"outbox_publish('t', 's', '"\ud800"')"#,
        "outbox_publish('t', 's', '{')",
        "outbox_publish('t', 's', id => 'not a uuid')",
        "outbox_publish('t', 's', scheduled_at => 'yesterday at noon')",
        "outbox_publish('t', 's', max_retries => 3000000000)",
        "outbox_publish('t')",
        "outbox_publish(1, 2)",
        "outbox_publish('t', 's', 's')",
    ] {
        let (state, _) = refused(&sql, &format!("SELECT {call}")).await;
        assert_ne!(state, SqlState::INTERNAL_ERROR, "{call}");
    }
    assert_eq!(test.number("SELECT count(*) FROM outbox_events").await, 0);
}

#[tokio::test]
async fn the_same_id_again_follows_the_rules_of_publish() {
    let test = TestOutbox::new().await;
    let sql = test.sql().await;
    let mut conn = AsyncPgConnection::establish(test.url()).await.unwrap();
    let event = |id: Uuid| {
        NewEvent::new("t", "s")
            .id(id)
            .data_json(r#"{"n": 1.0}"#)
            .extension("traceparent", "00-a-b-01")
            .extension("x", 1)
    };
    let id = call(
        &sql,
        r#"SELECT outbox_publish('t', 's', '{"n": 1.0}', max_retries => 5, extensions => '{"x": 1}', subject => '')"#,
    )
    .await;
    let same = |rest: &str| {
        format!(
            r#"SELECT outbox_publish('t', 's', '{{"n": 1}}', extensions => '{{"x": 1, "tracestate": "a=1"}}', id => '{id}'{rest})"#
        )
    };
    assert_eq!(actix_outbox::publish(&mut conn, event(id)).await.unwrap().id, id);
    for rest in ["", ", max_retries => 5"] {
        assert_eq!(call(&sql, &same(rest)).await, id);
    }
    for (rest, field) in [
        (", subject => 'x'", "subject"),
        (", partition_key => 'x'", "partition_key"),
        (", backend => 'x'", "publisher_backend"),
        (", data_schema => 'urn:x'", "data_schema"),
        (", data_content_type => ''", "data_content_type"),
        (", publisher_config => '{\"x\": 1}'", "publisher_config"),
        (", scheduled_at => '2025-01-01'", "scheduled_at"),
        (", event_time => '2025-01-01'", "event_time"),
        (", max_retries => 4", "max_retries"),
    ] {
        let error = sql.query_one(&same(rest), &[]).await.unwrap_err();
        let error = error.as_db_error().unwrap();
        assert_eq!((error.code(), error.column()), (&SqlState::UNIQUE_VIOLATION, Some(field)));
        assert!(error.message().contains(&format!("different `{field}`")), "{error}");
    }
    let other = actix_outbox::publish(&mut conn, event(id).data_json("2")).await.unwrap_err();
    let PublishError::IdConflict(other) = other else { panic!("{other}") };
    let (state, message) = refused(&sql, &format!("SELECT outbox_publish('t', 's', '2', id => '{id}')")).await;
    assert_eq!((state, message), (SqlState::UNIQUE_VIOLATION, other.to_string()));
    // So that the commit of a repetition waits for a synchronous standby.
    sql.batch_execute("BEGIN").await.unwrap();
    call(&sql, &same("")).await;
    let wrote = "SELECT pg_current_xact_id_if_assigned() IS NOT NULL";
    assert!(sql.query_one(wrote, &[]).await.unwrap().get::<_, bool>(0));
    sql.batch_execute("COMMIT").await.unwrap();
    assert_eq!(test.number("SELECT count(*) FROM outbox_events").await, 1);
}

#[tokio::test]
async fn a_batch_is_written_in_its_order_completely_or_not_at_all() {
    let test = TestOutbox::new().await;
    let sql = test.sql().await;
    let batch = |last: &str| {
        let events = (1..=3)
            .map(|n| format!(r#"{{"specversion": "1.0", "id": "{n}", "type": "t", "source": "s", "subject": "{n}"}}"#));
        let events = events.collect::<Vec<_>>().join(", ");
        format!("SELECT outbox_publish_many('[{events}{last}]', 'orders')")
    };
    let (state, message) = refused(&sql, &batch(r#", {"specversion": "1.0", "id": "4", "type": "t"}"#)).await;
    assert_eq!(
        (state, &*message),
        (SqlState::INVALID_PARAMETER_VALUE, "event number 4 of the batch: event field `source` is missing")
    );
    let conflict = r#", {"specversion": "1.0", "id": "1", "type": "other", "source": "s"}"#;
    let (state, message) = refused(&sql, &batch(conflict)).await;
    assert!(
        state == SqlState::UNIQUE_VIOLATION && message.contains("number 4") && message.contains("`event_type`"),
        "{message}"
    );
    assert_eq!(test.number("SELECT count(*) FROM outbox_events").await, 0);
    let ids =
        async || -> Vec<Uuid> { sql.query(&batch(""), &[]).await.unwrap().iter().map(|row| row.get(0)).collect() };
    let first = ids().await;
    assert_eq!((ids().await, first.iter().collect::<HashSet<_>>().len()), (first.clone(), 3));
    let order = "SELECT array_agg(id ORDER BY seq) FROM outbox_events WHERE publisher_backend = 'orders'";
    assert_eq!(sql.query_one(order, &[]).await.unwrap().get::<_, Vec<Uuid>>(0), first);
}

#[tokio::test]
async fn an_event_exists_if_and_only_if_its_savepoint_and_transaction_last() {
    let test = TestOutbox::new().await;
    let sql = test.sql().await;
    sql.batch_execute(
        "BEGIN; SELECT outbox_publish('kept', 's'); SAVEPOINT a; SELECT outbox_publish('ghost', 's'); ROLLBACK TO a; COMMIT; \
         BEGIN; SELECT outbox_publish('ghost', 's'); ROLLBACK",
    )
    .await
    .unwrap();
    assert_eq!(test.number("SELECT count(*) FROM outbox_events").await, 1);
    assert_eq!(test.number("SELECT count(*) FROM outbox_events WHERE event_type = 'kept'").await, 1);
}

#[tokio::test]
async fn waking_is_heard_after_the_commit() {
    let test = TestOutbox::new().await;
    let heard: Arc<Mutex<Vec<String>>> = announcements(&test).await;
    test.sql().await.batch_execute("BEGIN; SELECT outbox_wake(); ROLLBACK; SELECT outbox_wake()").await.unwrap();
    eventually("a notification arrives", PATIENCE, async || !heard.lock().unwrap().is_empty()).await;
    assert_eq!(*heard.lock().unwrap(), [""]);
}

#[tokio::test]
async fn a_restored_dump_publishes() {
    let test = TestOutbox::unmigrated(postgres::database().await, redis::url());
    let path = format!("ALTER DATABASE {} SET search_path = \"The Outbox\"", test.database().name);
    test.sql().await.batch_execute(&format!("CREATE SCHEMA \"The Outbox\"; {path}")).await.unwrap();
    test.run(&["migrate"]).await;
    let id = call(&test.sql().await, "SELECT outbox_publish('t', 's')").await;
    let restored = postgres::database().await;
    test.database().dump_into(&restored);
    let sql = restored.connect().await;
    let again = format!("SELECT \"The Outbox\".outbox_publish('t', 's', id => '{id}')");
    assert_eq!(call(&sql, &again).await, id);
    let event = r#"{"specversion": "1.0", "id": "1", "type": "t", "source": "s"}"#;
    call(&sql, &format!("SELECT \"The Outbox\".outbox_publish_cloudevent('{event}')")).await;
    let count = sql.query_one("SELECT count(*) FROM \"The Outbox\".outbox_events", &[]).await.unwrap();
    assert_eq!(count.get::<_, i64>(0), 2);
}
