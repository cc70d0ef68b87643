//! The examples, run as programs of their own.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::process::Running;
use crate::support::{PATIENCE, eventually, free_port, redis};
use crate::test_outbox::TestOutbox;

/// The path of an example, which `cargo test` builds with the tests.
pub(crate) fn example(name: &str) -> Command {
    let tests = std::env::current_exe().unwrap();
    let path: PathBuf = tests.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(
        path.exists(),
        "{} is not built: run `cargo build --workspace --examples` first, as `cargo test --workspace` does",
        path.display()
    );
    Command::new(path)
}

/// The folder of an example of the library.
fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples").join(name)
}

#[tokio::test]
async fn the_own_worker_example_has_all_commands_and_its_handlers_and_backends() {
    let folder = tempfile::tempdir().unwrap();
    let run = async |arguments: &[&str]| {
        let mut command = example("own_worker");
        command.args(arguments).current_dir(folder.path()).env("DATABASE_URL", "sqlite://app.db");
        let mut program = Running::spawn(command.env("OUTBOX__PUBLISHERS__DEFAULT__BACKEND", "stderr"));
        assert_eq!(program.wait_exit(PATIENCE).await.code(), Some(0), "{arguments:?}: {}", program.stderr());
        program
    };
    run(&["migrate"]).await;
    let published = run(&["publish", "user.created", "--source", "tests", "--data", r#"{"name": "Ada"}"#]).await;
    let id = published.stdout().trim().to_owned();
    let worked = run(&["worker", "--until-empty"]).await.stderr();
    assert!(worked.contains("mailer: welcome, Ada"), "{worked}");
    assert!(worked.contains(&format!("backend: {id} user.created")), "{worked}");
    let status: Value = serde_json::from_str(&run(&["status", "--format", "json"]).await.stdout()).unwrap();
    assert_eq!(status["counts"], json!({"published": 1}));
    let health: Value = serde_json::from_str(&run(&["health", "--format", "json"]).await.stdout()).unwrap();
    assert_eq!(health["backends"], json!({"default": "ok"}));
}

#[tokio::test]
async fn the_webhook_relay_verifies_signatures_and_handles_an_event_once() {
    let test = TestOutbox::new().await;
    let (secrets, address) =
        (test.file("whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n"), format!("127.0.0.1:{}", free_port()));
    let receiver = Running::spawn(example("webhook_relay").arg(&secrets).arg(&address));
    eventually("it listens", PATIENCE, async || std::net::TcpStream::connect(&address).is_ok()).await;
    let worker = async |secrets: &Path| {
        let settings = folder("webhook_relay").join("outbox.toml");
        let mut worker = test.outbox(&settings, &["worker", "--until-empty"]);
        worker.env("DATABASE_URL", test.url()).env("OUTBOX__PUBLISHERS__DEFAULT__SECRETS_FILE", secrets);
        let mut worker =
            Running::spawn(worker.env("OUTBOX__PUBLISHERS__DEFAULT__URL", format!("http://{address}/hooks/{{type}}")));
        assert_eq!(worker.wait_exit(PATIENCE).await.code(), Some(0), "{}", worker.stderr());
    };
    let publish = async |n: u32| {
        let data = json!({"invoice": n}).to_string();
        test.run(&["publish", "invoice.paid", "--source", "billing", "--key", "ada", "--data", &data]).await;
    };
    publish(7).await;
    worker(&secrets).await;
    publish(8).await;
    test.run(&["events", "replay", "--since", "1h", "--yes"]).await;
    assert_eq!(test.unpublished().await, 2, "the first is sent again");
    worker(&secrets).await;
    assert_eq!(receiver.stdout(), "\"invoice.paid\" {\"invoice\":7}\n\"invoice.paid\" {\"invoice\":8}\n");

    // While a secret is replaced, requests are signed with both; the receiver knows one of them.
    publish(9).await;
    let other = "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD\n";
    worker(&test.file(&format!("{other}whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw\n"))).await;
    assert_eq!(test.unpublished().await, 0);
    publish(10).await;
    worker(&test.file(other)).await;
    let failed: String = test
        .sql()
        .await
        .query_one("SELECT last_error FROM outbox_events WHERE status = 'failed'", &[])
        .await
        .unwrap()
        .get(0);
    assert!(failed.contains("401"), "{failed}");
    assert_eq!(receiver.stdout().lines().count(), 3, "{}", receiver.stdout());
    // A request that was recorded, and one without a signature.
    let headers = [("webhook-id", "7"), ("webhook-timestamp", "1700000000"), ("webhook-signature", "v1,AAAA")];
    for headers in [&headers[..], &[]] {
        let agent = ureq::Agent::from(ureq::Agent::config_builder().http_status_as_error(false).build());
        let mut request = agent.post(format!("http://{address}/hooks/invoice.paid"));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        assert_eq!(request.send("{}").unwrap().status(), 401);
    }
}

/// A projection on servers of a test.
struct Projection {
    test: TestOutbox,
    stream: String,
}

impl Projection {
    fn environment<'a>(&self, command: &'a mut Command) -> &'a mut Command {
        command.env("OUTBOX_CONFIG", folder("projection").join("outbox.toml")).env("DATABASE_URL", self.test.url());
        command.env("OUTBOX__PUBLISHERS__DEFAULT__STREAM_NAME", &self.stream);
        command.env("OUTBOX__PUBLISHERS__DEFAULT__URL", self.test.redis_url())
    }

    fn start(&self, name: &str) -> Running {
        Running::spawn(self.environment(example("projection").arg(name)))
    }

    async fn publish(&self, event: &str, article: &str, data: Value) {
        let (kind, data) = (format!("article.{event}"), data.to_string());
        self.test.run(&["publish", &kind, "--source", "shop", "--key", article, "--data", &data]).await;
    }

    async fn worker(&self) -> Running {
        let settings = folder("projection").join("outbox.toml");
        Running::spawn(self.environment(&mut self.test.outbox(&settings, &["worker"])))
    }

    /// Waits until a table has these rows and every event has been handled for it.
    async fn wait(&self, table: &str, handled: i64, rows: &str) {
        let sql = self.test.sql().await;
        let noted = format!("SELECT count(*) FROM outbox_inbox WHERE consumer = '{table}'");
        let exists = format!("SELECT count(*) FROM pg_class WHERE relname IN ('{table}', 'outbox_inbox')");
        let what = format!("{table} has handled {handled} events");
        eventually(&what, PATIENCE, async || {
            self.test.number(&exists).await == 2 && self.test.number(&noted).await == handled
        })
        .await;
        let all = format!(
            "SELECT coalesce(string_agg(concat_ws(' ', article, name, cents), ', ' ORDER BY article), '') FROM {table}"
        );
        assert_eq!(sql.query_one(&all, &[]).await.unwrap().get::<_, String>(0), rows, "{table}");
    }
}

#[tokio::test]
async fn the_projection_keeps_the_order_of_a_key_and_is_built_again_from_the_stream_and_by_a_replay() {
    let (test, stream) = (TestOutbox::new().await, redis::stream());
    let projection = Projection { test, stream };
    let (_worker, _one, _other) =
        (projection.worker().await, projection.start("catalogue_1"), projection.start("catalogue_1"));
    for article in ["A-1", "A-2", "A-3"] {
        projection.publish("listed", article, json!({"name": "lamp", "cents": 900})).await;
        projection.publish("repriced", article, json!({"cents": 800})).await;
    }
    projection.publish("delisted", "A-2", Value::Null).await;
    projection.wait("catalogue_1", 7, "A-1 lamp 800, A-3 lamp 800").await;

    let _next = projection.start("catalogue_2");
    projection.wait("catalogue_2", 7, "A-1 lamp 800, A-3 lamp 800").await;
    projection.test.sql().await.batch_execute("DELETE FROM catalogue_1").await.unwrap();
    projection.test.wait_published().await;
    projection.test.run(&["events", "replay", "--since", "1h", "--yes"]).await;
    projection.wait("catalogue_1", 14, "A-1 lamp 800, A-3 lamp 800").await;
    projection.wait("catalogue_2", 14, "A-1 lamp 800, A-3 lamp 800").await;
}

#[tokio::test]
async fn the_tenants_example_keeps_each_tenants_events_in_its_schema() {
    // Tables that a tenant's must not be taken for: another outbox, and users.
    let test = TestOutbox::new().await;
    let database = test.database();
    database.connect().await.batch_execute("CREATE TABLE users (name text PRIMARY KEY)").await.unwrap();
    let folder = tempfile::tempdir().unwrap();
    for expected in [["acme: welcome, Ada", "acme: welcome, Alan", "globex: welcome, Grace"].as_slice(), &[]] {
        let mut command = example("tenants");
        command.current_dir(folder.path()).env("DATABASE_URL", &database.url);
        let mut program = Running::spawn(command.env("OUTBOX__PUBLISHERS__DEFAULT__BACKEND", "local"));
        assert_eq!(program.wait_exit(PATIENCE).await.code(), Some(0), "{}", program.stderr());
        let said = program.stdout();
        let mut lines: Vec<&str> = said.lines().collect();
        lines.sort_unstable();
        assert_eq!(lines, expected);
    }
    let counts = "SELECT format('%s %s %s', (SELECT count(*) FROM tenant_acme.outbox_events),
        (SELECT count(*) FROM tenant_globex.outbox_events),
        (SELECT count(*) FROM public.users) + (SELECT count(*) FROM public.outbox_events))";
    let row = database.connect().await.query_one(counts, &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "2 1 0");
}
