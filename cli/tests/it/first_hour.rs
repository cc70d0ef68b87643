//! What an application needs in its first hour: typed events, handlers that come and go, connections, blocking threads.

use actix::prelude::*;
use actix_outbox::{
    Builder, EventTypes, HandleTyped, HandlerError, NewEvent, Outbox, OutboxSystem, PublishError, Subscribe, TypedEvent,
};
use diesel::SqliteConnection;
use diesel::sql_types::Text;
use diesel_async::sync_connection_wrapper::SyncConnectionWrapper;
use diesel_async::{AsyncPgConnection, RunQueryDsl};
use serde::{Deserialize, Serialize};

use crate::actors::{Log, QUICK_RETRIES, answer, event, handler, wait_status};
use crate::support::{PATIENCE, eventually};
use crate::test_outbox::TestOutbox;

const SHORT_LEASE: &str = "lease = \"1s\"\n";

#[derive(Serialize, Deserialize)]
struct UserCreated {
    name: String,
    age: u32,
}

impl TypedEvent for UserCreated {
    const TYPE: &'static str = "user.created";
}

struct Mailer(Log);

impl Actor for Mailer {
    type Context = Context<Self>;
}

impl Handler<HandleTyped<UserCreated>> for Mailer {
    type Result = Result<(), HandlerError>;

    fn handle(&mut self, message: HandleTyped<UserCreated>, _: &mut Self::Context) -> Self::Result {
        self.0.add(format!("{} {}", message.data.name, message.event.subject));
        Ok(())
    }
}

async fn start(test: &TestOutbox, publish_only: bool, handlers: impl IntoIterator<Item = Subscribe>) -> Outbox {
    let tables = format!("[publishers.default]\n{}[worker]\n{QUICK_RETRIES}{SHORT_LEASE}", test.stream());
    let builder = OutboxSystem::builder(test.system_settings(&tables)).publish_only(publish_only);
    handlers.into_iter().fold(builder, Builder::subscribe).start().await.unwrap()
}

fn recorder(name: &'static str, log: &Log) -> Subscribe {
    let log = log.clone();
    handler(name, EventTypes::All, move |event| {
        log.add(format!("{name} {}", event.subject));
        answer(Ok(()))
    })
}

/// The delivering process has the handler, or another one has it.
async fn typed_events_reach_their_handler(in_another_process: bool) {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let subscription = || Subscribe::typed::<UserCreated>("mailer", Mailer(log.clone()).start().recipient());
    let service = start(&test, false, (!in_another_process).then(subscription)).await;
    let application = match in_another_process {
        true => Some(start(&test, true, [subscription()]).await),
        false => None,
    };
    let ada = UserCreated { name: "Ada".to_owned(), age: 36 };
    service.send(NewEvent::typed("tests", &ada).subject("good").max_retries(5)).await.unwrap();
    let broken = NewEvent::new("user.created", "tests").data(serde_json::json!({"name": "Eve", "age": "SECRET"}));
    service.send(broken.subject("bad").max_retries(5)).await.unwrap();
    wait_status(&test.sql().await, "good", "published").await;
    let failed = wait_status(&test.sql().await, "bad", "failed").await;
    assert_eq!(log.lines(), ["Ada good"]);
    assert!(failed.last_error.contains("event field `data.age` does not fit: expected u32"), "{failed:?}");
    assert!(!failed.last_error.contains("SECRET"), "{failed:?}");
    for outbox in application.into_iter().chain([service]) {
        outbox.shutdown().await.unwrap();
    }
}

#[actix::test]
async fn a_handler_gets_its_own_type_and_what_does_not_fit_fails_with_the_field() {
    typed_events_reach_their_handler(false).await;
}

#[actix::test]
async fn a_handler_in_another_process_gets_its_own_type_and_what_does_not_fit_fails_with_the_field() {
    typed_events_reach_their_handler(true).await;
}

#[actix::test]
async fn an_unsubscribed_handler_gets_nothing_and_is_owed_its_events_until_it_subscribes_again() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let outbox = start(&test, false, [recorder("mail", &log), recorder("audit", &log)]).await;
    outbox.send(event("1").partition_key("k")).await.unwrap();
    test.wait_published().await;

    assert!(outbox.unsubscribe("mail") && !outbox.unsubscribe("mail") && !outbox.unsubscribe("unknown"));
    outbox.send(event("2").partition_key("k")).await.unwrap();
    outbox.send(event("3").partition_key("k")).await.unwrap();
    wait_status(&test.sql().await, "3", "processing").await;
    let health = outbox.health().await.unwrap();
    assert!(health.is_ok() && health.handlers.keys().eq(["audit"]), "{health:?}");
    let owed = "SELECT count(*) FROM outbox_handler_deliveries WHERE handler = 'mail'";
    assert_eq!((test.number(owed).await, log.count("mail 2"), log.count("audit 3")), (2, 0, 1));

    // In another process, then here again.
    let application = start(&test, true, [recorder("mail", &log)]).await;
    test.wait_published().await;
    application.shutdown().await.unwrap();
    outbox.subscribe(recorder("mail", &log)).await.unwrap();
    outbox.send(event("4").partition_key("k")).await.unwrap();
    test.wait_published().await;
    assert_eq!(log.of("mail "), ["mail 1", "mail 2", "mail 3", "mail 4"]);
    outbox.shutdown().await.unwrap();
}

#[actix::test]
async fn a_handler_that_comes_and_goes_gets_every_event_once_and_a_keys_in_order() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let outbox = start(&test, false, [recorder("mail", &log)]).await;
    let mut sent = 0;
    for _ in 0..6 {
        for _ in 0..10 {
            outbox.send(event(&sent.to_string()).partition_key(format!("key-{}", sent % 2))).await.unwrap();
            sent += 1;
        }
        match sent % 20 {
            0 => outbox.subscribe(recorder("mail", &log)).await.unwrap(),
            _ => assert!(outbox.unsubscribe("mail")),
        }
    }
    test.wait_published().await;
    let handled: Vec<usize> = log.lines().iter().map(|line| line["mail ".len()..].parse().unwrap()).collect();
    for key in 0..2 {
        let of_key: Vec<usize> = handled.iter().copied().filter(|n| n % 2 == key).collect();
        assert_eq!(of_key, (0..sent).filter(|n| n % 2 == key).collect::<Vec<_>>());
    }
    outbox.shutdown().await.unwrap();
}

#[actix::test]
async fn an_unsubscribed_handler_can_be_dropped_and_is_owed_nothing_then() {
    let (test, log) = (TestOutbox::new().await, Log::default());
    let outbox = start(&test, false, [recorder("mail", &log), recorder("audit", &log)]).await;
    let tables = format!("[publishers.default]\n{}", test.stream());
    let admin = actix_outbox::OutboxAdmin::new(&test.system_settings(&tables)).unwrap();
    assert!(outbox.unsubscribe("mail"));
    eventually("it is not alive", PATIENCE, async || admin.drop_handler("mail").await.is_ok()).await;
    for subject in ["1", "2"] {
        outbox.send(event(subject).partition_key("k")).await.unwrap();
    }
    test.wait_published().await;
    assert_eq!(log.lines(), ["audit 1", "audit 2"]);
    outbox.shutdown().await.unwrap();
}

#[actix::test]
async fn an_unsubscribed_handlers_actor_can_stop() {
    struct Stops(Log);
    impl Actor for Stops {
        type Context = Context<Self>;
        fn stopped(&mut self, _: &mut Self::Context) {
            self.0.add("stopped".to_owned());
        }
    }
    impl Handler<actix_outbox::HandleEvent> for Stops {
        type Result = Result<(), HandlerError>;
        fn handle(&mut self, _: actix_outbox::HandleEvent, _: &mut Self::Context) -> Self::Result {
            Ok(())
        }
    }
    let (test, log) = (TestOutbox::new().await, Log::default());
    let stops = Subscribe::new("stops", EventTypes::All, Stops(log.clone()).start().recipient());
    let outbox = start(&test, false, [stops]).await;
    outbox.send(event("1")).await.unwrap();
    test.wait_published().await;
    assert!(outbox.unsubscribe("stops"));
    eventually("nothing holds its address", PATIENCE, async || log.count("stopped") == 1).await;
    outbox.shutdown().await.unwrap();
}

#[derive(diesel::QueryableByName)]
struct SearchPath {
    #[diesel(sql_type = Text)]
    search_path: String,
}

#[actix::test]
async fn a_pool_of_the_outbox_leads_to_its_database_and_its_schema() {
    let test = TestOutbox::new().await;
    let tables = format!("[publishers.default]\n{}", test.stream());
    let mut settings = test.system_settings(&tables);
    settings.database.schema = Some("events of \"mine\"".to_owned());
    let outbox = OutboxSystem::builder(settings).migrate(true).start().await.unwrap();
    let elsewhere = outbox.connection::<AsyncPgConnection>().await.err().unwrap().to_string();
    assert!(elsewhere.contains("leads to the outbox of another schema"), "{elsewhere}");
    test.sql().await.batch_execute("DROP SCHEMA public CASCADE; CREATE SCHEMA public").await.unwrap();

    let pool = outbox.pool::<AsyncPgConnection>(2).unwrap();
    let mut conn = pool.get().await.unwrap();
    let path: SearchPath =
        diesel::sql_query("SELECT current_setting('search_path') AS search_path").get_result(&mut conn).await.unwrap();
    assert_eq!(path.search_path, "\"$user\", public, \"events of \"\"mine\"\"\"");
    let stored = outbox
        .transaction(&mut conn, async |conn| {
            diesel::sql_query("CREATE TABLE users (name text)").execute(conn).await?;
            Ok(actix_outbox::publish(conn, event("1")).await?)
        })
        .await
        .unwrap();
    assert!(stored.seq > 0);
    outbox.drained().await;
    let published = "SELECT count(*) FROM \"events of \"\"mine\"\"\".outbox_events WHERE status = 'published'";
    assert_eq!(test.number(published).await, 1);
    assert_eq!(test.number("SELECT count(*) FROM public.users").await, 0);
    drop(outbox.connection::<AsyncPgConnection>().await.unwrap());

    let other = outbox.pool::<SyncConnectionWrapper<SqliteConnection>>(1).err().unwrap();
    assert!(other.to_string().contains("is not SQLite"), "{other}");
    outbox.shutdown().await.unwrap();
}

#[actix::test]
async fn a_pool_of_the_outbox_reads_a_secret_again_for_each_connection() {
    let test = TestOutbox::new().await;
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("url");
    std::fs::write(&file, test.url()).unwrap();
    let tables = format!("[publishers.default]\n{}", test.stream());
    let mut settings = test.system_settings(&tables);
    settings.database.url = actix_outbox::Secret::from_file(&file);
    let outbox = OutboxSystem::builder(settings).start().await.unwrap();
    std::fs::write(&file, test.url().replace("postgres://", "postgresql://")).unwrap();
    drop(outbox.connection::<AsyncPgConnection>().await.unwrap());
    std::fs::write(&file, "postgres://127.0.0.1:1/nowhere").unwrap();
    let error = outbox.connection::<AsyncPgConnection>().await.err().unwrap();
    assert!(error.is_transient(), "{error}");
    std::fs::write(&file, test.url()).unwrap();
    outbox.shutdown().await.unwrap();
}

#[actix::test]
async fn a_thread_without_a_runtime_sends_and_a_thread_of_actors_is_refused() {
    let test = TestOutbox::new().await;
    let outbox = start(&test, false, []).await;
    let refused = outbox.send_blocking(event("refused")).unwrap_err();
    assert!(matches!(refused, PublishError::WouldBlock), "{refused}");

    let sender = outbox.clone();
    let sent = std::thread::spawn(move || sender.send_blocking(event("thread")));
    eventually("the thread ends", PATIENCE, async || sent.is_finished()).await;
    assert_eq!(sent.join().unwrap().unwrap().subject, "thread");
    let sender = outbox.clone();
    let sent = tokio::task::spawn_blocking(move || sender.send_blocking(event("pool")));
    assert_eq!(sent.await.unwrap().unwrap().subject, "pool");
    let sender = outbox.clone();
    let sent = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(async move { sender.send_blocking(event("inside")) })
    });
    eventually("the thread ends", PATIENCE, async || sent.is_finished()).await;
    assert_eq!(sent.join().unwrap().unwrap().subject, "inside");

    outbox.shutdown().await.unwrap();
    let stopped = std::thread::spawn(move || outbox.send_blocking(event("late")));
    eventually("the thread ends", PATIENCE, async || stopped.is_finished()).await;
    assert!(matches!(stopped.join().unwrap(), Err(PublishError::Stopped)));
}
