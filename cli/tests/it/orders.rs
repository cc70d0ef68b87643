//! The order service and the mailer of examples/orders, with a worker between them.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde_json::{Value, json};
use tokio_postgres::Client;

use crate::support::process::{Running, Signal};
use crate::support::proxy::{Passage, Proxy};
use crate::support::{PATIENCE, eventually, free_port, postgres, redis};
use crate::test_outbox::TestOutbox;

/// The group of the mailer.
const GROUP: &str = "mailer";

/// A program of the package `orders`, which `cargo test` builds with its tests.
fn program(name: &str) -> Command {
    let tests = std::env::current_exe().unwrap();
    let path: PathBuf = tests.ancestors().nth(2).unwrap().join(name);
    assert!(path.exists(), "{} is not built: run `cargo build -p orders` first", path.display());
    Command::new(path)
}

/// A post to a service of an example: the status and the body.
pub(crate) fn post(address: &str, path: &str, body: &str) -> (u16, String) {
    let agent = ureq::Agent::from(ureq::Agent::config_builder().http_status_as_error(false).build());
    let request = agent.post(format!("http://{address}{path}")).content_type("application/json");
    let mut answer = request.send(body).unwrap();
    (answer.status().as_u16(), answer.body_mut().read_to_string().unwrap())
}

/// The shop: servers of its own, the settings of the example, and its programs.
struct Shop {
    test: TestOutbox,
    settings: PathBuf,
    _redis: redis::Server,
    address: String,
}

impl Shop {
    async fn open() -> Self {
        let redis = redis::Server::start(&[]);
        let test = TestOutbox::on(postgres::database().await, redis.url()).await;
        let settings = Path::new(env!("CARGO_MANIFEST_DIR")).join("../examples/orders/outbox.toml");
        Self { test, settings, _redis: redis, address: format!("127.0.0.1:{}", free_port()) }
    }

    fn start(&self, command: &mut Command, redis_url: &str) -> Running {
        command.env("OUTBOX_CONFIG", &self.settings).env("DATABASE_URL", self.test.url());
        // Soon enough for a test; the default is 10 s.
        command.env("OUTBOX__CONSUMERS__MAILER__RECLAIM_AFTER", "1s");
        Running::spawn(command.env("OUTBOX__PUBLISHERS__DEFAULT__URL", redis_url))
    }

    async fn service(&self) -> Running {
        let service = self.start(program("orders").arg(&self.address), self.test.redis_url());
        eventually("it listens", PATIENCE, async || std::net::TcpStream::connect(&self.address).is_ok()).await;
        service
    }

    fn worker(&self) -> Running {
        self.start(&mut self.test.outbox(&self.settings, &["worker"]), self.test.redis_url())
    }

    fn mailer(&self, redis_url: &str) -> Running {
        self.start(&mut program("mailer"), redis_url)
    }

    /// One that serves its probes at this address.
    fn probed_mailer(&self, address: &str) -> Running {
        self.start(program("mailer").arg(address), self.test.redis_url())
    }

    /// Places orders of three customers; returns their numbers.
    fn order(&self, count: usize) -> Vec<i64> {
        let place = |n| {
            let order = json!({"customer": format!("customer-{}@example.com", n % 3), "item": "book"});
            let (status, body) = post(&self.address, "/orders", &order.to_string());
            assert_eq!(status, 201, "{body}");
            serde_json::from_str::<Value>(&body).unwrap()["order"].as_i64().unwrap()
        };
        (0..count).map(place).collect()
    }

    /// Entries that were read and not acknowledged.
    async fn unacknowledged(&self) -> i64 {
        let mut redis = self.test.redis().await;
        let mut ask = ::redis::cmd("XPENDING");
        let (count, ..): (i64, Option<String>, Option<String>, ::redis::Value) =
            ask.arg("orders").arg(GROUP).query_async(&mut redis).await.unwrap();
        count
    }
}

/// The order of each mail.
async fn mailed(sql: &Client) -> Vec<i64> {
    sql.query("SELECT order_id FROM mails ORDER BY order_id", &[]).await.unwrap().iter().map(|row| row.get(0)).collect()
}

#[tokio::test]
async fn every_order_is_mailed_once_although_the_mailer_is_killed_between_commit_and_acknowledgement() {
    let shop = Shop::open().await;
    let (_service, _worker) = (shop.service().await, shop.worker());
    let mut url = url::Url::parse(shop.test.redis_url()).unwrap();
    let proxy = Proxy::to(url.port().unwrap()).await;
    url.set_port(Some(proxy.port())).unwrap();
    let mut killed = shop.mailer(url.as_str());
    let sql = shop.test.sql().await;
    let has_table = "SELECT count(*) FROM pg_class WHERE relname = 'mails'";
    eventually("the mailer has its table", PATIENCE, async || shop.test.number(has_table).await == 1).await;

    // It reads orders and waits with its first mails until its acknowledgements do not arrive.
    let mut holder = shop.test.sql().await;
    let lock = holder.transaction().await.unwrap();
    lock.batch_execute("LOCK TABLE mails IN SHARE MODE").await.unwrap();
    let mut orders = shop.order(30);
    let waits = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    eventually("the mailer has read orders", PATIENCE, async || shop.test.number(waits).await > 0).await;
    proxy.set(Passage::HoldRequests);
    lock.commit().await.unwrap();
    eventually("mails are committed", PATIENCE, async || !mailed(&sql).await.is_empty() && proxy.held() > 0).await;
    killed.signal(Signal::KILL);
    killed.wait_exit(PATIENCE).await;
    assert!(shop.unacknowledged().await > 0, "they are delivered again");
    orders.extend(shop.order(10));

    let address = format!("127.0.0.1:{}", free_port());
    let mut successor = shop.probed_mailer(&address);
    eventually("every order is handled and acknowledged", PATIENCE, async || {
        assert!(successor.is_running(), "{}", successor.stderr());
        mailed(&sql).await.len() >= orders.len() && shop.unacknowledged().await == 0
    })
    .await;
    assert_eq!(mailed(&sql).await, orders, "each once");
    assert!(successor.stdout().contains("the mail was written before"), "{}", successor.stdout());
    for path in ["healthz", "readyz"] {
        assert_eq!(ureq::get(format!("http://{address}/{path}")).call().unwrap().status().as_u16(), 200, "{path}");
    }
    successor.signal(Signal::TERM);
    assert_eq!(successor.wait_exit(PATIENCE).await.code(), Some(0), "{}", successor.stderr());
}

#[tokio::test]
async fn an_order_that_is_refused_leaves_no_event() {
    let shop = Shop::open().await;
    let _service = shop.service().await;
    assert_eq!(post(&shop.address, "/orders", r#"{"customer": "ada@example.com"}"#).0, 400);
    let too_long = json!({"customer": "a".repeat(300), "item": "book"}).to_string();
    let (status, body) = post(&shop.address, "/orders", &too_long);
    assert_eq!(status, 400, "{body}");
    assert!(body.contains("partition_key") || body.contains("partitionkey"), "{body}");
    shop.order(1);
    let (orders, events) = ("SELECT count(*) FROM orders", "SELECT count(*) FROM outbox_events");
    assert_eq!((shop.test.number(orders).await, shop.test.number(events).await), (1, 1));
}

/// A program of this name that does what cargo would have done already: it builds nothing, and says where programs are.
fn without_building(folder: &Path) {
    let target = std::env::current_exe().unwrap().ancestors().nth(3).unwrap().to_owned();
    let script = format!("#!/bin/sh\n[ \"$1\" = build ] || echo '{{\"target_directory\":\"{}\"}}'\n", target.display());
    std::fs::write(folder.join("cargo"), script).unwrap();
    std::fs::set_permissions(folder.join("cargo"), std::fs::Permissions::from_mode(0o755)).unwrap();
}

#[tokio::test]
async fn the_script_runs_the_shop_and_ends_all_of_it() {
    let (shop, folder) = (Shop::open().await, tempfile::tempdir().unwrap());
    without_building(folder.path());
    let path = format!("{}:{}", folder.path().display(), std::env::var("PATH").unwrap());
    // As from a terminal: a shell cannot trap a signal that it was started with ignored.
    let mut command = Command::new("env");
    command.arg("--default-signal=INT").arg(shop.settings.with_file_name("run.sh"));
    command.arg(&shop.address).env("PATH", path).env("DATABASE_URL", shop.test.url());
    let mut script = Running::spawn(command.env("REDIS_URL", shop.test.redis_url()));
    eventually("the service listens", PATIENCE, async || {
        assert!(script.is_running(), "{}", script.stderr());
        script.stdout().contains("orders at")
    })
    .await;
    let order = shop.order(1)[0];
    let mail = format!("order {order}: a mail to");
    eventually("the mail is written", PATIENCE, async || script.stdout().contains(&mail)).await;
    script.signal(Signal::INT);
    script.wait_exit(PATIENCE).await;
    let said = script.stderr();
    assert!(said.contains("finishing deliveries in flight") && !said.contains("second signal"), "{said}");
    assert!(std::net::TcpStream::connect(&shop.address).is_err(), "the service has ended");
}
