//! Every page at three widths, light and dark: nothing is wider than the screen, and pictures are taken of all.

use serde_json::json;

use super::{Browser, fill};
use crate::support::process::Running;
use crate::support::{PATIENCE, eventually};
use crate::test_outbox::TestOutbox;
use crate::web::{Console, insert, secrets};

const WIDTHS: [u32; 3] = [390, 1024, 1600];
const SCHEMES: [&str; 2] = ["light", "dark"];

const CONSUMERS: &str =
    "[publishers.reports]\nbackend = \"local\"\n[consumers.mailer]\nsource = \"default\"\nmax_deliveries = 1";

/// An outbox with something to see on every page: due, failed and published events, dead letters, changes and findings.
async fn busy() -> (TestOutbox, Console, [String; 2]) {
    let test = TestOutbox::new().await;
    test.insert(3, 1).await;
    test.drain(&test.settings().write()).await;
    let settings = test.settings().worker(CONSUMERS).write();
    let mut failing = std::process::Command::new(env!("CARGO_BIN_EXE_outbox"));
    failing.env("OUTBOX_CONFIG", &settings).args(["consume", "mailer", "--exec", "false"]);
    let failing = Running::spawn(&mut failing);
    let console = Console::open(&test, &format!("{CONSUMERS}\n{}", secrets())).await;
    let letters = async || console.api("GET", "/consumers/mailer/dead", crate::web::READER, None).json();
    eventually("all are dead", PATIENCE, async || letters().await.as_array().is_some_and(|all| all.len() == 3)).await;
    drop(failing);
    let sent = test.event_ids().await[0].clone();
    fill(&test).await;
    let parent = "'{\"traceparent\": \"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01\"}'::jsonb";
    let failed = insert(
        &test,
        &[
            ("event_type", "'com.example.orders.order-placed.v2'"),
            ("source", "'https://shop.example/orders'"),
            ("subject", "'order-with-a-long-subject-4711-and-more-of-it'"),
            ("status", "'failed'"),
            ("partition_key", "'customer-with-a-long-key-4711'"),
            ("retry_count", "3"),
            ("last_error", "'POST https://hooks.example/orders: 503 Service Unavailable: upstream connect error or disconnect/reset before headers'"),
            ("extensions", parent),
            ("data", "'{\"order\": 4711, \"lines\": [{\"sku\": \"A-1\", \"count\": 2, \"price\": 10.50}], \"note\": null}'"),
        ],
    )
    .await;
    insert(&test, &[("event_type", "'order.placed'"), ("source", "'/shop'"), ("publisher_backend", "'reports'")]).await;
    test.run(&["events", "fail", &failed]).await;
    (test, console, [sent, failed])
}

#[tokio::test]
async fn no_page_is_wider_than_its_screen_and_pictures_show_each() {
    let (_test, console, [sent, failed]) = busy().await;
    let address = format!("http://{}", console.host());
    let browser = Browser::start().await;
    browser.sign_in(&address).await;
    browser.wait_count("figure.chart", 3).await;
    let sent = format!("/events/{sent}");
    let failed = format!("/events/{failed}");
    for scheme in SCHEMES {
        let media = json!({"features": [{"name": "prefers-color-scheme", "value": scheme}]});
        browser.chromium("Emulation.setEmulatedMedia", media).await;
        for width in WIDTHS {
            browser.resize(width, 900).await;
            for (name, path) in [
                ("overview", "/"),
                ("overview-month", "/?range=month"),
                ("events", "/events"),
                ("events-failed", "/events?status=failed&order=oldest"),
                ("events-none", "/events?type=no.such.type"),
                ("event-sent", &sent),
                ("event-failed", &failed),
                ("consumers", "/consumers"),
                ("dead-letters", "/consumers/dead?consumer=mailer"),
                ("changes", "/audit"),
                ("doctor", "/doctor"),
                ("confirm", "/confirm?action=delete&all=1&status=failed"),
                ("pause", "/backends/confirm?action=pause&name=default"),
            ] {
                browser.client.goto(&format!("{address}{path}")).await.unwrap();
                if path.starts_with("/?") || path == "/" {
                    browser.wait_count("figure.chart", 3).await;
                }
                let script = "return document.documentElement.scrollWidth - window.innerWidth";
                let excess = browser.client.execute(script, Vec::new()).await.unwrap();
                assert!(excess.as_i64().unwrap() <= 0, "{path} at {width}, {scheme}: {excess} too wide");
                browser.whole_picture(&format!("{name}-{width}-{scheme}"), width).await;
            }
        }
    }
    browser.close().await;
}
