//! Databases as they are: other encodings, other defaults.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use tokio_postgres::error::SqlState;

use crate::support::pooler::Pooler;
use crate::support::postgres::{self, Server};
use crate::support::process::Running;
use crate::support::{PATIENCE, eventually, redis};
use crate::test_outbox::TestOutbox;

#[tokio::test]
async fn a_database_of_another_encoding_is_refused_by_name() {
    let server = Server::start();
    for encoding in ["LATIN1", "SQL_ASCII"] {
        let sql = server.database().await.connect().await;
        let name = format!("encoded_{}", encoding.to_lowercase());
        let create =
            format!("CREATE DATABASE {name} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0");
        sql.batch_execute(&create).await.unwrap();
        let test = TestOutbox::unmigrated(server.database().await, redis::url());
        let mut url = url::Url::parse(test.url()).unwrap();
        url.set_path(&name);
        let refused = async |command: &str| {
            let mut command = test.outbox(&test.settings().write(), &[command]);
            let mut program = Running::spawn(command.env("DATABASE_URL", url.as_str()));
            let status = program.wait_exit(PATIENCE).await;
            let said = [program.stdout(), program.stderr()].concat();
            assert!(status.code() == Some(1) && said.contains(&format!("its encoding is {encoding}")), "{said}");
        };
        refused("migrate").await;

        // As if an earlier version had migrated it.
        let set = |encoding: &str| {
            format!("UPDATE pg_database SET encoding = pg_char_to_encoding('{encoding}') WHERE datname = '{name}'")
        };
        sql.batch_execute(&set("UTF8")).await.unwrap();
        let mut migrate = test.outbox(&test.settings().write(), &["migrate"]);
        assert!(migrate.env("DATABASE_URL", url.as_str()).output().unwrap().status.success());
        sql.batch_execute(&set(encoding)).await.unwrap();
        refused("health").await;
        refused("worker").await;
    }
}

const SERIALIZABLE: &str = "serializable";

/// Writers are in pairs, and each makes this many transactions.
const PAIRS: usize = 4;
const TRANSACTIONS: usize = 400;

async fn serializable() -> TestOutbox {
    let test = TestOutbox::on(postgres::database().await, redis::url()).await;
    let account =
        |pair| format!("CREATE TABLE account_{pair} (balance int NOT NULL); INSERT INTO account_{pair} VALUES (0);");
    let accounts: String = (0..PAIRS).map(account).collect();
    let set = format!(
        "ALTER ROLE current_user IN DATABASE {} SET default_transaction_isolation = '{SERIALIZABLE}'; \
         {accounts}",
        test.database().name
    );
    test.sql().await.batch_execute(&set).await.unwrap();
    test
}

/// Counts the transactions of these writers that fail because they cannot be serialized. In each pair one reads what the
/// other changes, which is harmless unless a third transaction reads the events of the first.
async fn count_aborts(test: &TestOutbox) -> usize {
    let aborts = Arc::new(AtomicUsize::new(0));
    let writers = (0..2 * PAIRS).map(|number| {
        let (url, aborts) = (test.url().to_owned(), Arc::clone(&aborts));
        tokio::spawn(async move {
            let sql = postgres::connect(&url).await;
            let account = number / 2;
            let work = match number % 2 {
                0 => format!("SELECT balance FROM account_{account}"),
                _ => format!("UPDATE account_{account} SET balance = balance + 1"),
            };
            for _ in 0..TRANSACTIONS {
                let transaction = format!(
                    "BEGIN; {work}; INSERT INTO outbox_events (id, event_type, source, partition_key) \
                        VALUES (gen_random_uuid(), 'thing.happened', 'tests', 'key-{number}'); SELECT pg_sleep(0.002); COMMIT"
                );
                if let Err(error) = sql.batch_execute(&transaction).await {
                    assert_eq!(error.code(), Some(&SqlState::T_R_SERIALIZATION_FAILURE), "{error}");
                    sql.batch_execute("ROLLBACK").await.unwrap();
                    aborts.fetch_add(1, Ordering::Relaxed);
                }
            }
        })
    });
    for writer in writers.collect::<Vec<_>>() {
        writer.await.unwrap();
    }
    aborts.load(Ordering::Relaxed)
}

#[tokio::test]
async fn writers_that_are_serializable_by_default_abort_no_more_often_with_a_worker() {
    let test = serializable().await;
    let alone = count_aborts(&test).await;
    let settings = test.settings().worker("poll_interval = \"5ms\"").write();
    let worker = test.worker(&settings, "worker");
    test.wait_owners(&["worker"]).await;
    let with_worker = count_aborts(&test).await;
    test.wait_published().await;
    test.assert_delivered().await;
    println!("of {} transactions failed: {alone} without a worker, {with_worker} with one", 2 * PAIRS * TRANSACTIONS);
    assert!(with_worker <= alone + 2, "{with_worker} transactions failed, and {alone} without a worker");
    assert!(!worker.stderr().contains("not READ COMMITTED"), "{}", worker.stderr());
}

#[tokio::test]
async fn a_worker_whose_level_cannot_be_set_says_so_and_delivers() {
    let test = serializable().await;
    let server = url::Url::parse(test.url()).unwrap().port().unwrap();
    let pooler = Pooler::without_options(server).await;
    let mut through = url::Url::parse(test.url()).unwrap();
    through.set_port(Some(pooler.port())).unwrap();
    let settings = test.settings().worker("poll_interval = \"5ms\"").write();
    let mut command = test.outbox(&settings, &["worker"]);
    let worker = Running::spawn(command.env("DATABASE_URL", through.as_str()));
    eventually("it says so", PATIENCE, async || worker.stderr().contains("not READ COMMITTED")).await;
    let with_worker = count_aborts(&test).await;
    test.wait_published().await;
    test.assert_delivered().await;
    println!("of {} transactions failed with a serializable worker: {with_worker}", 2 * PAIRS * TRANSACTIONS);
    assert_eq!(worker.stderr().matches("not READ COMMITTED").count(), 1);
}
