//! The console in a browser: Chromium without a screen, driven by WebDriver.

mod operating;
mod pictures;
mod reading;

use std::path::Path;
use std::process::Command;

use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder, Locator};
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use url::Url;

use crate::support::process::Running;
use crate::support::{PATIENCE, eventually, free_port};
use crate::test_outbox::TestOutbox;
use crate::web::OPERATOR;

/// Finds accessibility problems (axe-core, by Deque Systems, under the MPL 2.0).
const AXE: &str = include_str!("../axe/axe.min.js");

/// A browser of one test; it ends with its driver.
pub(super) struct Browser {
    pub(super) client: Client,
    _driver: Running,
    _profile: tempfile::TempDir,
}

/// A command that WebDriver does not have.
#[derive(Debug)]
struct Vendor {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for Vendor {
    fn endpoint(&self, base: &Url, session: Option<&str>) -> Result<Url, url::ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _: &Url) -> (ureq::http::Method, Option<String>) {
        (ureq::http::Method::POST, Some(self.body.to_string()))
    }
}

impl Browser {
    pub(super) async fn start() -> Self {
        let (port, profile) = (free_port(), tempfile::tempdir().unwrap());
        let mut driver = Running::spawn(Command::new("chromedriver").arg(format!("--port={port}")));
        let arguments = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            "--hide-scrollbars",
            // So that it ends with its driver.
            "--remote-debugging-pipe",
        ];
        let folder = format!("--user-data-dir={}", profile.path().display());
        let arguments: Vec<&str> = arguments.into_iter().chain([folder.as_str()]).collect();
        let capabilities = json!({
            "goog:chromeOptions": { "args": arguments },
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        eventually("the driver listens", PATIENCE, async || {
            assert!(driver.is_running(), "{}", driver.stderr());
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        })
        .await;
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(capabilities.as_object().unwrap().clone())
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .unwrap();
        client.set_window_size(1200, 900).await.unwrap();
        Self { client, _driver: driver, _profile: profile }
    }

    pub(super) async fn vendor(&self, path: &'static str, body: Value) -> Value {
        self.client.issue_cmd(Vendor { path, body }).await.unwrap()
    }

    /// Sends a command of Chromium's own protocol.
    pub(super) async fn chromium(&self, command: &str, parameters: Value) {
        self.vendor("goog/cdp/execute", json!({"cmd": command, "params": parameters})).await;
    }

    /// Warnings and errors in the browser's console since the last call.
    pub(super) async fn complaints(&self) -> Vec<Value> {
        let said = self.vendor("se/log", json!({"type": "browser"})).await;
        said.as_array()
            .unwrap()
            .iter()
            .filter(|entry| entry["level"] != "DEBUG" && entry["level"] != "INFO")
            .cloned()
            .collect()
    }

    pub(super) async fn click(&self, css: &str) {
        let found = self.client.wait().at_most(PATIENCE).for_element(Locator::Css(css)).await;
        found.unwrap_or_else(|error| panic!("{css}: {error}")).click().await.unwrap();
    }

    pub(super) async fn fill(&self, css: &str, text: &str) {
        self.client.find(Locator::Css(css)).await.unwrap().send_keys(text).await.unwrap();
    }

    pub(super) async fn text(&self, css: &str) -> String {
        match self.client.find(Locator::Css(css)).await {
            // An element that was replaced meanwhile is found the next time.
            Ok(element) => element.text().await.unwrap_or_default(),
            Err(_) => String::new(),
        }
    }

    pub(super) async fn wait_text(&self, css: &str, text: &str) {
        eventually(&format!("{css} says {text}"), PATIENCE, async || self.text(css).await.contains(text)).await;
    }

    pub(super) async fn count(&self, css: &str) -> usize {
        self.client.find_all(Locator::Css(css)).await.unwrap().len()
    }

    pub(super) async fn wait_count(&self, css: &str, count: usize) {
        eventually(&format!("{count} of {css}"), PATIENCE, async || self.count(css).await == count).await;
    }

    /// Serious and critical accessibility problems of this page.
    pub(super) async fn barriers(&self) -> Vec<String> {
        self.client.execute(AXE, Vec::new()).await.unwrap();
        let run = "const done = arguments[arguments.length - 1]; axe.run().then((found) => done([found.violations, found.passes.length]))";
        let found = self.client.execute_async(run, Vec::new()).await.unwrap();
        let grave =
            |violation: &&Value| ["serious", "critical"].contains(&violation["impact"].as_str().unwrap_or_default());
        let told = |violation: &Value| format!("{}: {}", violation["help"], violation["nodes"][0]["html"]);
        assert!(found[1].as_u64().unwrap() > 5, "it has looked: {found}");
        found[0].as_array().unwrap().iter().filter(grave).map(told).collect()
    }

    pub(super) async fn sign_in(&self, address: &str) {
        self.client.goto(address).await.unwrap();
        self.fill("input[name=secret]", OPERATOR).await;
        self.click("button.main").await;
        self.wait_text("h1", "Overview").await;
    }

    /// Saves a picture for the documents, if `OUTBOX_SCREENSHOTS` names a folder.
    pub(super) async fn picture(&self, name: &str) {
        if let Some(folder) = std::env::var_os("OUTBOX_SCREENSHOTS") {
            let picture = self.client.screenshot().await.unwrap();
            std::fs::write(Path::new(&folder).join(name).with_extension("png"), picture).unwrap();
        }
    }

    /// Makes the page this wide, or a phone's page.
    async fn resize(&self, width: u32, height: u64) {
        let screen = json!({"width": width, "height": height, "deviceScaleFactor": 1, "mobile": width < 500});
        self.chromium("Emulation.setDeviceMetricsOverride", screen).await;
    }

    /// Saves a picture of a whole page of this width, if `OUTBOX_PICTURES` names a folder.
    async fn whole_picture(&self, name: &str, width: u32) {
        let Some(folder) = std::env::var_os("OUTBOX_PICTURES") else { return };
        let height = self.client.execute("return document.documentElement.scrollHeight", Vec::new()).await.unwrap();
        self.resize(width, height.as_u64().unwrap()).await;
        let picture = self.client.screenshot().await.unwrap();
        std::fs::write(Path::new(&folder).join(name).with_extension("png"), picture).unwrap();
        self.resize(width, 900).await;
    }

    pub(super) async fn close(self) {
        assert_eq!(self.complaints().await, Vec::<Value>::new(), "the browser's console");
        self.client.close().await.unwrap();
    }
}

/// A worker that serves the console, and where.
pub(super) fn serve(test: &TestOutbox, settings: &Path) -> (Running, String) {
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    (
        Running::spawn(
            &mut test.outbox(settings, &["worker", "--http", &address, "--name", "worker-1", "--insecure-no-secret"]),
        ),
        format!("http://{address}"),
    )
}

pub(super) async fn wait_served(address: &str) {
    let port: u16 = address.rsplit(':').next().unwrap().parse().unwrap();
    eventually("the console is served", PATIENCE, async || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok())
        .await;
}

/// Events of a shop: most published, some failed.
pub(super) async fn fill(test: &TestOutbox) {
    let sql = "INSERT INTO outbox_events (id, event_type, source, subject, status, partition_key, retry_count, last_error, data, created_at,
            scheduled_at, published_at, errors)
        SELECT gen_random_uuid(), CASE WHEN n % 4 = 0 THEN 'order.shipped' ELSE 'order.placed' END, '/shop', 'order-' || n,
            CASE WHEN n > 3 THEN 'published' ELSE 'failed' END, 'customer-' || n % 7, CASE WHEN n > 3 THEN 0 ELSE 3 END,
            CASE WHEN n > 3 THEN '' ELSE 'the stream is full' END, jsonb_build_object('order', n, 'total', n * 7),
            now() - n * interval '1 minute', now() - n * interval '1 minute', CASE WHEN n > 3 THEN now() - n * interval '1 minute' + n % 13 * interval '400 milliseconds' END,
            CASE WHEN n > 3 THEN NULL ELSE '[{\"at\": \"2026-01-31T12:00:00Z\", \"error\": \"the stream is full\"}]'::jsonb END
        FROM generate_series(1, 130) n;
        INSERT INTO outbox_history SELECT 1, date_trunc('minute', now()) - n * interval '1 minute', 'default', 180 + n * 37 % 90, n % 3, n % 11 / 10
        FROM generate_series(1, 58) n;
        INSERT INTO outbox_history SELECT 60, date_trunc('hour', now()) - n * interval '1 hour', 'default', 9000 + n * 1771 % 4000, n * 13 % 90, n % 5
        FROM generate_series(1, 22) n";
    test.sql().await.batch_execute(sql).await.unwrap();
}
