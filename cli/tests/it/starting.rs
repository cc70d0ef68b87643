//! Starting a system: without actix, and with a database that is not there yet or never will be.

use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use actix_outbox::{
    Builder, EventTypes, HandleEvent, HandlerError, OutboxSystem, Secret, Settings, SettingsError, StoreError,
    Subscribe, SystemError,
};

use crate::actors::{Log, Reply, Scripted, event};
use crate::support::postgres;
use crate::support::tls::Identity;
use crate::support::{PATIENCE, eventually};
use crate::test_outbox::TestOutbox;

/// A handler that notes what it receives, and its end.
struct Noting(Log);

impl Actor for Noting {
    type Context = Context<Self>;
}

impl Handler<HandleEvent> for Noting {
    type Result = Result<(), HandlerError>;

    fn handle(&mut self, message: HandleEvent, _: &mut Self::Context) -> Self::Result {
        self.0.add(&message.event.subject);
        Ok(())
    }
}

impl Drop for Noting {
    fn drop(&mut self) {
        self.0.add("ended");
    }
}

fn on(url: &str) -> Builder {
    OutboxSystem::builder(Settings::from_toml(&format!("database.url = \"{url}\"")).unwrap()).publish_only(true)
}

/// Why it does not start, within the tests' patience.
async fn refused(builder: Builder) -> SystemError {
    let started = tokio::time::timeout(PATIENCE, builder.start()).await.expect("it waits");
    started.expect_err("it starts")
}

#[tokio::test]
async fn without_an_actix_system_the_error_says_what_to_call() {
    let test = TestOutbox::new().await;
    let error = refused(on(test.url())).await;
    assert!(matches!(error, SystemError::NoActixSystem), "{error:?}");
    assert!(error.to_string().contains("start_on_thread"), "{error}");
}

#[tokio::test]
async fn on_a_thread_of_its_own_it_runs_under_any_runtime_and_ends_with_its_shutdown() {
    let test = TestOutbox::new().await;
    let log = Log::default();
    let tables = "[publishers.default]\nbackend = \"local\"\n";
    let noting = log.clone();
    let outbox = OutboxSystem::builder(test.system_settings(tables))
        .subscribe_with(move |_| {
            // On an arbiter of its own, whose thread has to end as well.
            let actor = Noting::start_in_arbiter(&Arbiter::new().handle(), |_| Noting(noting));
            Subscribe::new("noting", EventTypes::All, actor.recipient())
        })
        .start_on_thread()
        .await
        .unwrap();
    outbox.send(event("1")).await.unwrap();
    outbox.drained().await;
    assert!(outbox.health().await.unwrap().is_ok());
    assert_eq!(log.lines(), ["1"]);
    outbox.shutdown().await.unwrap();
    eventually("its threads have ended", PATIENCE, async || log.lines() == ["1", "ended"]).await;
    assert!(matches!(outbox.shutdown().await, Err(SystemError::Stopped)));
}

#[tokio::test]
async fn a_start_on_a_thread_that_nobody_waits_for_is_given_up() {
    let held = Arc::new(());
    let holds = Arc::clone(&held);
    let builder = on("postgres://outbox@127.0.0.1:1/app").backend("mine", move |_| {
        let _ = &holds;
        Ok(Scripted::new(|_| Reply::Accept))
    });
    let start = tokio::spawn(builder.start_on_thread());
    eventually("it waits", PATIENCE, async || Arc::strong_count(&held) == 2 && !start.is_finished()).await;
    start.abort();
    eventually("its thread has ended", PATIENCE, async || Arc::strong_count(&held) == 1).await;
}

#[actix::test]
async fn what_waiting_does_not_change_is_an_error_at_once() {
    let mut server = postgres::Server::start();
    server.ask_for_the_password_of("ann");
    let admin = postgres::connect(&server.url("postgres")).await;
    admin.batch_execute("CREATE DATABASE closed").await.unwrap();
    admin.batch_execute("CREATE ROLE ann LOGIN PASSWORD 'right'").await.unwrap();
    admin.batch_execute("REVOKE CONNECT ON DATABASE closed FROM PUBLIC; CREATE ROLE eve LOGIN").await.unwrap();
    let port = server.port();
    for (url, part) in [
        (format!("postgres://outbox@127.0.0.1:{port}/none"), "\"none\" does not exist"),
        (format!("postgres://bob@127.0.0.1:{port}/postgres"), "\"bob\" does not exist"),
        (format!("postgres://ann:wr0ng@127.0.0.1:{port}/postgres"), "password authentication failed"),
        (format!("postgres://eve@127.0.0.1:{port}/closed"), "permission denied for database"),
    ] {
        let error = refused(on(&url)).await;
        assert!(matches!(error, SystemError::Store(StoreError::NoAccess { .. })), "{url}: {error:?}");
        assert!(error.to_string().contains(part) && !error.to_string().contains("wr0ng"), "{error}");
    }
    let error = refused(OutboxSystem::builder(Settings::default())).await;
    let is_missing =
        matches!(&error, SystemError::Settings(SettingsError::Missing { key, .. }) if key == "database.url");
    assert!(is_missing, "{error:?}");
}

#[actix::test]
async fn a_certificate_of_somebody_else_is_an_error_at_once() {
    let mut server = postgres::Server::start();
    let folders = [tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap()];
    let [own, other] = folders.each_ref().map(|folder| Identity::write(folder.path()));
    server.secure(&own);
    let url = format!(
        "postgres://outbox@127.0.0.1:{}/postgres?sslmode=verify-full&sslrootcert={}",
        server.port(),
        other.authority.display()
    );
    let error = refused(on(&url)).await;
    assert!(matches!(error, SystemError::Store(StoreError::NoAccess { .. })), "{error:?}");
}

#[actix::test]
async fn a_password_that_is_read_at_each_connect_may_still_become_right() {
    let mut server = postgres::Server::start();
    server.ask_for_the_password_of("ann");
    let database = server.database().await;
    let admin = database.connect().await;
    admin.batch_execute("CREATE ROLE ann SUPERUSER LOGIN PASSWORD 'right'").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("password");
    std::fs::write(&file, "wrong").unwrap();
    let url = format!("postgres://ann@127.0.0.1:{}/{}", server.port(), database.name);
    let builder = || {
        let mut settings = Settings::from_toml(&format!("database.url = \"{url}\"")).unwrap();
        settings.database.password = Some(Secret::from_file(&file));
        OutboxSystem::builder(settings).publish_only(true).migrate(true)
    };
    let error = refused(builder().start_within(Duration::from_millis(500))).await;
    let SystemError::StartTimeout { error: StoreError::Unreachable { .. }, .. } = &error else { panic!("{error:?}") };
    assert!(error.to_string().contains("password authentication failed"), "{error}");

    let starting = actix::spawn(builder().start());
    std::fs::write(&file, "right").unwrap();
    starting.await.unwrap().unwrap().shutdown().await.unwrap();
}

#[actix::test]
async fn what_may_mend_is_waited_for_within_the_limit() {
    let mut server = postgres::Server::start();
    let database = server.database().await;
    server.stop(postgres::Stop::Fast);
    let limit = Duration::from_millis(300);
    let error = refused(on(&database.url).start_within(limit)).await;
    let SystemError::StartTimeout { error: StoreError::Unreachable { .. }, .. } = &error else { panic!("{error:?}") };
    assert!(error.to_string().contains("did not start within 300ms: cannot reach the database"), "{error}");

    let starting = actix::spawn(on(&database.url).migrate(true).start_within(PATIENCE).start());
    server.start_again();
    starting.await.unwrap().unwrap().shutdown().await.unwrap();
}
