//! The database rights and policies that docs/postgres.md names are enough, and a worker without them is told what it lacks.

use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix::prelude::*;
use actix_outbox::{EventTypes, HandleEvent, HandlerError, NewEvent, Outbox, OutboxSystem, Settings, Subscribe};

use crate::support::postgres::Server;
use crate::support::process::{Running, Signal};
use crate::support::{PATIENCE, eventually, postgres, redis};
use crate::test_outbox::TestOutbox;

const DOCUMENT: &str = include_str!("../../../docs/postgres.md");
const SCHEMA: &str = "OUTBOX__DATABASE__SCHEMA";
const ROLES: [&str; 5] = ["owner", "worker", "writer", "console", "reader"];

/// The blocks of SQL in a chapter.
pub(crate) fn statements<const BLOCKS: usize>(document: &'static str, chapter: &str) -> [&'static str; BLOCKS] {
    let chapter = document.split(&format!("\n## {chapter}\n")).nth(1).unwrap().split("\n## ").next().unwrap();
    let blocks = chapter.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.collect::<Vec<_>>().try_into().unwrap()
}

/// Of the chapter on roles: one block for each role, and the policies.
fn documented() -> [&'static str; 6] {
    statements(DOCUMENT, "Roles")
}

/// Counts what it handles.
pub(crate) struct Counter(pub(crate) Arc<AtomicUsize>);

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

/// An outbox in the schema `outbox`, and a role for each purpose.
struct Roles {
    test: TestOutbox,
    _server: Server,
}

impl Roles {
    /// With the documented rights, and nothing but them.
    async fn new() -> Self {
        let server = Server::start();
        let test = TestOutbox::unmigrated(server.database().await, redis::url());
        let [owner, rights @ .., _] = documented();
        let create: String = ROLES.iter().map(|role| format!("CREATE ROLE {role} LOGIN;")).collect();
        let path = format!("ALTER ROLE current_user IN DATABASE {} SET search_path = outbox", test.database().name);
        let tenant = "ALTER ROLE writer SET app.tenant = 'a'";
        test.sql().await.batch_execute(&format!("{create} {owner}; {path}; {tenant}")).await.unwrap();
        let roles = Self { test, _server: server };
        roles.run("owner", &["migrate"]).await;
        roles.execute("owner", &rights.concat()).await;
        roles
    }

    fn url(&self, role: &str) -> String {
        let mut url = url::Url::parse(self.test.url()).unwrap();
        url.set_username(role).unwrap();
        url.to_string()
    }

    async fn execute(&self, role: &str, sql: &str) {
        postgres::connect(&self.url(role)).await.batch_execute(sql).await.unwrap();
    }

    fn command(&self, role: &str, arguments: &[&str]) -> Command {
        let settings = self.test.settings().worker("poll_interval = \"20ms\"").write();
        let mut command = self.test.outbox(&settings, arguments);
        command.env("DATABASE_URL", self.url(role)).env(SCHEMA, "outbox");
        command
    }

    async fn run(&self, role: &str, arguments: &[&str]) {
        let (code, said) = self.end(role, arguments).await;
        assert_eq!(code, Some(0), "{role} {arguments:?}: {said}");
    }

    /// The exit code of a command that ends, and what it said.
    async fn end(&self, role: &str, arguments: &[&str]) -> (Option<i32>, String) {
        let mut program = Running::spawn(&mut self.command(role, arguments));
        let status = program.wait_exit(PATIENCE).await;
        (status.code(), [program.stdout(), program.stderr()].concat())
    }

    fn settings(&self, role: &str) -> Settings {
        let settings = format!("[database]\nurl = \"{}\"\nschema = \"outbox\"", self.url(role));
        Settings::from_toml(&settings).unwrap()
    }

    async fn writer(&self) -> Outbox {
        OutboxSystem::builder(self.settings("writer")).publish_only(true).start().await.unwrap()
    }
}

fn event(tenant: &str) -> NewEvent {
    NewEvent::new("thing.happened", "tests").extension("tenant", tenant)
}

async fn assert_enough(roles: &Roles) {
    let test = &roles.test;
    let mut worker = Running::spawn(&mut roles.command("worker", &["worker", "--name", "worker"]));
    test.wait_owners(&["worker"]).await;
    let handled = Arc::new(AtomicUsize::new(0));
    let handler = Counter(Arc::clone(&handled)).start().recipient();
    let handlers = OutboxSystem::builder(roles.settings("worker"))
        .publish_only(true)
        .subscribe(Subscribe::new("counter", EventTypes::All, handler))
        .start()
        .await
        .unwrap();
    let writer = roles.writer().await;
    for _ in 0..10 {
        writer.send(event("a")).await.unwrap();
    }
    test.wait_length(10).await;
    eventually("every event is handled", PATIENCE, async || handled.load(Ordering::SeqCst) == 10).await;
    test.wait_published().await;
    roles.run("worker", &["cleanup"]).await;
    writer.shutdown().await.unwrap();
    handlers.shutdown().await.unwrap();

    let id = test.event_ids().await.remove(0);
    for role in ["reader", "console", "worker"] {
        for command in [&["status", "--history"][..], &["health"], &["events", "list"]] {
            roles.run(role, command).await;
        }
        roles.run(role, &["events", "show", &id]).await;
        roles.run(role, &["events", "explain", &id]).await;
    }
    roles.run("console", &["events", "replay", &id]).await;
    test.wait_length(11).await;
    roles.run("console", &["handlers", "drop", "counter"]).await;
    test.wait_published().await;
    roles.run("console", &["backends", "pause", "default"]).await;
    roles.run("console", &["backends", "resume", "default"]).await;
    roles.run("console", &["events", "delete", &id]).await;
    worker.signal(Signal::TERM);
    assert!(worker.wait_exit(PATIENCE).await.success(), "{}", worker.stderr());
    assert!(!worker.stderr().contains("permission denied"), "{}", worker.stderr());

    let pending = writer_of_one(roles).await;
    roles.run("console", &["events", "fail", &pending, "--reason", "no"]).await;
    roles.run("console", &["events", "retry", &pending]).await;
    roles.run("console", &["events", "move", &pending, "--to", "elsewhere"]).await;
    let (code, said) = roles.end("reader", &["events", "fail", &pending, "--reason", "no"]).await;
    assert!(code == Some(1) && said.contains("permission denied"), "{said}");
}

/// The id of an event that no worker delivers.
async fn writer_of_one(roles: &Roles) -> String {
    let writer = roles.writer().await;
    let event = writer.send(event("a")).await.unwrap();
    writer.shutdown().await.unwrap();
    event.id.to_string()
}

#[actix::test]
async fn each_role_needs_only_the_documented_rights() {
    assert_enough(&Roles::new().await).await;
}

#[actix::test]
async fn each_role_needs_only_the_documented_policies_under_row_level_security() {
    let roles = Roles::new().await;
    let [.., policies] = documented();
    roles.execute("owner", policies).await;
    assert_enough(&roles).await;
    let writer = roles.writer().await;
    assert!(writer.send(event("b")).await.is_err(), "another tenant's event was written");
    writer.shutdown().await.unwrap();
}

#[tokio::test]
async fn row_level_security_that_hides_events_is_named() {
    let roles = Roles::new().await;
    let enable = "ALTER TABLE outbox.outbox_events ENABLE ROW LEVEL SECURITY";
    roles.execute("owner", enable).await;
    let policies = [
        "CREATE POLICY mine ON outbox.outbox_events TO worker USING (subject = 'mine')",
        "CREATE POLICY all_to_read ON outbox.outbox_events FOR SELECT TO worker USING (true)",
    ];
    let hidden = "row-level security may hide rows of outbox_events from this role";
    let refuses = async |role: &str, command: &str| {
        let (code, said) = roles.end(role, &[command]).await;
        assert!(code == Some(1) && said.contains(hidden), "{role} {command}: {said}");
    };
    refuses("worker", "worker").await;
    refuses("reader", "health").await;
    roles.run("owner", &["migrate"]).await;
    for policy in policies {
        roles.execute("owner", policy).await;
        refuses("worker", "worker").await;
    }
    // What it reads it sees whole.
    roles.run("worker", &["health"]).await;
    let all = "CREATE POLICY everything ON outbox.outbox_events TO worker USING (true) WITH CHECK (true)";
    roles.execute("owner", all).await;
    roles.run("worker", &["worker", "--until-empty"]).await;
    let restricts = "CREATE POLICY not_all ON outbox.outbox_events AS RESTRICTIVE TO worker USING (subject <> 'mine')";
    roles.execute("owner", restricts).await;
    refuses("worker", "worker").await;
    refuses("worker", "health").await;

    roles.execute("owner", "ALTER TABLE outbox.outbox_events FORCE ROW LEVEL SECURITY").await;
    refuses("owner", "migrate").await;
}

#[tokio::test]
async fn a_worker_that_lacks_a_right_ends_and_names_it() {
    let roles = Roles::new().await;
    for (revoke, missing) in [
        ("UPDATE ON outbox.outbox_events", "UPDATE on outbox_events"),
        ("DELETE ON outbox.outbox_leases", "DELETE on outbox_leases"),
        ("USAGE ON SEQUENCE outbox.outbox_events_seq", "USAGE on outbox_events_seq"),
        ("SELECT ON outbox.outbox_migrations", "permission denied"),
        ("USAGE ON SCHEMA outbox", "permission denied for schema outbox"),
    ] {
        roles.execute("owner", &format!("REVOKE {revoke} FROM worker")).await;
        let (code, said) = roles.end("worker", &["worker"]).await;
        assert!(code == Some(1) && said.contains(missing), "{revoke}: {said}");
        roles.execute("owner", &format!("GRANT {revoke} TO worker")).await;
    }
    roles.run("worker", &["worker", "--until-empty"]).await;
}

/// The statements of docs/operations.md for default privileges: one block.
fn default_privileges() -> &'static str {
    let page = include_str!("../../../docs/operations.md");
    let mut blocks = page.split("```sql\n").skip(1).map(|rest| rest.split("```").next().unwrap());
    blocks.find(|sql| sql.contains("ALTER DEFAULT PRIVILEGES")).unwrap()
}

#[tokio::test]
async fn a_worker_with_default_privileges_starts_right_after_the_first_migration() {
    let server = Server::start();
    let test = TestOutbox::unmigrated(server.database().await, redis::url());
    let create: String = ROLES.iter().map(|role| format!("CREATE ROLE {role} LOGIN;")).collect();
    test.sql().await.batch_execute(&format!("{create} {}", documented()[0])).await.unwrap();
    let roles = Roles { test, _server: server };
    roles.execute("owner", default_privileges()).await;
    roles.run("owner", &["migrate"]).await;
    roles.run("worker", &["worker", "--until-empty"]).await;
    roles.run("worker", &["health"]).await;
}

/// The inbox is the application's: a worker deletes old notes if it may, and delivers whatever it may not.
#[tokio::test]
async fn a_consumer_and_a_worker_need_only_the_documented_rights_to_an_inbox() {
    let roles = Roles::new().await;
    roles.run("owner", &["migrate", "--inbox"]).await;
    let insert = "INSERT INTO outbox.outbox_inbox (consumer, source, event_id, seq, handled_at)
        VALUES ('mailer', 'tests', 'old', 0, now() - interval '31 days') ON CONFLICT DO NOTHING";
    roles
        .execute("owner", "GRANT USAGE ON SCHEMA outbox TO reader; GRANT INSERT ON outbox.outbox_inbox TO reader")
        .await;
    roles.execute("reader", insert).await;
    let worker = Running::spawn(&mut roles.command("worker", &["worker"]));
    eventually("it says what it lacks", PATIENCE, async || {
        worker.stderr().contains("this role needs SELECT and DELETE on outbox_inbox")
    })
    .await;
    drop(worker);
    let protect = "ALTER TABLE outbox.outbox_inbox ENABLE ROW LEVEL SECURITY;
        CREATE POLICY mine ON outbox.outbox_inbox TO reader USING (true)";
    roles.execute("owner", protect).await;
    roles.run("worker", &["worker", "--until-empty"]).await;
    let allow = "GRANT SELECT, DELETE ON outbox.outbox_inbox TO worker;
        CREATE POLICY deletes ON outbox.outbox_inbox TO worker USING (true)";
    roles.execute("owner", allow).await;
    let _worker = Running::spawn(&mut roles.command("worker", &["worker"]));
    let notes = "SELECT count(*) FROM outbox.outbox_inbox";
    eventually("the old note is deleted", PATIENCE, async || roles.test.number(notes).await == 0).await;
}
