//! What the inbox does with every driver, diesel first.

use actix_outbox::inbox::{Handled, InboxKey};

use crate::database::{Kind, TestDatabase};
use crate::doors::inbox::{CLOSED, InboxDoor, Work};

const EFFECT: Work = Work::Execute("INSERT INTO effects VALUES ('a')");

fn key(event_id: &str) -> InboxKey {
    InboxKey::new("mailer", "tests", event_id)
}

/// A database with an inbox, no outbox, and the table of the work's effects.
async fn database(kind: Kind) -> TestDatabase {
    let database = TestDatabase::empty(kind).await;
    let table = match kind {
        Kind::Postgres => include_str!("../../../migrations/postgres/inbox.sql"),
        Kind::Sqlite => include_str!("../../../migrations/sqlite/inbox.sql"),
        Kind::Mysql => &include_str!("../../../migrations/mysql/inbox.sql")
            .replace("{exact}", "/*M! utf8mb4_nopad_bin */ /*!80017 utf8mb4_0900_bin */"),
    };
    database.execute(table).await;
    database.execute("CREATE TABLE effects (text varchar(9))").await;
    database
}

async fn an_event_is_handled_once_and_its_replay_again<D: InboxDoor>(kind: Kind) {
    let database = database(kind).await;
    let mut door = D::connect(&database).await;
    assert_eq!(door.handle(key("a"), EFFECT).await.unwrap(), Handled::Done(()));
    assert_eq!(door.handle(key("a"), EFFECT).await.unwrap(), Handled::Skipped);
    for other in [key("a").seq(7), InboxKey::new("biller", "tests", "a"), key("a "), key("A")] {
        assert_eq!(door.handle(other, EFFECT).await.unwrap(), Handled::Done(()));
    }
    assert_eq!(database.texts("SELECT text FROM effects").await.len(), 5);
    let noted = match kind {
        Kind::Mysql => "SELECT CONCAT_WS(' ', consumer, source, event_id, seq) FROM outbox_inbox",
        _ => "SELECT consumer || ' ' || source || ' ' || event_id || ' ' || seq FROM outbox_inbox",
    };
    let mut noted = database.texts(noted).await;
    noted.sort();
    let expected =
        ["biller tests a 0", "mailer tests A 0", "mailer tests a  0", "mailer tests a 0", "mailer tests a 7"];
    assert_eq!(noted, expected);
}

async fn work_that_fails_leaves_no_note_even_if_it_is_committed<D: InboxDoor>(kind: Kind) {
    let database = database(kind).await;
    let mut door = D::connect(&database).await;
    let failed = door.handle(key("a"), Work::Fail).await.unwrap_err();
    assert_eq!(failed.to_string(), CLOSED);
    // On PostgreSQL the database refuses to commit this.
    assert!(door.handle(key("a"), Work::Execute("INSERT INTO missing VALUES (1)")).await.is_err());
    assert_eq!(door.handle(key("a"), EFFECT).await.unwrap(), Handled::Done(()));
}

async fn many_are_noted_together<D: InboxDoor>(kind: Kind) {
    let database = database(kind).await;
    let mut door = D::connect(&database).await;
    assert!(door.note_many(Vec::new()).await.unwrap().is_empty());
    let hard = "{\"é\\', NULL}";
    assert_eq!(door.note_many(vec![key("b"), key(hard), key("b")]).await.unwrap(), [true, true, false]);
    assert_eq!(door.note_many(vec![key("c"), key(hard), key("a")]).await.unwrap(), [true, false, true]);
    let mut is_new = vec![true; 100];
    is_new[40] = false;
    door.note_many(vec![key("n40")]).await.unwrap();
    let many = (0..100).map(|n| key(&format!("n{n}"))).collect();
    assert_eq!(door.note_many(many).await.unwrap(), is_new);
    assert_eq!(door.handle(key("c"), EFFECT).await.unwrap(), Handled::Skipped);
}

async fn a_key_beyond_its_limits_is_refused<D: InboxDoor>(kind: Kind) {
    let database = database(kind).await;
    let mut door = D::connect(&database).await;
    let refused = door.handle(key(&"é".repeat(256)), EFFECT).await.unwrap_err();
    assert!(refused.to_string().contains("`event_id`"), "{refused}");
    let refused = door.note_many(vec![key("a"), key("a\0")]).await.unwrap_err();
    assert!(refused.to_string().contains("NUL"), "{refused}");
    assert_eq!(door.note_many(vec![key("a"), key(&"é".repeat(255))]).await.unwrap(), [true, true]);
}

macro_rules! inbox {
    ($kind:ident: $($name:ident $door:ident),* => $tests:tt) => {
        $(
            mod $name {
                use super::*;
                use crate::doors::$door;

                inbox!(@ $kind $door $tests);
            }
        )*
    };
    (@ $kind:ident $door:ident [$($test:ident),* $(,)?]) => {
        $(
            #[tokio::test]
            async fn $test() {
                super::$test::<$door>(Kind::$kind).await;
            }
        )*
    };
}

inbox!(Postgres: diesel_postgres DieselPostgres, tokio_postgres TokioPostgres, sqlx_0_8_postgres Sqlx8Postgres,
    sqlx_0_9_postgres Sqlx9Postgres, sea_orm_1_postgres SeaOrm1, sea_orm_2_postgres SeaOrm2 => [
    an_event_is_handled_once_and_its_replay_again,
    work_that_fails_leaves_no_note_even_if_it_is_committed,
    many_are_noted_together,
    a_key_beyond_its_limits_is_refused,
]);

// As MariaDB has it.
inbox!(Mysql: diesel_mysql DieselMysql, sqlx_0_8_mysql Sqlx8Mysql, sqlx_0_9_mysql Sqlx9Mysql, sea_orm_1_mysql SeaOrm1,
    sea_orm_2_mysql SeaOrm2 => [
    an_event_is_handled_once_and_its_replay_again,
    work_that_fails_leaves_no_note_even_if_it_is_committed,
    many_are_noted_together,
    a_key_beyond_its_limits_is_refused,
]);

inbox!(Sqlite: diesel_sqlite DieselSqlite, rusqlite Rusqlite, sqlx_0_8_sqlite Sqlx8Sqlite,
    sqlx_0_9_sqlite Sqlx9Sqlite, sea_orm_1_sqlite SeaOrm1, sea_orm_2_sqlite SeaOrm2 => [
    an_event_is_handled_once_and_its_replay_again,
    work_that_fails_leaves_no_note_even_if_it_is_committed,
    many_are_noted_together,
    a_key_beyond_its_limits_is_refused,
]);
