//! The rights that docs/mysql.md names for each role are enough on MariaDB.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix::prelude::*;
use actix_outbox::{EventTypes, NewEvent, Outbox, OutboxSystem, Settings, Subscribe};
use mysql_async::prelude::Queryable;
use url::Url;

use crate::mysql::MysqlOutbox;
use crate::rights::{Counter, statements};
use crate::support::process::{Running, Signal};
use crate::support::tls::Identity;
use crate::support::{PATIENCE, eventually, mysql, unique};

const DOCUMENT: &str = include_str!("../../../docs/mysql.md");
const ROLES: [&str; 5] = ["owner", "worker", "writer", "console", "reader"];

/// An outbox whose database has a user for each purpose, with the documented rights and no others.
struct Users {
    test: MysqlOutbox,
    prefix: String,
}

impl Users {
    async fn new() -> Self {
        let users = Self { test: MysqlOutbox::unmigrated().await, prefix: unique("u") };
        // One for each role, in the order of [`ROLES`].
        let blocks: [&str; 5] = statements(DOCUMENT, "Rights");
        for role in ROLES {
            users.execute(&format!("CREATE USER {} IDENTIFIED BY 'secret'", users.user(role))).await;
        }
        users.grant("owner", blocks[0]).await;
        users.run("owner", &["migrate"]).await;
        for (role, block) in ROLES.into_iter().zip(blocks).skip(1) {
            users.grant(role, block).await;
        }
        users
    }

    /// A name that no other test has on this server.
    fn user(&self, role: &str) -> String {
        format!("{}_{role}", &self.prefix[..12])
    }

    async fn execute(&self, statement: &str) {
        self.test.sql().await.query_drop(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }

    async fn grant(&self, role: &str, block: &str) {
        for line in block.lines().filter(|line| !line.trim().is_empty()) {
            let statement = line.split(';').next().unwrap();
            let (rights, user) = statement.rsplit_once(" TO ").unwrap();
            assert_eq!(user, role, "{line}");
            let rights = rights.replace(" app.", &format!(" {}.", self.test.database.name));
            self.execute(&format!("{rights} TO {}", self.user(role))).await;
        }
    }

    fn url(&self, role: &str) -> String {
        let mut url = Url::parse(&self.test.database.url).unwrap();
        url.set_username(&self.user(role)).unwrap();
        url.set_password(Some("secret")).unwrap();
        url.into()
    }

    fn spawn(&self, role: &str, arguments: &[&str]) -> Running {
        let mut command = self.test.outbox(&self.test.settings(""), arguments);
        Running::spawn(command.env("OUTBOX__DATABASE__URL", self.url(role)))
    }

    /// The exit code of a command that ends, and what it said.
    async fn end(&self, role: &str, arguments: &[&str]) -> (Option<i32>, String) {
        let mut program = self.spawn(role, arguments);
        let status = program.wait_exit(PATIENCE).await;
        (status.code(), [program.stdout(), program.stderr()].concat())
    }

    async fn run(&self, role: &str, arguments: &[&str]) {
        let (code, said) = self.end(role, arguments).await;
        assert!(code == Some(0) && !said.contains("denied"), "{role} {arguments:?}: {code:?} {said}");
    }

    fn settings(&self, role: &str) -> Settings {
        Settings::from_toml(&format!("[database]\nurl = \"{}\"", self.url(role))).unwrap()
    }

    async fn writer(&self) -> Outbox {
        OutboxSystem::builder(self.settings("writer")).publish_only(true).start().await.unwrap()
    }
}

impl Drop for Users {
    fn drop(&mut self) {
        let (url, names) = (self.test.database.url.clone(), ROLES.map(|role| self.user(role)).join(", "));
        // On its own thread, because a runtime cannot be entered from within another.
        let dropped = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async { mysql::connect(&url).await.query_drop(format!("DROP USER {names}")).await })
        });
        if !matches!(dropped.join(), Ok(Ok(()))) {
            eprintln!("the users of a test could not be dropped");
        }
    }
}

fn event() -> NewEvent {
    NewEvent::new("thing.happened", "tests").partition_key("key")
}

#[actix::test]
async fn each_role_needs_only_the_documented_rights() {
    let users = Users::new().await;
    let mut worker = users.spawn("worker", &["worker", "--name", "worker"]);
    users.test.wait_owners(&["worker"]).await;
    let handled = Arc::new(AtomicUsize::new(0));
    let handler = Counter(Arc::clone(&handled)).start().recipient();
    let handlers = OutboxSystem::builder(users.settings("worker"))
        .publish_only(true)
        .subscribe(Subscribe::new("counter", EventTypes::All, handler))
        .start()
        .await
        .unwrap();
    let writer = users.writer().await;
    let mut ids = Vec::new();
    for _ in 0..10 {
        ids.push(writer.send(event()).await.unwrap().id.to_string());
    }
    eventually("every event is handled", PATIENCE, async || handled.load(Ordering::SeqCst) == 10).await;
    users.test.wait_published().await;
    users.run("worker", &["cleanup"]).await;
    users.run("worker", &["health"]).await;
    writer.shutdown().await.unwrap();
    handlers.shutdown().await.unwrap();

    let id = ids.remove(0);
    for role in ["reader", "console", "worker"] {
        for command in [&["status", "--history"][..], &["health"], &["events", "list"]] {
            users.run(role, command).await;
        }
        users.run(role, &["events", "show", &id]).await;
        users.run(role, &["events", "explain", &id]).await;
    }
    users.run("console", &["events", "replay", &id]).await;
    eventually("it is sent again", PATIENCE, async || users.test.length().await == 11).await;
    users.run("console", &["handlers", "drop", "counter"]).await;
    users.test.wait_published().await;
    users.run("console", &["backends", "pause", "default"]).await;
    users.run("console", &["backends", "resume", "default"]).await;
    users.run("console", &["events", "delete", &id]).await;
    worker.signal(Signal::TERM);
    assert!(worker.wait_exit(PATIENCE).await.success(), "{}", worker.stderr());
    assert!(!worker.stderr().contains("denied"), "{}", worker.stderr());

    let pending = writer_of_one(&users).await;
    users.run("console", &["events", "fail", &pending, "--reason", "no"]).await;
    users.run("console", &["events", "retry", &pending]).await;
    users.run("console", &["events", "move", &pending, "--to", "elsewhere"]).await;
    let (code, said) = users.end("reader", &["events", "fail", &pending, "--reason", "no"]).await;
    assert!(code == Some(1) && said.contains("denied"), "{said}");
}

/// The id of an event that no worker delivers.
async fn writer_of_one(users: &Users) -> String {
    let writer = users.writer().await;
    let event = writer.send(event()).await.unwrap();
    writer.shutdown().await.unwrap();
    event.id.to_string()
}

#[tokio::test]
async fn tls_verifies_the_server_by_the_authorities_of_the_address_or_of_the_system() {
    let folder = tempfile::tempdir().unwrap();
    let identity = Identity::write(folder.path());
    let mut server = mysql::Server::start();
    server.secure(&identity);
    let database = server.database().await;
    let authority = identity.authority.to_str().unwrap();
    let none = folder.path().join("none.crt");
    std::fs::write(&none, "").unwrap();
    for (host, parameters, system, problem) in [
        ("127.0.0.1", "sslmode=require".to_owned(), &none, None),
        ("localhost", format!("sslmode=verify-full&sslrootcert={authority}"), &none, None),
        ("localhost", "sslmode=verify-full".to_owned(), &identity.authority, None),
        ("localhost", "sslmode=verify-full".to_owned(), &none, Some("no root trust anchors")),
        ("127.0.0.1", format!("sslmode=verify-full&sslrootcert={authority}"), &none, Some("certificate")),
        ("localhost", "sslmode=verify-full&sslrootcert=/nowhere/ca.crt".to_owned(), &none, Some("/nowhere/ca.crt")),
    ] {
        let url = format!("{}?{parameters}", database.url.replace("127.0.0.1", host));
        let mut command = std::process::Command::new(env!("CARGO_BIN_EXE_outbox"));
        command.current_dir(folder.path()).args(["migrate", "--database-url", &url]);
        command.env_remove("DATABASE_URL").env("SSL_CERT_FILE", system).env("SSL_CERT_DIR", folder.path().join("no"));
        let output = command.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        match problem {
            None => assert!(output.status.success(), "{host} {parameters}: {said}"),
            Some(problem) => {
                assert!(output.status.code().is_some_and(|code| code > 0), "{host} {parameters}");
                assert!(said.contains(problem) && !said.contains("out-box"), "{host} {parameters}: {said}");
            }
        }
    }
}
