//! What the console's pages tell an operator to do, without scripts.

use crate::support::process::Running;
use crate::support::{PATIENCE, eventually};
use crate::test_outbox::TestOutbox;
use crate::web::{Console, FAILED, OPERATOR, READER, insert, secrets};

/// The labels of the buttons in a part of a page that begins with this text and ends with the next end of such an element.
fn buttons(page: &str, begin: &str, end: &str) -> Vec<String> {
    let Some((_, rest)) = page.split_once(begin) else { return Vec::new() };
    let part = rest.split(end).next().unwrap();
    let labels = part.split("<button").skip(1).filter_map(|button| button.split(['>', '<']).nth(1));
    labels.map(str::to_owned).collect()
}

#[tokio::test]
async fn what_an_explanation_advises_is_a_button_for_operators() {
    let test = TestOutbox::new().await;
    let console = Console::open(&test, &secrets()).await;
    let [cookie, reader] = [OPERATOR, READER].map(|secret| console.sign_in(secret));
    let failed = insert(&test, FAILED).await;
    let hints = |page: &str| buttons(page, "class=\"actions hints\"", "</div>");
    let page = console.get(&format!("/events/{failed}"), &cookie).body;
    assert_eq!(hints(&page), ["Retry this event…"]);
    assert!(page.contains(&format!("name=\"id\" value=\"{failed}\"")), "{page}");
    let page = console.get(&format!("/events/{failed}"), &reader).body;
    assert!(hints(&page).is_empty(), "a reader changes nothing: {page}");
    // Words of an error are no advice.
    let mut columns = FAILED.to_vec();
    columns.retain(|(name, _)| *name != "last_error");
    columns.push(("last_error", "'try `outbox events fail`'"));
    let quoting = insert(&test, &columns).await;
    let page = console.get(&format!("/events/{quoting}"), &cookie).body;
    assert_eq!(hints(&page), ["Retry this event…"]);

    insert(&test, &[("event_type", "'t'"), ("source", "'s'"), ("scheduled_at", "now() - interval '1 minute'")]).await;
    let pending: String = test
        .sql()
        .await
        .query_one("SELECT id::text FROM outbox_events WHERE status = 'pending'", &[])
        .await
        .unwrap()
        .get(0);
    test.run(&["backends", "pause", "default"]).await;
    let page = console.get(&format!("/events/{pending}"), &cookie).body;
    assert_eq!(hints(&page), ["Resume default…"]);
    let page = console.get("/doctor", &cookie).body;
    assert_eq!(buttons(&page, "the backend is paused", "</tr>"), ["Resume default…"]);
    assert_eq!(buttons(&page, "events have failed", "</tr>"), ["Show failed events"]);
}

#[tokio::test]
async fn an_event_links_to_its_trace() {
    let test = TestOutbox::new().await;
    let settings = format!("{}\ntrace_url = \"https://jaeger.example/trace/{{trace_id}}?uiFind=outbox\"", secrets());
    let console = Console::open(&test, &settings).await;
    let cookie = console.sign_in(READER);
    let traced = |parent: &str| format!("'{{\"traceparent\": \"{parent}\"}}'::jsonb");
    let trace = "0af7651916cd43dd8448eb211c80319c";
    for (parent, is_linked) in
        [(format!("00-{trace}-b7ad6b7169203331-01"), true), ("00-javascript:alert(1)-1-01".to_owned(), false)]
    {
        let extensions = traced(&parent);
        let columns = [("event_type", "'t'"), ("source", "'s'"), ("extensions", extensions.as_str())];
        let id = insert(&test, &columns).await;
        let page = console.get(&format!("/events/{id}"), &cookie).body;
        let link = format!("href=\"https://jaeger.example/trace/{trace}?uiFind=outbox\"");
        assert_eq!(page.contains(&link), is_linked, "{page}");
        assert_eq!(page.contains("<dt>Trace</dt>"), is_linked, "{page}");
    }
}

#[tokio::test]
async fn the_page_of_an_event_says_what_its_consumer_groups_have_done_with_it() {
    let test = TestOutbox::new().await;
    let consumer = "[consumers.mailer]\nsource = \"default\"\nmax_deliveries = 1";
    let console = Console::open(&test, &format!("{consumer}\n{}", secrets())).await;
    let [cookie, reader] = [OPERATOR, READER].map(|secret| console.sign_in(secret));
    test.insert(1, 1).await;
    test.drain(&test.settings().write()).await;
    let id = test.event_ids().await[0].clone();
    let page = |cookie: &str| console.get(&format!("/events/{id}"), cookie).body;
    assert!(page(&cookie).contains("no group reads that"), "{}", page(&cookie));
    let settings = test.settings().worker(consumer).write();
    let mut failing = std::process::Command::new(env!("CARGO_BIN_EXE_outbox"));
    failing.env("OUTBOX_CONFIG", &settings).args(["consume", "mailer", "--exec", "false"]);
    let failing = Running::spawn(&mut failing);
    eventually("it is a dead letter", PATIENCE, async || page(&cookie).contains("dead letter")).await;
    drop(failing);
    assert_eq!(buttons(&page(&cookie), "Consumer groups", "</table>"), ["Retry this dead letter…"]);
    assert!(buttons(&page(&reader), "Consumer groups", "</table>").is_empty());
    let body = page(&cookie);
    let (_, letter) =
        body.split_once("name=\"consumer\" value=\"mailer\"><input type=\"hidden\" name=\"id\" value=\"").unwrap();
    let letter = letter.split('"').next().unwrap();
    let api = |id: &str| console.api("GET", &format!("/events/{id}/groups"), READER, None);
    let groups = api(&id).json();
    assert_eq!(groups["groups"]["groups"][0]["state"], "dead", "{groups}");
    assert_eq!(api(&uuid::Uuid::now_v7().to_string()).status, 404);
    let letters = console.get("/consumers/dead?consumer=mailer", &cookie).body;
    assert!(letters.contains(&format!("href=\"/events/{id}\"")), "{letters}");
    let confirm = crate::web::form(&[("consumer", "mailer"), ("action", "retry"), ("id", letter)]);
    let page = console.get(&format!("/consumers/confirm?{confirm}"), &cookie);
    assert!(page.status == 200 && page.body.contains("Retry 1 dead letter?"), "{}", page.body);
}

#[tokio::test]
async fn a_dead_letter_is_retried_by_the_consumer_that_reads_its_stream() {
    let test = TestOutbox::new().await;
    // Two consumers have one group; the first reads another publisher.
    let settings = "[publishers.audit]\nbackend = \"redis_stream\"\nurl = \"redis://127.0.0.1:1\"\nstream_name = \"audit\"\n\
        [consumers.auditor]\nsource = \"audit\"\ngroup = \"mail\"\n";
    let mailer = "[consumers.mailer]\nsource = \"default\"\ngroup = \"mail\"\nmax_deliveries = 1\n";
    let console = Console::open(&test, &format!("{settings}{mailer}{}", secrets())).await;
    let other = Console::open(&test, &format!("{settings}{}", secrets())).await;
    test.insert(1, 1).await;
    test.drain(&test.settings().write()).await;
    let id = test.event_ids().await[0].clone();
    let path = test.settings().worker(mailer).write();
    let mut failing = std::process::Command::new(env!("CARGO_BIN_EXE_outbox"));
    failing.env("OUTBOX_CONFIG", &path).args(["consume", "mailer", "--exec", "false"]);
    let failing = Running::spawn(&mut failing);
    let page = |console: &Console| console.get(&format!("/events/{id}"), &console.sign_in(OPERATOR)).body;
    let cookie = console.sign_in(OPERATOR);
    let open = || console.get(&format!("/events/{id}"), &cookie).body;
    eventually("it is a dead letter", PATIENCE, async || open().contains("dead letter")).await;
    drop(failing);
    let body = open();
    assert!(body.contains("name=\"consumer\" value=\"mailer\""), "{body}");
    assert!(!body.contains("value=\"auditor\""), "{body}");
    let groups = console.api("GET", &format!("/events/{id}/groups"), READER, None).json();
    assert_eq!(groups["groups"]["groups"][0]["configured_as"], "mailer", "{groups}");
    // Without a consumer that reads the stream there is no button.
    let body = page(&other);
    assert!(body.contains("dead letter"), "{body}");
    assert!(buttons(&body, "Consumer groups", "</table>").is_empty(), "{body}");
}

#[tokio::test]
async fn a_server_that_does_not_answer_hides_no_other_part_of_the_page_of_consumers() {
    let test = TestOutbox::new().await;
    // It accepts connections, and says nothing.
    let silent = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let port = silent.local_addr().unwrap().port();
    let name = test.stream_name().to_owned();
    let slow = format!(
        "backend = \"redis_stream\"\nurl = \"redis://127.0.0.1:{port}\"\nsocket_timeout = \"20s\"\nconnect_timeout = \"20s\""
    );
    let settings = format!(
        "[publishers.slow]\n{slow}\nstream_name = \"slow.{{type}}\"\n\
         [publishers.plain]\n{slow}\nstream_name = \"plain\"\n\
         [consumers.lagging]\nsource = \"plain\"\nsocket_timeout = \"20s\"\nconnect_timeout = \"20s\"\n\
         [consumers.mailer]\nsource = \"default\"\n{}",
        secrets()
    );
    let templated = |path: std::path::PathBuf| {
        let text = std::fs::read_to_string(path).unwrap();
        test.file(&text.replace(&format!("stream_name = \"{name}\""), &format!("stream_name = \"{name}.{{type}}\"")))
    };
    insert(&test, &[("event_type", "'placed'"), ("source", "'s'"), ("scheduled_at", "now() - interval '1 minute'")])
        .await;
    test.drain(&templated(test.settings().write())).await;
    let console = Console::serve(&test, &templated(test.settings().worker(&settings).write()), &[]).await;
    let began = std::time::Instant::now();
    let page = console.get("/consumers", &console.sign_in(READER)).body;
    assert!(began.elapsed() < std::time::Duration::from_secs(10), "{:?}", began.elapsed());
    for text in ["default: 1 stream", "Group mailer", "Consumer lagging: ", "Publisher slow: ", "no answer within 3s"] {
        assert!(page.contains(text), "{text}: {page}");
    }
}

#[tokio::test]
async fn streams_that_a_template_made_are_listed() {
    let test = TestOutbox::new().await;
    let name = test.stream_name().to_owned();
    let path = test.settings().write();
    let text = std::fs::read_to_string(&path).unwrap();
    let templated = text.replace(&format!("stream_name = \"{name}\""), &format!("stream_name = \"{name}.{{type}}\""));
    assert_ne!(text, templated);
    let settings = test.file(&templated);
    for kind in ["placed", "shipped"] {
        let kind = format!("'{kind}'");
        insert(
            &test,
            &[("event_type", kind.as_str()), ("source", "'s'"), ("scheduled_at", "now() - interval '1 minute'")],
        )
        .await;
    }
    test.drain(&settings).await;
    let served = test.file(&format!("{templated}\n{}\n", secrets()));
    let console = Console::serve(&test, &served, &[]).await;
    let page = console.get("/consumers", &console.sign_in(READER)).body;
    assert!(page.contains("default: 2 streams"), "{page}");
    for kind in ["placed", "shipped"] {
        assert!(page.contains(&format!("<code>{name}.{kind}</code>")), "{page}");
    }
}

#[tokio::test]
async fn an_empty_page_says_what_to_do() {
    let test = TestOutbox::new().await;
    let console = Console::open(&test, &secrets()).await;
    let cookie = console.sign_in(OPERATOR);
    for (path, texts) in [
        ("/events", &["The outbox has no events yet", "outbox publish order.placed"][..]),
        ("/events?type=none", &["No event matches", "Show all events"]),
        ("/consumers", &["[consumers.mailer]"]),
        ("/audit", &["No operator has changed anything"]),
    ] {
        let page = console.get(path, &cookie).body;
        for text in texts {
            assert!(page.contains(text), "{path}, {text}: {page}");
        }
    }
    eventually("the charts say it too", PATIENCE, async || {
        let page = console.get("/", &cookie).body;
        [
            "Start one: <code data-copy>outbox worker",
            "Nothing was published, rejected or failed",
            "No published event of this time",
        ]
        .iter()
        .all(|text| page.contains(text))
    })
    .await;
}

#[tokio::test]
async fn an_open_page_asks_for_one_part_at_a_time() {
    let test = TestOutbox::new().await;
    let console = Console::open(&test, &secrets()).await;
    let cookie = console.sign_in(READER);
    let part = |id: &str| {
        let headers = vec![("cookie", cookie.clone()), ("hx-request", "true".to_owned()), ("hx-target", id.to_owned())];
        console.ask("GET", "/?range=day", crate::web::Ask { headers, ..Default::default() }).body
    };
    let has = |page: &str| [page.contains("id=\"live\""), page.contains("id=\"charts\"")];
    assert_eq!([has(&part("live")), has(&part("charts"))], [[true, false], [false, true]]);
    assert_eq!(has(&console.get("/", &cookie).body), [true, true]);
    assert_eq!(console.get("/?range=year", &cookie).status, 400);
}

#[tokio::test]
async fn the_charts_of_a_rare_backend_show_its_own_events() {
    let test = TestOutbox::new().await;
    // In one minute a hundred of the frequent backend come before one of the rare one.
    let sql = "INSERT INTO outbox_events (id, event_type, source, status, publisher_backend, created_at, scheduled_at, published_at)
        SELECT gen_random_uuid(), 't', 's', 'published', CASE WHEN n = 100 THEN 'rare' ELSE 'default' END, at, at, at + interval '3 seconds'
        FROM generate_series(0, 100) n, LATERAL (SELECT date_trunc('minute', now()) - interval '5 minutes' + n * interval '100 milliseconds') t(at)";
    test.sql().await.batch_execute(sql).await.unwrap();
    let console = Console::open(&test, &secrets()).await;
    let cookie = console.sign_in(READER);
    for (backend, caption) in [("rare", "of this backend among the first 4,000"), ("default", "of this backend")] {
        eventually("the latency is drawn", PATIENCE, async || {
            let page = console.get(&format!("/?backend={backend}"), &cookie).body;
            page.contains("median up to 3.0 s") && page.contains(caption)
        })
        .await;
    }
    eventually("a backend without events has none", PATIENCE, async || {
        console.get("/?backend=nowhere", &cookie).body.contains("No published event of this time")
    })
    .await;
}
