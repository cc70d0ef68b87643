//! The console in a browser: Chromium without a screen, driven by WebDriver.

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
use crate::web::{Console, OPERATOR, insert, secrets, with};

/// Finds accessibility problems (axe-core, by Deque Systems, under the MPL 2.0).
const AXE: &str = include_str!("axe/axe.min.js");

/// A browser of one test; it ends with its driver.
struct Browser {
    client: Client,
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
    async fn start() -> Self {
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

    async fn vendor(&self, path: &'static str, body: Value) -> Value {
        self.client.issue_cmd(Vendor { path, body }).await.unwrap()
    }

    /// Sends a command of Chromium's own protocol.
    async fn chromium(&self, command: &str, parameters: Value) {
        self.vendor("goog/cdp/execute", json!({"cmd": command, "params": parameters})).await;
    }

    /// Warnings and errors in the browser's console since the last call.
    async fn complaints(&self) -> Vec<Value> {
        let said = self.vendor("se/log", json!({"type": "browser"})).await;
        said.as_array()
            .unwrap()
            .iter()
            .filter(|entry| entry["level"] != "DEBUG" && entry["level"] != "INFO")
            .cloned()
            .collect()
    }

    async fn click(&self, css: &str) {
        let found = self.client.wait().at_most(PATIENCE).for_element(Locator::Css(css)).await;
        found.unwrap_or_else(|error| panic!("{css}: {error}")).click().await.unwrap();
    }

    async fn fill(&self, css: &str, text: &str) {
        self.client.find(Locator::Css(css)).await.unwrap().send_keys(text).await.unwrap();
    }

    async fn text(&self, css: &str) -> String {
        match self.client.find(Locator::Css(css)).await {
            // An element that was replaced meanwhile is found the next time.
            Ok(element) => element.text().await.unwrap_or_default(),
            Err(_) => String::new(),
        }
    }

    async fn wait_text(&self, css: &str, text: &str) {
        eventually(&format!("{css} says {text}"), PATIENCE, async || self.text(css).await.contains(text)).await;
    }

    async fn count(&self, css: &str) -> usize {
        self.client.find_all(Locator::Css(css)).await.unwrap().len()
    }

    async fn wait_count(&self, css: &str, count: usize) {
        eventually(&format!("{count} of {css}"), PATIENCE, async || self.count(css).await == count).await;
    }

    /// Serious and critical accessibility problems of this page.
    async fn barriers(&self) -> Vec<String> {
        self.client.execute(AXE, Vec::new()).await.unwrap();
        let run = "const done = arguments[arguments.length - 1]; axe.run().then((found) => done([found.violations, found.passes.length]))";
        let found = self.client.execute_async(run, Vec::new()).await.unwrap();
        let grave =
            |violation: &&Value| ["serious", "critical"].contains(&violation["impact"].as_str().unwrap_or_default());
        let told = |violation: &Value| format!("{}: {}", violation["help"], violation["nodes"][0]["html"]);
        assert!(found[1].as_u64().unwrap() > 5, "it has looked: {found}");
        found[0].as_array().unwrap().iter().filter(grave).map(told).collect()
    }

    async fn sign_in(&self, address: &str) {
        self.client.goto(address).await.unwrap();
        self.fill("input[name=secret]", OPERATOR).await;
        self.click("button.main").await;
        self.wait_text("h1", "Overview").await;
    }

    /// Saves a picture for the documents, if `OUTBOX_SCREENSHOTS` names a folder.
    async fn picture(&self, name: &str) {
        if let Some(folder) = std::env::var_os("OUTBOX_SCREENSHOTS") {
            let picture = self.client.screenshot().await.unwrap();
            std::fs::write(Path::new(&folder).join(name).with_extension("png"), picture).unwrap();
        }
    }

    async fn close(self) {
        assert_eq!(self.complaints().await, Vec::<Value>::new(), "the browser's console");
        self.client.close().await.unwrap();
    }
}

/// A worker that serves the console, and where.
fn serve(test: &TestOutbox, settings: &Path) -> (Running, String) {
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    (
        Running::spawn(
            &mut test.outbox(settings, &["worker", "--http", &address, "--name", "worker-1", "--insecure-no-secret"]),
        ),
        format!("http://{address}"),
    )
}

async fn wait_served(address: &str) {
    let port: u16 = address.rsplit(':').next().unwrap().parse().unwrap();
    eventually("the console is served", PATIENCE, async || std::net::TcpStream::connect(("127.0.0.1", port)).is_ok())
        .await;
}

/// Events of a shop: most published, some failed.
async fn fill(test: &TestOutbox) {
    let sql = "INSERT INTO outbox_events (id, event_type, source, subject, status, partition_key, retry_count, last_error, data, created_at,
            published_at, errors)
        SELECT gen_random_uuid(), CASE WHEN n % 4 = 0 THEN 'order.shipped' ELSE 'order.placed' END, '/shop', 'order-' || n,
            CASE WHEN n > 3 THEN 'published' ELSE 'failed' END, 'customer-' || n % 7, CASE WHEN n > 3 THEN 0 ELSE 3 END,
            CASE WHEN n > 3 THEN '' ELSE 'the stream is full' END, jsonb_build_object('order', n, 'total', n * 7),
            now() - n * interval '1 minute', CASE WHEN n > 3 THEN now() - n * interval '1 minute' END,
            CASE WHEN n > 3 THEN NULL ELSE '[{\"at\": \"2026-01-31T12:00:00Z\", \"error\": \"the stream is full\"}]'::jsonb END
        FROM generate_series(1, 130) n;
        INSERT INTO outbox_history SELECT 1, date_trunc('minute', now()) - n * interval '1 minute', 'default', 180 + n * 37 % 90, n % 3, n % 11 / 10
        FROM generate_series(1, 58) n;
        INSERT INTO outbox_history SELECT 60, date_trunc('hour', now()) - n * interval '1 hour', 'default', 9000 + n * 1771 % 4000, n * 13 % 90, n % 5
        FROM generate_series(1, 22) n";
    test.sql().await.batch_execute(sql).await.unwrap();
}

#[tokio::test]
async fn a_person_finds_what_failed_retries_it_and_sees_it_published() {
    let test = TestOutbox::new().await;
    fill(&test).await;
    let (_worker, address) = serve(&test, &with(&test, &secrets()));
    wait_served(&address).await;
    let browser = Browser::start().await;
    browser.client.goto(&address).await.unwrap();
    browser.wait_text("h1", "Sign in").await;
    browser.fill("input[name=secret]", "not the secret at all").await;
    browser.click("button.main").await;
    browser.wait_text("[role=alert]", "The secret is wrong").await;
    // A browser logs a response with an error status itself.
    browser.complaints().await;
    browser.sign_in(&address).await;
    browser.wait_text("#live", "worker-1").await;
    browser.picture("overview").await;

    // Filters, and pages.
    browser.click("nav a[href='/events']").await;
    browser.wait_count("tbody tr", 50).await;
    for left in [50, 30] {
        browser.click("a[rel=next]").await;
        browser.wait_count("tbody tr", left).await;
    }
    browser.wait_count("a[rel=next]", 0).await;
    browser.client.goto(&format!("{address}/events?status=failed")).await.unwrap();
    browser.wait_count("tbody tr", 3).await;
    browser.picture("events").await;
    browser.fill("input[name=search]", "order-2").await;
    browser.click("form[role=search] button").await;
    browser.wait_count("tbody tr", 1).await;

    // One event: its explanation, and a retry.
    browser.click("tbody a").await;
    browser.wait_text(".notice", "the stream is full").await;
    browser.picture("event").await;
    browser.click("button[value=retry]").await;
    browser.wait_text("h1", "Retry 1 event?").await;
    browser.click("button.main").await;
    browser.wait_text("h1", "1 event retried").await;
    browser.click("ul a").await;
    browser.wait_text(".notice", "It was published at").await;

    // An open page refreshes itself.
    browser.client.goto(&format!("{address}/events?status=failed&order=oldest")).await.unwrap();
    browser.click("tbody tr:last-child a").await;
    browser.wait_text(".notice", "the stream is full").await;
    let id = browser.text("h1 code").await;
    let retry = format!("UPDATE outbox_events SET status = 'pending', scheduled_at = now() WHERE id = '{id}'");
    test.sql().await.batch_execute(&retry).await.unwrap();
    browser.wait_text(".notice", "It was published at").await;

    // All matching events, after the confirmation.
    browser.client.goto(&format!("{address}/events?type=order.shipped&status=published")).await.unwrap();
    browser.click("input[name=all] ~ button[value=replay]").await;
    browser.wait_text("h1", "Replay 32 events?").await;
    browser.click("button.main").await;
    browser.wait_text("h1", "32 events replayed").await;
    eventually("they are published again", PATIENCE, async || test.length().await == 34).await;

    // Selected events.
    browser.client.goto(&format!("{address}/events?status=failed")).await.unwrap();
    browser.wait_count("tbody tr", 1).await;
    browser.click("[data-all]").await;
    browser.click("button[value=fail]").await;
    browser.wait_text("h1", "Fail 1 event?").await;
    browser.close().await;
}

#[tokio::test]
async fn it_is_read_in_the_dark_on_a_phone_and_without_scripts() {
    let test = TestOutbox::new().await;
    fill(&test).await;
    let (_worker, address) = serve(&test, &with(&test, &secrets()));
    wait_served(&address).await;
    let browser = Browser::start().await;
    browser.sign_in(&address).await;
    let background = async || {
        let script = "return getComputedStyle(document.body).backgroundColor";
        browser.client.execute(script, Vec::new()).await.unwrap().as_str().unwrap().to_owned()
    };
    assert_eq!(background().await, "rgb(255, 255, 255)");
    let dark = json!({"features": [{"name": "prefers-color-scheme", "value": "dark"}]});
    browser.chromium("Emulation.setEmulatedMedia", dark).await;
    assert_eq!(background().await, "rgb(20, 24, 29)");

    let phone = json!({"width": 380, "height": 800, "deviceScaleFactor": 1, "mobile": true});
    browser.chromium("Emulation.setDeviceMetricsOverride", phone).await;
    for path in ["/", "/audit", "/doctor", "/events", "/events?status=failed"] {
        browser.client.goto(&format!("{address}{path}")).await.unwrap();
        let script = "return document.documentElement.scrollWidth <= window.innerWidth";
        assert_eq!(browser.client.execute(script, Vec::new()).await.unwrap(), true, "{path} is as wide as the phone");
    }
    browser.picture("phone").await;
    browser.chromium("Emulation.clearDeviceMetricsOverride", json!({})).await;

    browser.chromium("Emulation.setScriptExecutionDisabled", json!({"value": true})).await;
    browser.client.goto(&format!("{address}/events?status=failed")).await.unwrap();
    browser.click("tbody tr:first-child input").await;
    browser.click("button[value=retry]").await;
    browser.wait_text("h1", "Retry 1 event?").await;
    browser.click("button.main").await;
    browser.wait_text("h1", "1 event retried").await;
    browser.close().await;
}

#[tokio::test]
async fn what_stands_in_an_event_does_nothing_in_a_browser() {
    let test = TestOutbox::new().await;
    let harm = "'<script>alert(1)</script>\"'' onmouseover=\"alert(2)\"><img src=x onerror=alert(3)>'";
    let json = format!("to_jsonb({harm}::text)");
    let columns =
        ["event_type", "source", "subject", "last_error", "publisher_backend", "partition_key", "cloud_event_id"];
    let mut columns: Vec<(&str, &str)> = columns.into_iter().map(|name| (name, harm)).collect();
    columns.extend([("data", json.as_str()), ("status", "'failed'")]);
    let id = insert(&test, &columns).await;
    // The overview shows the backend of due events.
    columns.pop();
    insert(&test, &columns).await;
    let (_worker, address) = serve(&test, &with(&test, &secrets()));
    wait_served(&address).await;
    let browser = Browser::start().await;
    browser.sign_in(&address).await;
    for path in [
        "/",
        "/events",
        &format!("/events/{id}"),
        "/confirm?action=fail&all=1&subject=%3Cscript%3Ealert(1)%3C/script%3E",
    ] {
        browser.client.goto(&format!("{address}{path}")).await.unwrap();
        // The page has loaded, and handlers of failed images would have run.
        assert!(browser.client.get_alert_text().await.is_err(), "{path}");
        assert_eq!(browser.count("main script, main img, main [onmouseover]").await, 0, "{path}");
        assert!(browser.text("main").await.contains("alert(1)"), "{path} does not show it");
    }
    browser.close().await;
}

#[tokio::test]
async fn a_link_in_a_chat_keeps_the_session_and_a_form_there_changes_nothing() {
    let test = TestOutbox::new().await;
    fill(&test).await;
    let console = Console::open(&test, &secrets()).await;
    let address = format!("http://{}", console.host());
    let browser = Browser::start().await;
    browser.sign_in(&address).await;
    let elsewhere = format!(
        "data:text/html,<h1>Chat</h1><a href='{address}/events?status=failed'>look</a>\
         <form method=post action='{address}/change'><input name=action value=retry><input name=all value=1>\
         <button>win</button></form><form method=post action='{address}/sign-out'><button id=out>out</button></form>"
    );
    browser.client.goto(&elsewhere).await.unwrap();
    browser.click("a").await;
    browser.wait_text("h1", "Events").await;
    browser.wait_count("tbody tr", 3).await;
    for button in ["form button", "#out"] {
        browser.client.goto(&elsewhere).await.unwrap();
        browser.click(button).await;
        browser.wait_text("h1", "Forbidden").await;
    }
    assert_eq!(test.number("SELECT count(*) FROM outbox_events WHERE status = 'failed'").await, 3);
    browser.client.goto(&format!("{address}/events")).await.unwrap();
    browser.wait_text("h1", "Events").await;
    // The browser logs the status of the refused forms.
    browser.complaints().await;
    browser.close().await;
}

#[tokio::test]
async fn nothing_keeps_people_with_disabilities_from_using_it() {
    let test = TestOutbox::new().await;
    fill(&test).await;
    let failed: String = test
        .sql()
        .await
        .query_one("SELECT id::text FROM outbox_events WHERE status = 'failed' LIMIT 1", &[])
        .await
        .unwrap()
        .get(0);
    test.run(&["events", "fail", &failed]).await;
    let (_worker, address) = serve(&test, &with(&test, &secrets()));
    wait_served(&address).await;
    let browser = Browser::start().await;
    browser.client.goto(&address).await.unwrap();
    assert_eq!(browser.barriers().await, Vec::<String>::new(), "signing in");
    browser.sign_in(&address).await;
    for scheme in ["light", "dark"] {
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        browser.chromium("Emulation.setEmulatedMedia", media).await;
        for path in [
            "/",
            "/events",
            "/audit",
            &format!("/events/{failed}"),
            "/confirm?action=fail&all=1&status=failed",
            "/confirm?action=delete&all=1&status=failed",
            "/backends/confirm?action=pause&name=default",
            "/doctor",
            "/nowhere",
        ] {
            browser.client.goto(&format!("{address}{path}")).await.unwrap();
            assert_eq!(browser.barriers().await, Vec::<String>::new(), "{path}, {scheme}");
        }
    }
    // The browser logs the status of the page that does not exist.
    browser.complaints().await;
    browser.close().await;
}
