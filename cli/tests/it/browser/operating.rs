//! Operators at work, and attackers.

use serde_json::json;

use super::{Browser, fill, serve, wait_served};
use crate::support::{PATIENCE, eventually};
use crate::test_outbox::TestOutbox;
use crate::web::{Console, insert, secrets, with};

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
        // The overview has counted.
        let shows = async || browser.text("main").await.contains("alert(1)");
        eventually(&format!("{path} shows it"), PATIENCE, shows).await;
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
