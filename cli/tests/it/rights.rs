//! The database rights that docs/operations.md names are enough.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix::prelude::*;
use actix_outbox::{EventTypes, HandleEvent, HandlerError, NewEvent, OutboxSystem, Settings, Subscribe};

use crate::support::process::{Running, Signal};
use crate::support::{PATIENCE, eventually, postgres, redis};
use crate::test_outbox::TestOutbox;

const DOCUMENT: &str = include_str!("../../../docs/operations.md");

/// The statements of the chapter on rights: those for a worker, and those for an application that only publishes.
fn documented() -> [&'static str; 2] {
    let chapter = DOCUMENT.split("### Database rights").nth(1).unwrap();
    let mut blocks = chapter.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    [blocks.next().unwrap(), blocks.next().unwrap()]
}

/// Counts what it handles.
struct Counter(Arc<AtomicUsize>);

impl Actor for Counter {
    type Context = Context<Self>;
}

impl Handler<HandleEvent> for Counter {
    type Result = Result<(), HandlerError>;

    fn handle(&mut self, _: HandleEvent, _: &mut Self::Context) -> Self::Result {
        self.0.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }
}

#[actix::test]
async fn workers_handlers_and_writers_need_only_the_documented_rights() {
    let server = postgres::Server::start();
    let test = TestOutbox::on(server.database().await, redis::url()).await;
    let [worker_rights, writer_rights] = documented();
    let roles = format!("CREATE ROLE worker LOGIN; CREATE ROLE writer LOGIN; {worker_rights} {writer_rights}");
    test.sql().await.batch_execute(&roles).await.unwrap();
    let url_of = |role: &str| {
        let mut url = url::Url::parse(test.url()).unwrap();
        url.set_username(role).unwrap();
        url.to_string()
    };

    let settings = test.settings().worker("poll_interval = \"20ms\"").write();
    let mut command = test.outbox(&settings, &["worker", "--name", "worker"]);
    let mut worker = Running::spawn(command.env("DATABASE_URL", url_of("worker")));
    test.wait_owners(&["worker"]).await;
    let handled = Arc::new(AtomicUsize::new(0));
    let handler = Counter(Arc::clone(&handled)).start().recipient();
    let database_only = |role| Settings::from_toml(&format!("[database]\nurl = \"{}\"", url_of(role))).unwrap();
    let handlers = OutboxSystem::builder(database_only("worker"))
        .publish_only(true)
        .subscribe(Subscribe::new("counter", EventTypes::All, handler))
        .start()
        .await
        .unwrap();
    let writer = OutboxSystem::builder(database_only("writer")).publish_only(true).start().await.unwrap();
    for _ in 0..10 {
        writer.send(NewEvent::new("thing.happened", "tests")).await.unwrap();
    }
    test.wait_length(10).await;
    eventually("every event is handled", PATIENCE, async || handled.load(Ordering::SeqCst) == 10).await;
    test.wait_published().await;
    let cleaned = test.outbox(&settings, &["cleanup"]).env("DATABASE_URL", url_of("worker")).output().unwrap();
    assert!(cleaned.status.success(), "{}", String::from_utf8_lossy(&cleaned.stderr));

    let failed = test.sql().await.batch_execute("UPDATE outbox_events SET status = 'failed', retry_at = now()").await;
    failed.unwrap();
    let retry = ["events", "retry", "--status", "failed", "--yes"];
    let retried = test.outbox(&settings, &retry).env("DATABASE_URL", url_of("worker")).output().unwrap();
    assert!(retried.status.success(), "{}", String::from_utf8_lossy(&retried.stderr));
    assert_eq!(test.number("SELECT events FROM outbox_audit").await, 10);

    writer.shutdown().await.unwrap();
    handlers.shutdown().await.unwrap();
    worker.signal(Signal::TERM);
    assert!(worker.wait_exit(PATIENCE).await.success(), "{}", worker.stderr());
    assert!(!worker.stderr().contains("permission denied"), "{}", worker.stderr());
}
