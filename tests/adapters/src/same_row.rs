//! Each door writes the row that diesel writes, byte for byte.

use uuid::Uuid;

use crate::database::{Kind, TestDatabase};
use crate::doors::{
    DieselMysql, DieselPostgres, DieselSqlite, Door, MysqlAsync, Rusqlite, SeaOrm1, SeaOrm2, Sqlx8Mysql, Sqlx8Postgres,
    Sqlx8Sqlite, Sqlx9Mysql, Sqlx9Postgres, Sqlx9Sqlite, TokioPostgres,
};
use crate::random_events::{Given, random_events};

const EVENTS: usize = 60;

/// Each event alone, and all of them together, with new ids and with ids of the caller's.
async fn compare<D: Door>(database: &TestDatabase, given: &[Given], expected: &[String]) {
    let mut door = D::connect(database).await;
    let many = door.publish_many(given.iter().map(Given::event).collect()).await.unwrap();
    let chosen = door.publish_many(given.iter().map(|given| given.event().id(Uuid::now_v7())).collect()).await.unwrap();
    for ((given, expected), (id, chosen)) in given.iter().zip(expected).zip(many.into_iter().zip(chosen)) {
        let is_scheduled = given.scheduled_at.is_some();
        let alone = door.publish(given.event()).await.unwrap();
        let name = std::any::type_name::<D>();
        assert_eq!(&database.row(alone, is_scheduled).await, expected, "{name}, alone: {given:?}");
        assert_eq!(&database.row(id, is_scheduled).await, expected, "{name}, in a batch: {given:?}");
        assert_eq!(&database.row(chosen, is_scheduled).await, expected, "{name}, with an id: {given:?}");
    }
}

async fn reference<D: Door>(database: &TestDatabase, given: &[Given]) -> Vec<String> {
    let mut door = D::connect(database).await;
    let mut rows = Vec::new();
    for given in given {
        let id = door.publish(given.event()).await.unwrap();
        rows.push(database.row(id, given.scheduled_at.is_some()).await);
    }
    rows
}

#[tokio::test]
async fn on_postgres_each_door_writes_the_row_that_diesel_writes() {
    let database = TestDatabase::migrated(Kind::Postgres).await;
    let given = random_events(EVENTS);
    let expected = reference::<DieselPostgres>(&database, &given).await;
    compare::<TokioPostgres>(&database, &given, &expected).await;
    compare::<Sqlx8Postgres>(&database, &given, &expected).await;
    compare::<Sqlx9Postgres>(&database, &given, &expected).await;
    compare::<SeaOrm1>(&database, &given, &expected).await;
    compare::<SeaOrm2>(&database, &given, &expected).await;
}

#[tokio::test]
async fn on_sqlite_each_door_writes_the_row_that_diesel_writes() {
    let database = TestDatabase::migrated(Kind::Sqlite).await;
    let given = random_events(EVENTS);
    let expected = reference::<DieselSqlite>(&database, &given).await;
    compare::<Rusqlite>(&database, &given, &expected).await;
    compare::<Sqlx8Sqlite>(&database, &given, &expected).await;
    compare::<Sqlx9Sqlite>(&database, &given, &expected).await;
    compare::<SeaOrm1>(&database, &given, &expected).await;
    compare::<SeaOrm2>(&database, &given, &expected).await;
}

#[tokio::test]
async fn on_mysql_each_door_writes_the_row_that_diesel_writes() {
    let database = TestDatabase::migrated(Kind::Mysql).await;
    let given = random_events(EVENTS);
    let expected = reference::<DieselMysql>(&database, &given).await;
    compare::<MysqlAsync>(&database, &given, &expected).await;
    compare::<Sqlx8Mysql>(&database, &given, &expected).await;
    compare::<Sqlx9Mysql>(&database, &given, &expected).await;
    compare::<SeaOrm1>(&database, &given, &expected).await;
    compare::<SeaOrm2>(&database, &given, &expected).await;
}
