//! Operators' work in the console next to running workers: events deleted and moved, backends paused, and the doctor.

use serde_json::{Value, json};

use crate::doctor::Patient;
use crate::support::process::Running;
use crate::support::{PATIENCE, eventually};
use crate::test_outbox::TestOutbox;
use crate::web::{Console, FAILED, OPERATOR, READER, Said, form, insert, secrets};

const PUBLISHED: &[(&str, &str)] = &[("event_type", "'t'"), ("source", "'s'"), ("status", "'published'")];
const PENDING: &[(&str, &str)] = &[("event_type", "'t'"), ("source", "'s'")];

fn title(said: &Said) -> &str {
    let (_, title) = said.body.split_once("<h1>").unwrap_or_else(|| panic!("{} {}", said.status, said.body));
    title.split("</h1>").next().unwrap()
}

fn submit(console: &Console, cookie: &str, path: &str, pairs: &[(&str, &str)]) -> Said {
    let token = console.get("/", cookie).token();
    console.submit(path, cookie, &form(&[pairs, &[("csrf", &token)]].concat()))
}

fn post(console: &Console, path: &str, json: Value) -> Said {
    console.api("POST", path, OPERATOR, Some(json))
}

#[tokio::test]
async fn events_are_deleted_after_a_confirmation_that_says_what_is_lost() {
    let test = TestOutbox::new().await;
    let console = Console::open(&test, &secrets()).await;
    let cookie = console.sign_in(OPERATOR);
    let ids = [insert(&test, FAILED).await, insert(&test, PUBLISHED).await, insert(&test, PENDING).await];
    assert!(console.get(&format!("/events/{}", ids[0]), &cookie).body.contains("value=\"delete\""));

    let confirm = console.get("/confirm?action=delete&all=1&type=t", &cookie);
    assert_eq!(title(&confirm), "Delete 3 events?");
    for text in ["deleted for good", "cannot be undone", "Not published: 2 events."] {
        assert!(confirm.body.contains(text), "{text}: {}", confirm.body);
    }
    let unfiltered = console.get("/confirm?action=delete&all=1", &cookie);
    assert!(unfiltered.body.contains("No filter is set") && !confirm.body.contains("No filter is set"));
    let published = console.get(&format!("/confirm?action=delete&id={}", ids[1]), &cookie);
    assert!(title(&published) == "Delete 1 event?" && published.body.contains("All of them were published."));

    let count = |query: &str| console.api("GET", &format!("/events/count?action=delete{query}"), READER, None).json();
    assert_eq!((&count("")["count"], &count("&status=failed")["count"]), (&json!(3), &json!(1)));
    let one = submit(&console, &cookie, "/change", &[("action", "delete"), ("id", &ids[0])]);
    assert_eq!(title(&one), "1 event deleted");
    assert_eq!(console.get(&format!("/events/{}", ids[0]), &cookie).status, 404);
    let two = submit(&console, &cookie, "/change", &[("action", "delete"), ("id", &ids[0]), ("id", &ids[1])]);
    assert_eq!(title(&two), "1 event deleted");
    assert!(two.body.contains("1 event skipped") && two.body.contains("no longer exists"), "{}", two.body);
    let all = submit(&console, &cookie, "/change", &[("action", "delete"), ("all", "1"), ("type", "t")]);
    assert_eq!(title(&all), "1 event deleted");

    let by_api = [insert(&test, FAILED).await, insert(&test, PENDING).await];
    let failed = post(&console, "/events/changes", json!({"action": "delete", "filter": {"status": "failed"}}));
    assert_eq!(failed.json(), json!({"changed": 1}));
    let both = post(&console, "/events/changes", json!({"action": "delete", "ids": by_api})).json();
    assert_eq!((&both["changed"], &both["skipped"][0]["id"]), (&json!(1), &json!(by_api[0])), "{both}");
    assert_eq!(test.number("SELECT count(*) FROM outbox_events").await, 0);

    let audit = console.get("/audit", &cookie).body;
    assert!(audit.contains(&ids[0]) && !audit.contains(&format!("/events/{}", ids[0])), "a link to nothing: {audit}");
    let rows = console.api("GET", "/audit", READER, None).json();
    assert!(rows["entries"].as_array().unwrap().iter().all(|row| row["action"] == "delete"), "{rows}");
}

#[tokio::test]
async fn an_event_that_was_sent_and_is_not_recorded_is_skipped_with_the_reason() {
    let test = TestOutbox::new().await;
    let console = Console::open(&test, &secrets()).await;
    let cookie = console.sign_in(OPERATOR);
    test.insert(5, 1).await;
    let locked: String =
        test.sql().await.query_one("SELECT id::text FROM outbox_events LIMIT 1", &[]).await.unwrap().get(0);
    let holder = test.sql().await;
    let lock = format!("BEGIN; SELECT FROM outbox_events WHERE id = '{locked}' FOR UPDATE");
    holder.batch_execute(&lock).await.unwrap();
    let _worker = test.worker(&test.settings().write(), "worker");
    test.wait_length(5).await;
    eventually("the others are recorded", PATIENCE, async || test.unpublished().await == 1).await;

    for (path, request) in [
        ("/events/changes", json!({"action": "delete", "ids": [locked]})),
        ("/events/moves", json!({"to": "audit", "ids": [locked]})),
    ] {
        let said = post(&console, path, request).json();
        assert_eq!((&said["changed"], &said["skipped"][0]["id"]), (&json!(0), &json!(locked)), "{said}");
        let reason = said["skipped"][0]["reason"].as_str().unwrap();
        assert!(reason.contains("was sent, and that is not recorded yet"), "{reason}");
    }
    let page = submit(&console, &cookie, "/change", &[("action", "delete"), ("id", &locked)]);
    assert_eq!(title(&page), "0 events deleted");
    assert!(page.body.contains("was sent, and that is not recorded yet"), "{}", page.body);

    holder.batch_execute("ROLLBACK").await.unwrap();
    test.wait_published().await;
    test.assert_delivered().await;
    let page = submit(&console, &cookie, "/change", &[("action", "delete"), ("all", "1"), ("status", "published")]);
    assert_eq!(title(&page), "5 events deleted");
}

#[tokio::test]
async fn events_of_a_misspelt_backend_are_moved_to_the_right_one() {
    let test = TestOutbox::new().await;
    let console = Console::open(&test, &secrets()).await;
    let cookie = console.sign_in(OPERATOR);
    test.insert(4, 1).await;
    let misspell = "UPDATE outbox_events SET publisher_backend = 'defualt'";
    test.sql().await.execute(misspell, &[]).await.unwrap();
    let ids = test.sql().await.query("SELECT id::text FROM outbox_events ORDER BY seq", &[]).await.unwrap();
    let ids: Vec<String> = ids.iter().map(|row| row.get(0)).collect();

    let confirm = console.get("/confirm?action=move&all=1&backend=defualt", &cookie);
    assert!(title(&confirm) == "Move 4 events?" && confirm.body.contains("name=\"to\""), "{}", confirm.body);
    for (to, problem) in [("", "The new backend is missing."), ("Not a name", "publisher_backend")] {
        let wrong = [("action", "move"), ("id", ids[0].as_str()), ("to", to)];
        let said = submit(&console, &cookie, "/change", &wrong);
        assert!(said.status == 400 && said.body.contains(problem), "{to}: {}", said.body);
    }
    let one = submit(&console, &cookie, "/change", &[("action", "move"), ("id", &ids[0]), ("to", "default")]);
    assert_eq!(title(&one), "1 event moved");
    let by_ids = post(&console, "/events/moves", json!({"to": "default", "ids": [ids[1]]}));
    assert_eq!(by_ids.json(), json!({"changed": 1}));
    let rest = post(&console, "/events/moves", json!({"to": "default", "filter": {"backend": "defualt"}}));
    assert_eq!(rest.json(), json!({"changed": 2}));
    test.drain(&test.settings().write()).await;
    test.assert_delivered().await;
    for wrong in [json!({"ids": []}), json!({"to": "Not a name", "ids": []}), json!({"to": "a", "filter": {"x": 1}})] {
        assert_eq!(post(&console, "/events/moves", wrong.clone()).status, 400, "{wrong}");
    }
    let audit = console.get("/audit", &cookie).body;
    for text in ["move", "to &quot;default&quot;", "backend=defualt", &ids[0]] {
        assert!(audit.contains(text), "{text}: {audit}");
    }
}

#[tokio::test]
async fn a_backend_is_paused_with_a_reason_and_resumed_after_a_confirmation() {
    const REASON: &str = "the consumers are being moved";
    let test = TestOutbox::new().await;
    let console = Console::open(&test, &secrets()).await;
    let cookie = console.sign_in(OPERATOR);
    let _worker = test.worker(&test.settings().write(), "worker");
    test.wait_owners(&["worker"]).await;

    let confirm = console.get("/backends/confirm?action=pause&name=default", &cookie);
    assert!(
        title(&confirm) == "Pause backend default?" && confirm.body.contains("name=\"reason\""),
        "{}",
        confirm.body
    );
    let pause = [("action", "pause"), ("name", "default"), ("reason", REASON)];
    assert_eq!(title(&submit(&console, &cookie, "/backends/change", &pause)), "Backend default is paused");
    let again = json!({"action": "pause", "name": "default"});
    eventually("the worker sends nothing", PATIENCE, async || {
        post(&console, "/backends/changes", again.clone()).json() == json!({"changed": false, "senders": []})
    })
    .await;
    test.insert(3, 1).await;
    let overview = async |text: &str| {
        eventually(text, PATIENCE, async || console.get("/", &cookie).body.contains(text)).await;
        console.get("/", &cookie).body
    };
    let page = overview("Resume…").await;
    for text in ["paused", "operator in the console", REASON] {
        assert!(page.contains(text), "{text}: {page}");
    }
    let backend = console.api("GET", "/overview", READER, None).json()["backends"][0].clone();
    assert_eq!((&backend["paused"], &backend["pause_reason"]), (&json!(true), &json!(REASON)), "{backend}");
    assert_eq!(test.length().await, 0);

    let confirm = console.get("/backends/confirm?action=resume&name=default", &cookie);
    assert_eq!(title(&confirm), "Resume backend default?");
    let resume = [("action", "resume"), ("name", "default")];
    assert_eq!(title(&submit(&console, &cookie, "/backends/change", &resume)), "Backend default is resumed");
    test.wait_published().await;
    assert_eq!(title(&submit(&console, &cookie, "/backends/change", &resume)), "Backend default was not paused");
    overview("Pause…").await;
    // As a worker does whose receiver answers 410.
    let gone = "INSERT INTO outbox_pauses (backend, host, reason) VALUES ('default', 'hooks.example', '410')";
    test.sql().await.batch_execute(gone).await.unwrap();
    let page = overview("paused hosts: ").await;
    assert!(page.contains("hooks.example") && page.contains("Pause…"), "{page}");

    let change = |json: Value| post(&console, "/backends/changes", json).status;
    assert_eq!(change(json!({"action": "pause", "name": "nothing"})), 404);
    let unknown = [("action", "pause"), ("name", "nothing")];
    assert_eq!(submit(&console, &cookie, "/backends/change", &unknown).status, 404);
    for wrong in [json!({"action": "stop", "name": "default"}), json!({"action": "pause"}), json!({})] {
        assert_eq!(change(wrong.clone()), 400, "{wrong}");
    }
    let rows = console.api("GET", "/audit", READER, None).json();
    let [resumed, paused] = rows["entries"].as_array().unwrap().as_slice() else { panic!("{rows}") };
    assert_eq!([&resumed["action"], &resumed["filter"]], ["resume", "backend=default"]);
    assert_eq!([&paused["action"], &paused["reason"], &paused["from"]], ["pause", REASON, "127.0.0.1"]);
    let audit = console.get("/audit", &cookie).body;
    assert!(audit.contains(REASON) && !audit.contains("<td>0 events"), "{audit}");
}

#[tokio::test]
async fn the_doctor_shows_what_it_finds_and_looks_once_in_ten_seconds() {
    let patient = Patient::new().await;
    let name = &patient.test.database().name;
    patient.sql(&format!("ALTER DATABASE \"{name}\" SET synchronous_commit = off")).await;
    let console = Console::open(&patient.test, &secrets()).await;
    let first = console.api("GET", "/doctor", READER, None).json();
    let [finding] = first["findings"].as_array().unwrap().as_slice() else { panic!("{first}") };
    assert_eq!(
        [&finding["check"], &finding["severity"], &finding["part"]],
        ["synchronous_commit", "advice", "database"]
    );
    patient.sql(&format!("ALTER DATABASE \"{name}\" RESET ALL")).await;
    let reader = console.sign_in(READER);
    let page = console.get("/doctor", &reader).body;
    for text in ["What to do", "advice", "synchronous_commit"] {
        assert!(page.contains(text), "{text}: {page}");
    }
    assert!(!page.contains("every 2s"), "it refreshes itself: {page}");
    assert_eq!(console.api("GET", "/doctor", OPERATOR, None).json()["diagnosed_at"], first["diagnosed_at"]);

    let sound = Console::open(&patient.test, &secrets()).await;
    let page = sound.get("/doctor", &sound.sign_in(READER)).body;
    assert!(page.contains("Nothing was found."), "{page}");
    assert_eq!(sound.api("GET", "/doctor", READER, None).json()["findings"], json!([]));
}

#[tokio::test]
async fn dead_letters_of_consumers_are_retried_and_deleted_after_a_confirmation() {
    let test = TestOutbox::new().await;
    let consumer = "[consumers.mailer]\nsource = \"default\"\nmax_deliveries = 1";
    let console = Console::open(&test, &format!("{consumer}\n{}", secrets())).await;
    let cookie = console.sign_in(OPERATOR);
    assert!(console.get("/consumers", &cookie).body.contains("none of its streams exists yet"));
    test.insert(3, 1).await;
    test.drain(&test.settings().write()).await;
    let settings = test.settings().worker(consumer).write();
    let mut failing = std::process::Command::new(env!("CARGO_BIN_EXE_outbox"));
    failing.env("OUTBOX_CONFIG", &settings).args(["consume", "mailer", "--exec", "false"]);
    let failing = Running::spawn(&mut failing);
    let letters = async || console.api("GET", "/consumers/mailer/dead", READER, None).json();
    eventually("all are dead", PATIENCE, async || letters().await.as_array().unwrap().len() == 3).await;
    drop(failing);

    let overview = console.get("/consumers", &cookie).body;
    assert!(
        overview.contains(test.stream_name()) && overview.contains("/consumers/dead?consumer=mailer"),
        "{overview}"
    );
    let list = console.get("/consumers/dead?consumer=mailer", &cookie).body;
    assert!(list.contains("the command ended with exit status: 1") && list.contains("thing.happened"), "{list}");
    let reader = console.sign_in(READER);
    assert!(!console.get("/consumers/dead?consumer=mailer", &reader).body.contains("value=\"delete\""));

    let letters = letters().await;
    let ids: Vec<&str> = letters.as_array().unwrap().iter().map(|letter| letter["id"].as_str().unwrap()).collect();
    let one = form(&[("consumer", "mailer"), ("action", "delete"), ("id", ids[0])]);
    let confirm = console.get(&format!("/consumers/confirm?{one}"), &cookie);
    assert_eq!(title(&confirm), "Delete 1 dead letter?");
    assert!(confirm.body.contains("cannot be undone"));
    assert_eq!(console.get(&format!("/consumers/confirm?{one}"), &reader).status, 403);
    let pairs = [("consumer", "mailer"), ("action", "delete"), ("id", ids[0])];
    assert_eq!(title(&submit(&console, &cookie, "/consumers/change", &pairs)), "1 dead letter deleted");
    let again = submit(&console, &cookie, "/consumers/change", &pairs);
    assert!(title(&again) == "0 dead letters deleted" && again.body.contains("not there any more"), "{}", again.body);
    let all = console.get("/consumers/confirm?consumer=mailer&action=retry&all=1", &cookie);
    assert_eq!(title(&all), "Retry 2 dead letters?");
    let retried = post(&console, "/consumers/mailer/dead/changes", json!({"action": "retry", "all": true}));
    assert_eq!(retried.json(), json!({"changed": 2, "missing": []}));

    let audit = console.api("GET", "/audit", READER, None).json();
    let [retried, deleted] = [&audit["entries"][0], &audit["entries"][1]];
    assert_eq!((&retried["action"], &retried["events"]), (&json!("retry_dead"), &json!(2)), "{audit}");
    assert_eq!((&deleted["action"], &deleted["reason"]), (&json!("delete_dead"), &json!(ids[0])));
    assert!(deleted["who"].as_str().unwrap().ends_with("in the console"), "{audit}");
    let changes = console.get("/audit", &cookie).body;
    assert!(changes.contains("delete_dead") && changes.contains("consumer=mailer"), "{changes}");

    let refused =
        console.api("POST", "/consumers/mailer/dead/changes", READER, Some(json!({"action": "retry", "all": true})));
    assert_eq!(refused.status, 403);
    for (path, expected) in [
        ("/consumers/dead?consumer=unknown", 404),
        ("/consumers/dead?consumer=mailer&x=1", 400),
        ("/consumers/confirm?consumer=mailer&action=retry", 400),
        ("/consumers/confirm?consumer=mailer&action=eat&all=1", 400),
    ] {
        assert_eq!(console.get(path, &cookie).status, expected, "{path}");
    }
    let wrong = post(&console, "/consumers/mailer/dead/changes", json!({"action": "retry"}));
    assert_eq!(wrong.status, 400, "{}", wrong.body);
    let foreign = json!({"action": "delete", "ids": [format!("{}/1-1", test.stream_name())]});
    assert_eq!(post(&console, "/consumers/mailer/dead/changes", foreign).status, 404);
    let known = console.api("GET", "/consumers", READER, None).json();
    assert_eq!((&known[0]["name"], &known[0]["status"]["group"]), (&json!("mailer"), &json!("mailer")));
}
