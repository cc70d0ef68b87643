//! What the inbox promises, on every database.

use chrono::{TimeDelta, Utc};

use super::*;
use crate::inbox::{Handled, blocking, delete_handled_before, handle, note_many};

async fn an_event_is_handled_once<C: AsyncConnection<Backend: OutboxDatabase>>(conn: &mut C) {
    for expected in [Handled::Done(7), Handled::Skipped, Handled::Skipped] {
        begin(conn).await;
        let handled = handle(conn, key("a"), async |conn| work(conn, "a").await.map(|()| 7)).await;
        assert_eq!(handled, Ok::<_, DieselError>(expected));
        commit(conn).await;
    }
    assert_eq!(effects(conn).await, ["a"]);
}

async fn work_that_fails_takes_its_note_back<C: AsyncConnection<Backend: OutboxDatabase>>(conn: &mut C) {
    for is_committed in [false, true] {
        begin(conn).await;
        let failed = handle(conn, key("a"), async |_| Err::<(), Failure>("the bank is closed".into())).await;
        assert_eq!(failed.unwrap_err().to_string(), "the bank is closed");
        match is_committed {
            true => commit(conn).await,
            false => rollback(conn).await,
        }
        assert!(noted(conn).await.is_empty());
    }
    // The work was done, and its transaction did not commit.
    begin(conn).await;
    handle(conn, key("a"), async |conn| work(conn, "ghost").await).await.unwrap().done().unwrap();
    rollback(conn).await;
    begin(conn).await;
    handle(conn, key("a"), async |conn| work(conn, "a").await).await.unwrap().done().unwrap();
    commit(conn).await;
    assert_eq!(effects(conn).await, ["a"]);
}

async fn a_replay_and_the_event_of_another_handler_or_source_are_new<C>(conn: &mut C)
where
    C: AsyncConnection<Backend: OutboxDatabase>,
{
    begin(conn).await;
    let keys = [
        key("a"),
        key("a").seq(7),
        InboxKey::new("biller", "tests", "a"),
        InboxKey::new("mailer", "other", "a"),
        key("A"),
        key("a "),
    ];
    for key in &keys {
        assert!(!handle(conn, key, async |_| Ok::<_, DieselError>(())).await.unwrap().is_skipped(), "{key:?}");
    }
    commit(conn).await;
    begin(conn).await;
    for key in &keys {
        assert!(handle(conn, key, async |_| Ok::<_, DieselError>(())).await.unwrap().is_skipped(), "{key:?}");
    }
    commit(conn).await;
}

async fn many_are_noted_together<C: AsyncConnection<Backend: OutboxDatabase>>(conn: &mut C) {
    begin(conn).await;
    assert!(note_many(conn, Vec::<InboxKey>::new()).await.unwrap().is_empty());
    let hard = [key("b"), key("a"), key("b"), key("{\"é\\', NULL}"), key("a").seq(i64::MIN)];
    assert_eq!(note_many(conn, &hard).await.unwrap(), [true, true, false, true, true]);
    commit(conn).await;
    begin(conn).await;
    assert_eq!(note_many(conn, &hard).await.unwrap(), [false; 5]);
    let mixed = [key("c"), key("a"), key("{\"é\\', NULL}"), key("c"), key("d"), key("a").seq(i64::MIN)];
    assert_eq!(note_many(conn, mixed).await.unwrap(), [true, false, false, false, true, false]);
    rollback(conn).await;
    begin(conn).await;
    let keys: Vec<_> = (0..2_000).map(|n| key(&format!("n{n}"))).collect();
    assert_eq!(note_many(conn, &keys).await.unwrap(), [true; 2_000]);
    commit(conn).await;
    assert_eq!(noted(conn).await.len(), 4 + 2_000);
}

async fn of_many_each_old_one_is_found_and_the_transaction_goes_on<C>(conn: &mut C)
where
    C: AsyncConnection<Backend: OutboxDatabase>,
{
    let alike: Vec<_> = (0..300).map(|n| key(&n.to_string()).seq(n)).collect();
    many_with_old_ones(conn, alike).await;
    execute(conn, "DELETE FROM outbox_inbox; DELETE FROM effects").await;
    let of_sources = (0..300).map(|n| InboxKey::new("mailer", format!("source {}", n % 3), n.to_string())).collect();
    many_with_old_ones(conn, of_sources).await;
}

async fn many_with_old_ones<C: AsyncConnection<Backend: OutboxDatabase>>(conn: &mut C, keys: Vec<InboxKey>) {
    let old: Vec<_> = keys.iter().step_by(7).collect();
    begin(conn).await;
    note_many(conn, old).await.unwrap();
    commit(conn).await;
    let is_new: Vec<_> = (0..300).map(|n| n % 7 > 0).collect();
    for is_committed in [false, true] {
        begin(conn).await;
        work(conn, "before").await.unwrap();
        assert_eq!(note_many(conn, &keys).await.unwrap(), is_new);
        assert_eq!(note_many(conn, &keys).await.unwrap(), [false; 300], "they are of this transaction");
        work(conn, "after").await.unwrap();
        match is_committed {
            true => commit(conn).await,
            false => rollback(conn).await,
        }
    }
    assert_eq!(effects(conn).await, ["before", "after"]);
    assert_eq!(noted(conn).await.len(), 300);
}

async fn what_cannot_be_noted_is_refused<C: AsyncConnection<Backend: OutboxDatabase>>(conn: &mut C) {
    begin(conn).await;
    let long = InboxKey::new("mailer", "s".repeat(256), "a");
    let refused = handle(conn, &long, async |_| Ok::<_, Failure>(())).await.unwrap_err();
    let InboxError::InvalidKey(invalid) = *refused.downcast::<InboxError<DieselError>>().unwrap() else { panic!() };
    assert_eq!(invalid.field, "source");
    let refused = note_many(conn, [key("a"), key("\0")]).await.unwrap_err();
    assert!(matches!(&refused, InboxError::InvalidKey(invalid) if invalid.field == "event_id"), "{refused}");
    commit(conn).await;
    // The note would be committed before the work.
    let refused = handle(conn, key("a"), async |_| Ok::<_, DieselError>(())).await;
    assert!(matches!(refused, Err(DieselError::NotInTransaction)), "{refused:?}");
    assert!(matches!(note_many(conn, [key("a")]).await, Err(InboxError::NoTransaction)));
    assert!(noted(conn).await.is_empty());
}

async fn old_notes_are_deleted_a_thousand_at_once<C>(conn: &mut C, age_all: &str)
where
    C: AsyncConnection<Backend: OutboxDatabase>,
{
    begin(conn).await;
    let keys: Vec<_> = (0..1_500).map(|n| key(&n.to_string())).collect();
    note_many(conn, keys).await.unwrap();
    commit(conn).await;
    execute(conn, age_all).await;
    begin(conn).await;
    note_many(conn, [key("new")]).await.unwrap();
    commit(conn).await;
    let yesterday = Utc::now() - TimeDelta::days(1);
    for expected in [1_000, 500, 0] {
        assert_eq!(delete_handled_before(conn, yesterday).await.unwrap(), expected);
    }
    assert_eq!(noted(conn).await, ["new"]);
}

macro_rules! promises {
    ($($promise:ident $(($argument:ident))?),* $(,)?) => {
        mod on_postgres {
            const AGE: &str = "UPDATE outbox_inbox SET handled_at = handled_at - interval '2 days'";

            $(
                #[tokio::test]
                async fn $promise() {
                    let inbox = super::PostgresInbox::new().await;
                    super::$promise(&mut inbox.connect().await $(, $argument)?).await;
                }
            )*
        }

        #[cfg(feature = "mysql")]
        mod on_mysql {
            const AGE: &str = "UPDATE outbox_inbox SET handled_at = handled_at - INTERVAL 2 DAY";

            $(
                #[tokio::test]
                async fn $promise() {
                    let inbox = super::MysqlInbox::new().await;
                    super::$promise(&mut inbox.connect().await $(, $argument)?).await;
                }
            )*
        }

        mod on_sqlite {
            const AGE: &str = "UPDATE outbox_inbox SET handled_at = handled_at - 172800000000";

            $(
                #[tokio::test]
                async fn $promise() {
                    let inbox = super::SqliteInbox::new().await;
                    super::$promise(&mut inbox.connect().await $(, $argument)?).await;
                }
            )*
        }
    };
}

promises!(
    an_event_is_handled_once,
    work_that_fails_takes_its_note_back,
    a_replay_and_the_event_of_another_handler_or_source_are_new,
    many_are_noted_together,
    of_many_each_old_one_is_found_and_the_transaction_goes_on,
    what_cannot_be_noted_is_refused,
    old_notes_are_deleted_a_thousand_at_once(AGE),
);

#[tokio::test]
async fn a_blocking_connection_handles_an_event_once_and_takes_back_what_failed() {
    let inbox = SqliteInbox::new().await;
    let mut conn = inbox.connect_blocking();
    let fail = |_: &mut SqliteConnection| Err::<(), Failure>("closed".into());
    let failed = conn.transaction(|conn| Ok::<_, DieselError>(blocking::handle(conn, key("a"), fail).is_err()));
    assert_eq!(failed, Ok(true));
    for expected in [Handled::Done(1), Handled::Skipped] {
        let insert = |conn: &mut SqliteConnection| {
            diesel::RunQueryDsl::execute(diesel::sql_query("INSERT INTO effects VALUES ('a')"), conn)
        };
        let handled = conn.immediate_transaction(|conn| blocking::handle(conn, key("a"), insert));
        assert_eq!(handled, Ok::<_, DieselError>(expected));
    }
    let new = conn.transaction(|conn| Ok::<_, DieselError>(blocking::note_many(conn, [key("b"), key("a"), key("b")])?));
    assert_eq!(new, Ok(vec![true, false, false]));
    assert!(matches!(blocking::note_many(&mut conn, [key("c")]), Err(InboxError::NoTransaction)));
    blocking::migrate(&mut conn).unwrap();
    assert_eq!(blocking::delete_handled_before(&mut conn, Utc::now() + TimeDelta::days(1)), Ok(2));
    assert_eq!(effects(&mut inbox.connect().await).await, ["a"]);
}

/// PostgreSQL looks up a name in what is committed by now, and rows in what was when the statement or transaction began.
#[tokio::test]
async fn a_table_that_another_service_makes_meanwhile_is_found_with_its_key_or_not_at_all() {
    let database = postgres::database().await;
    let mut first = AsyncPgConnection::establish(&database.url).await.unwrap();
    begin(&mut first).await;
    execute(&mut first, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT 1").await;
    let mut second = AsyncPgConnection::establish(&database.url).await.unwrap();
    crate::inbox::migrate(&mut second).await.unwrap();
    crate::inbox::migrate(&mut first).await.unwrap();
    commit(&mut first).await;
    assert!(noted(&mut first).await.is_empty());
}

#[tokio::test]
async fn services_that_start_together_make_one_table() {
    let database = postgres::database().await;
    let mut connections = Vec::new();
    for _ in 0..8 {
        connections.push(AsyncPgConnection::establish(&database.url).await.unwrap());
    }
    futures_util::future::try_join_all(connections.iter_mut().map(crate::inbox::migrate)).await.unwrap();
    let conn = &mut connections[0];
    assert!(noted(conn).await.is_empty());
    execute(conn, "DROP TABLE outbox_inbox; CREATE TABLE outbox_inbox (id bigint)").await;
    let refused = crate::inbox::migrate(conn).await.unwrap_err();
    assert!(refused.to_string().contains("outbox_inbox"), "{refused}");
}
