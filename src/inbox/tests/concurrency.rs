//! Two transactions with one event.

use std::pin::pin;

use diesel_async::SimpleAsyncConnection;

use super::*;
use crate::inbox::{Handled, handle, note_many};
use crate::test_support::{PATIENCE, eventually};

/// Waits until a statement of this database waits for another transaction.
async fn something_waits(inbox: &PostgresInbox) {
    let observer = inbox.0.connect().await;
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually("a transaction waits", PATIENCE, async || {
        observer.query_one(waits, &[]).await.unwrap().get::<_, i64>(0) == 1
    })
    .await;
}

/// What the second of two transactions gets, which waits for the first one to end.
async fn second_of_two(
    inbox: &PostgresInbox,
    begin_second: &str,
    is_committed: bool,
) -> Result<Handled<()>, DieselError> {
    let (mut first, mut second) = (inbox.connect().await, inbox.connect().await);
    begin(&mut first).await;
    handle(&mut first, key("a"), async |conn| work(conn, "first").await).await?.done().unwrap();
    begin(&mut second).await;
    execute(&mut second, begin_second).await;
    let handled = {
        let mut handling = pin!(handle(&mut second, key("a"), async |conn| work(conn, "second").await));
        tokio::select! {
            biased;
            early = &mut handling => panic!("{early:?} before the first has ended"),
            () = something_waits(inbox) => {}
        }
        match is_committed {
            true => commit(&mut first).await,
            false => rollback(&mut first).await,
        }
        handling.await
    };
    match handled.is_ok() {
        true => commit(&mut second).await,
        false => rollback(&mut second).await,
    }
    handled
}

#[tokio::test]
async fn the_second_waits_for_the_first_and_skips_what_it_committed() {
    let inbox = PostgresInbox::new().await;
    assert_eq!(second_of_two(&inbox, "", true).await, Ok(Handled::Skipped));
    assert_eq!(effects(&mut inbox.connect().await).await, ["first"]);
}

#[tokio::test]
async fn the_second_does_what_the_first_rolled_back() {
    let inbox = PostgresInbox::new().await;
    assert_eq!(second_of_two(&inbox, "", false).await, Ok(Handled::Done(())));
    assert_eq!(effects(&mut inbox.connect().await).await, ["second"]);
}

#[tokio::test]
async fn with_a_snapshot_the_second_is_refused_and_skips_at_its_next_try() {
    for level in ["REPEATABLE READ", "SERIALIZABLE"] {
        let inbox = PostgresInbox::new().await;
        let refused =
            second_of_two(&inbox, &format!("SET TRANSACTION ISOLATION LEVEL {level}"), true).await.unwrap_err();
        assert!(
            matches!(refused, DieselError::DatabaseError(diesel::result::DatabaseErrorKind::SerializationFailure, _)),
            "{refused}"
        );
        let mut conn = inbox.connect().await;
        begin(&mut conn).await;
        execute(&mut conn, &format!("SET TRANSACTION ISOLATION LEVEL {level}")).await;
        let again = handle(&mut conn, key("a"), async |conn| work(conn, "second").await).await;
        assert_eq!(again, Ok(Handled::Skipped));
        commit(&mut conn).await;
        assert_eq!(effects(&mut conn).await, ["first"]);
    }
}

/// A transaction that does not see the other's note cannot tell that the event was handled.
#[tokio::test]
async fn with_a_snapshot_many_of_which_one_is_noted_meanwhile_are_refused() {
    let inbox = PostgresInbox::new().await;
    let (mut first, mut second) = (inbox.connect().await, inbox.connect().await);
    begin(&mut second).await;
    execute(&mut second, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ").await;
    assert!(effects(&mut second).await.is_empty());
    begin(&mut first).await;
    note_many(&mut first, [key("70")]).await.unwrap();
    commit(&mut first).await;
    let refused = note_many(&mut second, (0..100).map(|n| key(&n.to_string()))).await.unwrap_err();
    let InboxError::Database(DieselError::DatabaseError(kind, _)) = refused else { panic!("{refused}") };
    assert!(matches!(kind, diesel::result::DatabaseErrorKind::SerializationFailure), "{kind:?}");
    rollback(&mut second).await;
}

#[tokio::test]
async fn an_error_of_the_database_in_the_work_leaves_no_note() {
    let inbox = PostgresInbox::new().await;
    let mut conn = inbox.connect().await;
    begin(&mut conn).await;
    let failed = handle(&mut conn, key("a"), async |conn| conn.batch_execute("SELECT 1 / 0").await).await.unwrap_err();
    assert!(failed.to_string().contains("zero"), "the work's error, not that of a later statement: {failed}");
    rollback(&mut conn).await;
    assert!(noted(&mut conn).await.is_empty());
}

/// Each would hold what the other waits for, if they were written in the order given.
#[tokio::test]
async fn two_batches_of_the_same_events_do_not_wait_for_each_other_in_a_circle() {
    let inbox = PostgresInbox::new().await;
    let keys: Vec<_> = (0..2_000).map(|n| key(&format!("{n:04}"))).collect();
    let backwards: Vec<_> = keys.iter().rev().cloned().collect();
    for _ in 0..10 {
        let (mut first, mut second) = (inbox.connect().await, inbox.connect().await);
        let note = async |conn: &mut AsyncPgConnection, keys: &[InboxKey]| {
            begin(conn).await;
            let new = note_many(conn, keys).await.unwrap();
            commit(conn).await;
            new.into_iter().filter(|is_new| *is_new).count()
        };
        let (one, other) = tokio::join!(note(&mut first, &keys), note(&mut second, &backwards));
        assert_eq!(one + other, 2_000);
        execute(&mut first, "DELETE FROM outbox_inbox").await;
    }
}

/// Neither the default level REPEATABLE READ nor another one changes what the second sees: an INSERT reads what is committed.
#[cfg(feature = "mysql")]
mod on_mysql {
    use super::*;
    use crate::test_support::unique;

    /// Waits until a statement that writes has been executing for a while. The server's own table of waiting transactions is not
    /// refreshed while several tests read it.
    async fn something_waits(inbox: &MysqlInbox) {
        use mysql_async::prelude::Queryable;

        let mut observer = inbox.0.connect().await;
        let executing =
            "SELECT count(*) FROM information_schema.processlist WHERE db = DATABASE() AND info LIKE 'INSERT%'";
        let mut seen = 0;
        while seen < 5 {
            let is_executing = observer.query_first::<i64, _>(executing).await.unwrap() == Some(1);
            seen = if is_executing { seen + 1 } else { 0 };
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
    }

    /// What the second of two transactions gets, which waits for the first one, that noted `b`, to end.
    async fn second_of_two<T>(
        level: &str,
        is_committed: bool,
        second: impl AsyncFnOnce(&mut diesel_async::AsyncMysqlConnection) -> T,
    ) -> T {
        let inbox = MysqlInbox::new().await;
        let (mut first, mut conn) = (inbox.connect().await, inbox.connect().await);
        begin(&mut first).await;
        handle(&mut first, key("b"), async |conn| work(conn, "first").await).await.unwrap().done().unwrap();
        execute(&mut conn, &format!("SET SESSION TRANSACTION ISOLATION LEVEL {level}")).await;
        begin(&mut conn).await;
        // A snapshot from before.
        assert!(noted(&mut conn).await.is_empty());
        let result = {
            let mut waiting = pin!(second(&mut conn));
            tokio::select! {
                biased;
                _ = &mut waiting => panic!("it ended before the first has ended"),
                () = something_waits(&inbox) => {}
            }
            match is_committed {
                true => commit(&mut first).await,
                false => rollback(&mut first).await,
            }
            waiting.await
        };
        commit(&mut conn).await;
        result
    }

    const LEVELS: [&str; 2] = ["REPEATABLE READ", "READ COMMITTED"];

    #[tokio::test]
    async fn the_second_waits_for_the_first_and_skips_what_it_committed() {
        for level in LEVELS {
            for (is_committed, expected) in [(true, Handled::Skipped), (false, Handled::Done(()))] {
                let second = async |conn: &mut _| handle(conn, key("b"), async |conn| work(conn, "second").await).await;
                assert_eq!(second_of_two(level, is_committed, second).await, Ok::<_, DieselError>(expected), "{level}");
            }
        }
    }

    #[tokio::test]
    async fn of_many_only_those_that_the_first_committed_are_old() {
        for level in LEVELS {
            for is_committed in [true, false] {
                let second = async |conn: &mut _| note_many(conn, [key("a"), key("b"), key("c")]).await.unwrap();
                let is_new = second_of_two(level, is_committed, second).await;
                assert_eq!(is_new, [true, !is_committed, true], "{level}");
            }
        }
    }

    /// A locking read needs more than SELECT on MySQL: DELETE is enough.
    #[tokio::test]
    async fn a_consumer_needs_only_the_documented_rights() {
        use mysql_async::prelude::Queryable;

        let inbox = MysqlInbox::new().await;
        let user = &unique("c")[..14];
        let mut owner = inbox.0.connect().await;
        for statement in [
            format!("CREATE USER {user} IDENTIFIED BY 'secret'"),
            format!("GRANT SELECT, INSERT, DELETE ON {}.outbox_inbox TO {user}", inbox.0.name),
            format!("GRANT SELECT, INSERT ON {}.effects TO {user}", inbox.0.name),
        ] {
            owner.query_drop(statement).await.unwrap();
        }
        let mut url = url::Url::parse(&inbox.0.url).unwrap();
        url.set_username(user).unwrap();
        url.set_password(Some("secret")).unwrap();
        let mut conn = diesel_async::AsyncMysqlConnection::establish(url.as_str()).await.unwrap();
        begin(&mut conn).await;
        let failed = handle(&mut conn, key("a"), async |_| Err::<(), Failure>("closed".into())).await;
        assert_eq!(failed.unwrap_err().to_string(), "closed");
        handle(&mut conn, key("a"), async |conn| work(conn, "a").await).await.unwrap().done().unwrap();
        assert_eq!(note_many(&mut conn, [key("a"), key("b")]).await.unwrap(), [false, true]);
        commit(&mut conn).await;
        assert_eq!(effects(&mut conn).await, ["a"]);
        owner.query_drop(format!("DROP USER {user}")).await.unwrap();
    }

    /// Otherwise each row that is read would be locked.
    #[tokio::test]
    async fn old_ones_are_found_by_their_primary_keys() {
        use crate::publish::Dialect;
        use crate::store::inbox::{Answer, NoteMany};
        use mysql_async::prelude::Queryable;

        let inbox = MysqlInbox::new().await;
        let mut conn = inbox.connect().await;
        begin(&mut conn).await;
        note_many(&mut conn, (0..2_000).map(|n| key(&format!("{n:04}")))).await.unwrap();
        commit(&mut conn).await;
        let keys = ["0001", "0002", "new"].map(|id| key(id).into_note().unwrap());
        let mut many = NoteMany::new(Dialect::Mysql, keys.to_vec());
        for count in [0, 1, 0] {
            many.received(Ok::<_, ()>(Answer::Count(count)), |()| false).unwrap();
        }
        let find = many.next().unwrap();
        assert!(find.sql.starts_with("SELECT"), "{}", find.sql);
        let mut observer = inbox.0.connect().await;
        let plan: Vec<mysql_async::Row> =
            observer.exec(format!("EXPLAIN /*!80017 FORMAT=TRADITIONAL */ {}", find.sql), find.params).await.unwrap();
        let of_table = plan.iter().find(|row| row.get::<Option<String>, _>("table").flatten().as_deref() == Some("i"));
        let of_table = of_table.unwrap_or_else(|| panic!("{plan:?}"));
        let (access, index): (String, String) = (of_table.get("type").unwrap(), of_table.get("key").unwrap());
        assert_eq!((access.as_str(), index.as_str()), ("eq_ref", "PRIMARY"));
    }

    #[tokio::test]
    async fn two_batches_that_overlap_do_not_wait_for_each_other_in_a_circle() {
        let inbox = MysqlInbox::new().await;
        let all: Vec<_> = (0..600).map(|n| key(&format!("{n:04}"))).collect();
        let backwards: Vec<_> = all.iter().rev().cloned().collect();
        for _ in 0..10 {
            let (mut first, mut second) = (inbox.connect().await, inbox.connect().await);
            let note = async |conn: &mut diesel_async::AsyncMysqlConnection, keys: &[InboxKey]| {
                begin(conn).await;
                let new = note_many(conn, keys).await.unwrap();
                commit(conn).await;
                new.into_iter().filter(|is_new| *is_new).count()
            };
            let (one, other) = tokio::join!(note(&mut first, &all[..400]), note(&mut second, &backwards[..400]));
            assert_eq!(one + other, 600);
            execute(&mut first, "DELETE FROM outbox_inbox").await;
        }
    }
}

/// SQLite has one writer: a transaction that reads before it notes may be refused, one that begins by writing waits.
#[tokio::test]
async fn on_sqlite_the_second_waits_for_the_file() {
    let inbox = SqliteInbox::new().await;
    let mut first = inbox.connect().await;
    begin(&mut first).await;
    handle(&mut first, key("a"), async |conn| work(conn, "first").await).await.unwrap().done().unwrap();
    let mut second = inbox.connect_blocking();
    let waiting = tokio::task::spawn_blocking(move || {
        second.transaction(|conn| {
            super::super::blocking::handle(conn, key("a"), |conn| {
                conn.batch_execute("INSERT INTO effects VALUES ('second')")
            })
        })
    });
    commit(&mut first).await;
    assert_eq!(waiting.await.unwrap(), Ok::<_, DieselError>(Handled::Skipped));
    assert_eq!(effects(&mut first).await, ["first"]);
}
