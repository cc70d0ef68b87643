//! The services, run as programs against a real PostgreSQL.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test has no better answer to an error than to fail")]

#[path = "../../../tests/support/mod.rs"]
mod support;

use std::process::Command;

use actix_outbox::{OutboxSystem, Settings};
use serde_json::{Value, json};
use support::process::{Running, Signal};
use support::tls::Identity;
use support::{PATIENCE, eventually, free_port, postgres};

/// Posts a user; returns the status.
fn post(address: &str, user: &str) -> u16 {
    let agent = ureq::Agent::from(ureq::Agent::config_builder().http_status_as_error(false).build());
    let request = agent.post(format!("http://{address}/users")).content_type("application/json");
    request.send(user).unwrap().status().as_u16()
}

/// Starts a service and posts users to it: two that are stored, with their events, and some that are refused.
async fn two_users(program: &str, database: &postgres::Database, url: &str) -> Running {
    let (folder, address) = (tempfile::tempdir().unwrap(), format!("127.0.0.1:{}", free_port()));
    let mut command = Command::new(program);
    command.arg(&address).current_dir(folder.path()).env("DATABASE_URL", url);
    let mut service = Running::spawn(command.env("OUTBOX__PUBLISHERS__DEFAULT__BACKEND", "jsonl"));
    eventually("it listens", PATIENCE, async || {
        assert!(service.is_running(), "{}", service.stderr());
        std::net::TcpStream::connect(&address).is_ok()
    })
    .await;
    assert_eq!(post(&address, r#"{"name": "Ada"}"#), 201, "{}", service.stderr());
    assert_eq!(post(&address, r#"{"name": "Ada"}"#), 409, "the name is taken");
    assert_eq!(post(&address, r#"{"name": "Grace"}"#), 201);
    assert!((400..500).contains(&post(&address, "{oops")));
    // Longer than the key of an event may be: the user is rolled back with the event.
    assert_eq!(post(&address, &json!({"name": "a".repeat(300)}).to_string()), 500);
    let users = "SELECT string_agg(name, ', ' ORDER BY name) FROM users";
    let row = database.connect().await.query_one(users, &[]).await.unwrap();
    assert_eq!(row.get::<_, String>(0), "Ada, Grace");
    service
}

#[tokio::test]
async fn the_service_with_axum_stores_each_user_with_one_event_over_tls() {
    let folder = tempfile::tempdir().unwrap();
    let identity = Identity::write(folder.path());
    let mut server = postgres::Server::start();
    server.secure(&identity);
    let database = server.database().await;
    let verified = format!("sslmode=verify-full&sslrootcert={}", identity.authority.display());
    let url = database.url.replace("127.0.0.1", "localhost").replace("sslmode=disable", &verified);
    assert!(url.contains("localhost") && url.contains("verify-full"), "{url}");
    let settings = Settings::from_toml(&format!("[database]\nurl = \"{url}\"")).unwrap();
    let migrate = move || {
        actix_rt::System::new().block_on(async {
            let outbox = OutboxSystem::builder(settings).publish_only(true).migrate(true).start().await.unwrap();
            outbox.shutdown().await.unwrap();
        });
    };
    tokio::task::spawn_blocking(migrate).await.unwrap();
    let mut service = two_users(env!("CARGO_BIN_EXE_axum_sqlx"), &database, &url).await;
    let rows = database.connect().await.query("SELECT data FROM outbox_events ORDER BY seq", &[]).await.unwrap();
    let data: Vec<Value> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(data, [json!({"name": "Ada"}), json!({"name": "Grace"})]);
    service.signal(Signal::INT);
    assert_eq!(service.wait_exit(PATIENCE).await.code(), Some(0), "{}", service.stderr());
}

#[tokio::test]
async fn the_service_with_actix_web_delivers_one_event_for_each_user() {
    let database = postgres::database().await;
    let mut service = two_users(env!("CARGO_BIN_EXE_actix_web_sqlx"), &database, &database.url).await;
    eventually("both events are delivered", PATIENCE, async || service.stdout().lines().count() >= 2).await;
    service.signal(Signal::INT);
    assert_eq!(service.wait_exit(PATIENCE).await.code(), Some(0), "{}", service.stderr());
    let mut names: Vec<Value> = service
        .stdout()
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["data"]["name"].clone())
        .collect();
    names.sort_by_key(Value::to_string);
    assert_eq!(names, ["Ada", "Grace"]);
}
