//! The examples, run as programs of their own.

use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};

use crate::support::process::{Running, Signal};
use crate::support::tls::Identity;
use crate::support::{PATIENCE, eventually, free_port, postgres};

/// The path of an example, which `cargo test` builds with the tests.
pub(crate) fn example(name: &str) -> Command {
    let tests = std::env::current_exe().unwrap();
    let path: PathBuf = tests.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(
        path.exists(),
        "{} is not built: run `cargo build --examples` first, as `cargo test` does unless it is given `--test`",
        path.display()
    );
    Command::new(path)
}

/// The events on standard output: one JSON object a line, and nothing else.
fn events(program: &Running) -> Vec<Value> {
    program.stdout().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

/// The status and the body of an answer.
fn post(address: &str, path: &str, body: &str) -> (u16, String) {
    let agent = ureq::Agent::from(ureq::Agent::config_builder().http_status_as_error(false).build());
    let request = agent.post(format!("http://{address}{path}")).content_type("application/json");
    let mut answer = request.send(body).unwrap();
    (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap())
}

#[tokio::test]
async fn the_web_application_stores_a_user_and_its_event_together_or_not_at_all() {
    let folder = tempfile::tempdir().unwrap();
    let identity = Identity::write(folder.path());
    let mut server = postgres::Server::start();
    server.secure(&identity);
    let url = format!("postgres://outbox@localhost:{}/postgres?sslmode=verify-full", server.port());
    let address = format!("127.0.0.1:{}", free_port());
    let mut command = example("actix_web_app");
    command.arg(&address).current_dir(folder.path()).env("DATABASE_URL", url);
    command.env("OUTBOX__PUBLISHERS__DEFAULT__BACKEND", "jsonl").env("SSL_CERT_FILE", &identity.authority);
    let mut program = Running::spawn(&mut command);
    eventually("it listens", PATIENCE, async || std::net::TcpStream::connect(&address).is_ok()).await;

    let (status, body) = post(&address, "/users", r#"{"name": "Ada"}"#);
    assert_eq!(status, 201, "{body}: {}", program.stderr());
    let id = serde_json::from_str::<Value>(&body).unwrap()["id"].clone();
    let ready = async || ureq::get(format!("http://{address}/readyz")).call().is_ok();
    eventually("it is ready, as its first heartbeat is answered", PATIENCE, ready).await;
    let ways = "SELECT count(*) FILTER (WHERE ssl), count(*) FROM pg_stat_ssl JOIN pg_stat_activity USING (pid)
        WHERE usename = 'outbox' AND pid <> pg_backend_pid()";
    let sql = postgres::connect(&server.url("postgres")).await;
    let row = sql.query_one(ways, &[]).await.unwrap();
    assert!(row.get::<_, i64>(0) > 1 && row.get::<_, i64>(0) == row.get::<_, i64>(1), "{row:?}");
    assert_eq!(post(&address, "/users", r#"{"name": "Ada"}"#).0, 409, "the name is taken");
    assert_eq!(post(&address, "/users", r#"{"name": "Grace"}"#).0, 201);
    assert_eq!(post(&address, "/users", "{oops").0, 400);

    eventually("both events are handled", PATIENCE, async || program.stderr().contains("mailer: welcome, Grace")).await;
    program.signal(Signal::INT);
    assert_eq!(program.wait_exit(PATIENCE).await.code(), Some(0), "{}", program.stderr());
    let mut names: Vec<Value> = events(&program).iter().map(|event| event["data"]["name"].clone()).collect();
    names.sort_by_key(Value::to_string);
    assert_eq!(names, ["Ada", "Grace"], "one event for each user that there is");
    assert!(events(&program).iter().any(|event| event["id"] == id), "under the id that was answered");
}

#[test]
fn the_service_of_the_book_is_the_example() {
    let read = |file: &str| std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join(file)).unwrap();
    let (page, example) = (read("docs/getting-started.md"), read("examples/actix_web_app.rs"));
    let printed = page.split_once("```rust,no_run\n").unwrap().1.split_once("```").unwrap().0;
    let code = &example[example.find("use actix::prelude::*;").unwrap()..];
    assert!(printed == code, "copy the code of examples/actix_web_app.rs into docs/getting-started.md");
}

/// What a program that ends by itself wrote to standard output.
async fn output_of(name: &str) -> Vec<String> {
    let mut program = Running::spawn(&mut example(name));
    let status = program.wait_exit(PATIENCE).await;
    assert_eq!(status.code(), Some(0), "{}{}", program.stdout(), program.stderr());
    program.stdout().lines().map(str::to_owned).collect()
}

#[tokio::test]
async fn the_custom_backend_waits_for_its_server_and_keeps_order_when_rejected() {
    let said = output_of("custom_backend").await;
    assert!(said[0].starts_with("worker: backend unavailable: ") && said[0].contains("refused"), "{said:?}");
    let answers: Vec<_> = said[1..]
        .iter()
        .map(|line| {
            let (answer, event) = line.strip_prefix("server: ").unwrap().split_once(" to ").unwrap();
            (answer, serde_json::from_str::<Value>(event).unwrap()["type"].clone())
        })
        .collect();
    assert_eq!(answers, [("no", json!("order.paid")), ("ok", json!("order.paid")), ("ok", json!("order.sent"))]);
}

#[tokio::test]
async fn the_transactional_example_delivers_what_was_committed_alone() {
    let said = output_of("transactional").await;
    let mut delivered: Vec<&str> = said.iter().filter_map(|line| line.strip_prefix("delivered: ")).collect();
    delivered.sort_unstable();
    assert_eq!(delivered, ["order.opened order-1", "order.opened order-2", "order.settled order-1"]);
    assert_eq!(said.iter().filter(|line| line.starts_with("rolled back, with its event")).count(), 2, "{said:?}");
}

#[tokio::test]
async fn the_scheduled_example_waits_tries_again_and_gives_up() {
    let said = output_of("scheduled").await;
    let of = |who: &str| -> Vec<&str> {
        said.iter().filter_map(|line| line.split_once(who)).map(|(_, what)| what).collect()
    };
    assert_eq!(of("now@example.com "), ["is reminded"]);
    assert_eq!(of("busy@example.com "), ["was refused", "was refused", "is reminded"]);
    assert_eq!(of("unknown@example.com "), ["was refused", "was refused"]);
    let later = said.iter().find(|line| line.ends_with("later@example.com is reminded")).unwrap();
    assert!(later.split(' ').next().unwrap().parse::<f32>().unwrap() >= 1.0, "{later}");
}
