//! What the scripts add for readers: charts that say their values, times in the reader's zone, keys, copies.

use serde_json::{Value, json};

use super::{Browser, fill};
use crate::test_outbox::TestOutbox;
use crate::web::{Console, insert, secrets};

async fn evaluate(browser: &Browser, script: &str) -> Value {
    browser.client.execute(script, Vec::new()).await.unwrap()
}

/// Presses keys by their names, as a keyboard does.
async fn press(browser: &Browser, keys: &[&str]) {
    for key in keys {
        let text = match *key {
            "Enter" => "\r",
            key if key.len() == 1 => key,
            _ => "",
        };
        browser.chromium("Input.dispatchKeyEvent", json!({"type": "keyDown", "key": key, "text": text})).await;
        browser.chromium("Input.dispatchKeyEvent", json!({"type": "keyUp", "key": key})).await;
    }
}

async fn open(test: &TestOutbox) -> (Console, String, Browser) {
    let console = Console::open(test, &secrets()).await;
    let address = format!("http://{}", console.host());
    let browser = Browser::start().await;
    browser.sign_in(&address).await;
    (console, address, browser)
}

#[tokio::test]
async fn a_chart_says_the_values_under_the_pointer_and_its_table_has_them_all() {
    let test = TestOutbox::new().await;
    fill(&test).await;
    let (_console, address, browser) = open(&test).await;
    browser.wait_count("figure.chart", 3).await;
    assert_eq!(browser.count("#throughput .y span").await, 3);
    assert_eq!(browser.count("#throughput .x time").await, 4);
    // Each has a name of its own.
    let names = "return [...document.querySelectorAll('.plot')].map((plot) => plot.getAttribute('aria-label'))";
    let names = evaluate(&browser, names).await;
    for (n, title) in ["Throughput", "Latency"].into_iter().enumerate() {
        assert!(names[n].as_str().unwrap().contains(title), "{names}");
    }
    // The keyboard moves from bar to bar: what it says is in the table.
    evaluate(&browser, "document.querySelector('#throughput .plot').focus()").await;
    press(&browser, &["ArrowLeft"]).await;
    browser.wait_text("#throughput .readout", "published").await;
    press(&browser, &["ArrowLeft"]).await;
    // Both in one step: the charts refresh themselves.
    let script = "const row = document.querySelectorAll('#throughput tbody tr')[1]; \
        return [document.querySelector('#throughput .readout').innerText, ...[...row.cells].map((cell) => cell.textContent.trim())]";
    let found = evaluate(&browser, script).await;
    let [said, at, published, rejected, failed] = [0, 1, 2, 3, 4].map(|n| found[n].as_str().unwrap().to_owned());
    assert_eq!(said, format!("{at}\npublished {published}\nrejected {rejected}\nfailed {failed}"));
    // Minutes may have passed since the test's events were published.
    let most = "return Math.max(...[...document.querySelectorAll('#throughput tbody tr')].slice(1, 5).map((row) => +row.cells[1].textContent))";
    assert!(evaluate(&browser, most).await.as_f64().unwrap() >= 180.0, "{found}");
    evaluate(&browser, "document.getElementById('charts').scrollIntoView()").await;
    browser.picture("charts").await;
    // So does the pointer.
    let point = "const bars = document.querySelector('#latency svg').getBoundingClientRect(); \
        document.querySelector('#latency svg').dispatchEvent(new PointerEvent('pointermove', \
        {bubbles: true, clientX: bars.right - 1, clientY: bars.top + 9}))";
    evaluate(&browser, point).await;
    browser.wait_text("#latency .readout", "median").await;
    // The table stays open when the charts refresh themselves, and the address keeps the range.
    browser.click("nav.choice a:nth-child(2)").await;
    browser.wait_count("#throughput tbody tr", 24).await;
    assert!(browser.client.current_url().await.unwrap().as_str().ends_with("/?range=day"));
    browser.click("#throughput summary").await;
    evaluate(&browser, "document.activeElement.blur(); window.old = document.getElementById('charts')").await;
    evaluate(&browser, "htmx.trigger('#charts', 'refresh'); htmx.ajax('GET', '/?range=day', {source: '#charts', target: '#charts', select: '#charts', swap: 'outerHTML'})").await;
    let replaced =
        "return document.getElementById('charts') !== window.old && document.getElementById('throughput-table').open";
    crate::support::eventually("it is refreshed and open", crate::support::PATIENCE, async || {
        evaluate(&browser, replaced).await == true
    })
    .await;
    browser.client.goto(&format!("{address}/?range=month&backend=default")).await.unwrap();
    browser.wait_count("#age tbody tr, #throughput tbody tr", 120).await;
    browser.close().await;
}

#[tokio::test]
async fn times_are_in_the_readers_zone_and_forms_send_utc() {
    let test = TestOutbox::new().await;
    let columns =
        [("event_type", "'t'"), ("source", "'s'"), ("created_at", "'2026-01-31 12:00:00.25+00'::timestamptz")];
    let id = insert(&test, &columns).await;
    let (_console, address, browser) = open(&test).await;
    browser.chromium("Emulation.setTimezoneOverride", json!({"timezoneId": "Asia/Kolkata"})).await;
    browser
        .client
        .goto(&format!("{address}/events?since=2026-01-31T11:59:00&until=2026-01-31T12:01:00Z"))
        .await
        .unwrap();
    browser.wait_text("tbody time", "2026-01-31 17:30:00").await;
    let title = "return document.querySelector('tbody time').title";
    assert_eq!(evaluate(&browser, title).await, "2026-01-31 12:00:00.250000 UTC");
    browser.wait_text("#zone", "Asia/").await;
    // The fields have the reader's time as well; the address has UTC, and nothing that is empty.
    assert_eq!(evaluate(&browser, "return document.querySelector('[name=since]').value").await, "2026-01-31T17:29");
    browser.click("form[role=search] button").await;
    browser.wait_count("tbody tr", 1).await;
    let url = browser.client.current_url().await.unwrap();
    assert_eq!(url.query(), Some("since=2026-01-31T11%3A59%3A00&until=2026-01-31T12%3A01%3A00&order=newest"));
    // Everything in UTC, and from then on.
    browser.click("#zone button").await;
    browser.wait_text("tbody time", "2026-01-31 12:00:00 UTC").await;
    browser.client.goto(&format!("{address}/events/{id}")).await.unwrap();
    browser.wait_text("#live td time", "2026-01-31 12:00:00 UTC").await;
    browser.close().await;
}

#[tokio::test]
async fn the_keyboard_reaches_pages_rows_and_the_search() {
    let test = TestOutbox::new().await;
    fill(&test).await;
    let (_console, address, browser) = open(&test).await;
    press(&browser, &["g", "e"]).await;
    browser.wait_text("h1", "Events").await;
    press(&browser, &["j", "j", "x"]).await;
    let selected =
        "return [...document.querySelectorAll('tbody tr')].findIndex((row) => row.querySelector('input').checked)";
    assert_eq!(evaluate(&browser, selected).await, 1);
    press(&browser, &["k"]).await;
    let id = evaluate(&browser, "return document.activeElement.textContent").await;
    press(&browser, &["Enter"]).await;
    browser.wait_text("h1", id.as_str().unwrap()).await;
    // A key in a field is text.
    press(&browser, &["/"]).await;
    browser.wait_text("h1", "Events").await;
    press(&browser, &["/"]).await;
    press(&browser, &["g", "e", "?"]).await;
    assert_eq!(evaluate(&browser, "return document.querySelector('[type=search]').value").await, "ge?");
    // The keys are listed, and can be switched off.
    browser.client.goto(&format!("{address}/")).await.unwrap();
    press(&browser, &["?"]).await;
    browser.wait_text("dialog[open]", "Next and previous row").await;
    assert_eq!(browser.barriers().await, Vec::<String>::new(), "the list of keys");
    browser.click("dialog input").await;
    browser.click("dialog button").await;
    press(&browser, &["g", "e"]).await;
    press(&browser, &["?"]).await;
    assert_eq!(browser.count("dialog[open]").await, 0);
    assert_eq!(browser.text("h1").await, "Overview");
    browser.close().await;
}

#[tokio::test]
async fn data_is_folded_copied_and_its_numbers_stay_as_they_are() {
    let test = TestOutbox::new().await;
    let long = "(SELECT jsonb_build_object('exact', 1.10, 'big', 12345678901234567890, 'list', jsonb_agg(n)) FROM generate_series(1, 60) n)";
    let columns = [("event_type", "'t'"), ("source", "'s'"), ("data", long)];
    let id = insert(&test, &columns).await;
    let (_console, address, browser) = open(&test).await;
    browser.client.goto(&format!("{address}/events/{id}")).await.unwrap();
    browser.wait_text("details.payload summary", "bytes of JSON").await;
    assert_eq!(evaluate(&browser, "return document.querySelector('details.payload').open").await, false);
    browser.click("details.payload summary").await;
    let grant = json!({"permissions": ["clipboardReadWrite", "clipboardSanitizedWrite"]});
    browser.chromium("Browser.grantPermissions", grant).await;
    browser.click("details.payload button.copy").await;
    // Its name says what it copies, and then what is seen.
    let name = "const [button] = document.querySelectorAll('details.payload button.copy'); \
        return button.hasAttribute('aria-label') ? 'hidden by a label' : button.textContent";
    browser.wait_text("details.payload button.copy", "Copied").await;
    assert_eq!(evaluate(&browser, name).await, "Copied data");
    let said = "const said = document.querySelector('[role=status]#copied'); return said.textContent";
    assert_eq!(evaluate(&browser, said).await, "Copied data");
    crate::support::eventually("it can copy again", crate::support::PATIENCE, async || {
        evaluate(&browser, name).await == "Copy data"
    })
    .await;
    let read = "const done = arguments[0]; navigator.clipboard.readText().then(done, (error) => done(String(error)))";
    let copied = browser.client.execute_async(read, Vec::new()).await.unwrap();
    let copied = copied.as_str().unwrap();
    assert!(copied.contains("\"exact\": 1.10") && copied.contains("\"big\": 12345678901234567890"), "{copied}");
    assert_eq!(copied.lines().count(), 66, "{copied}");
    browser.close().await;
}

#[tokio::test]
async fn the_hour_that_comes_twice_is_told_apart() {
    let test = TestOutbox::new().await;
    let at = |time: &str| format!("'2026-10-25 {time}+00'::timestamptz");
    for time in ["00:30:00", "01:30:00", "02:30:00"] {
        let time = at(time);
        insert(&test, &[("event_type", "'t'"), ("source", "'s'"), ("created_at", time.as_str())]).await;
    }
    let (_console, address, browser) = open(&test).await;
    browser.chromium("Emulation.setTimezoneOverride", json!({"timezoneId": "Europe/Berlin"})).await;
    let list = format!("{address}/events?order=oldest&since=2026-10-25T01:30:00&until=2026-10-25T03:00:00");
    for (since, expected) in [
        (
            "2026-10-25T00:00:00",
            vec!["2026-10-25 02:30:00 +02:00", "2026-10-25 02:30:00 +01:00", "2026-10-25 03:30:00"],
        ),
        ("2026-10-25T01:30:00", vec!["2026-10-25 02:30:00 +01:00", "2026-10-25 03:30:00"]),
    ] {
        browser.client.goto(&list.replace("2026-10-25T01:30:00", since)).await.unwrap();
        browser.wait_count("tbody tr", expected.len()).await;
        let times = "return [...document.querySelectorAll('tbody time')].map((time) => time.textContent)";
        assert_eq!(evaluate(&browser, times).await, json!(expected));
    }
    // A field that the reader left alone means the same hour as before.
    browser.click("form[role=search] button").await;
    browser.wait_count("tbody tr", 2).await;
    let url = browser.client.current_url().await.unwrap();
    assert!(url.query().unwrap().contains("since=2026-10-25T01%3A30%3A00"), "{url}");
    browser.click("#zone button").await;
    browser.wait_text("tbody time", "2026-10-25 01:30:00 UTC").await;
    assert_eq!(evaluate(&browser, "return document.querySelector('[name=since]').value").await, "2026-10-25T01:30");
    browser.close().await;
}

#[tokio::test]
async fn pages_work_where_the_browser_stores_nothing() {
    let test = TestOutbox::new().await;
    fill(&test).await;
    let (_console, address, browser) = open(&test).await;
    browser.chromium("Emulation.setTimezoneOverride", json!({"timezoneId": "Asia/Kolkata"})).await;
    let blocked = "Object.defineProperty(window, 'localStorage', {get() { throw new DOMException('blocked', 'SecurityError'); }})";
    browser.chromium("Page.addScriptToEvaluateOnNewDocument", json!({"source": blocked})).await;
    browser.client.goto(&format!("{address}/events")).await.unwrap();
    let is_blocked = "try { localStorage.getItem('x'); return false; } catch { return true; }";
    assert_eq!(evaluate(&browser, is_blocked).await, true);
    // A choice holds for the page.
    browser.wait_text("#zone", "Asia/").await;
    browser.click("#zone button").await;
    browser.wait_text("tbody time", "UTC").await;
    browser.wait_text("#zone", "Times are in UTC").await;
    browser.click("#zone button").await;
    browser.wait_text("#zone", "Asia/").await;
    press(&browser, &["?"]).await;
    browser.click("dialog input").await;
    browser.click("dialog button").await;
    press(&browser, &["?"]).await;
    assert_eq!(browser.count("dialog[open]").await, 0, "the keys are off");
    browser.client.goto(&format!("{address}/")).await.unwrap();
    browser.wait_count("figure.chart", 3).await;
    press(&browser, &["g", "e"]).await;
    browser.wait_text("h1", "Events").await;
    browser.close().await;
}

#[tokio::test]
async fn a_choice_of_a_backend_is_submitted_by_its_button_alone() {
    let test = TestOutbox::new().await;
    fill(&test).await;
    insert(&test, &[("event_type", "'t'"), ("source", "'s'"), ("publisher_backend", "'rare'")]).await;
    let (_console, _, browser) = open(&test).await;
    let form = "#charts form.choice";
    browser.wait_count(&format!("{form} option[value=default]"), 1).await;
    let choose = "let submitted = 0; addEventListener('submit', () => { submitted += 1; }); \
        const select = document.querySelector('#charts select'); select.focus(); select.value = 'default'; \
        for (const kind of ['input', 'change']) select.dispatchEvent(new Event(kind, {bubbles: true})); return submitted";
    assert_eq!(evaluate(&browser, choose).await, 0, "the reader has only chosen");
    browser.click(&format!("{form} button")).await;
    crate::support::eventually("the address has the backend", crate::support::PATIENCE, async || {
        browser.client.current_url().await.unwrap().query() == Some("range=hour&backend=default")
    })
    .await;
    browser.close().await;
}
