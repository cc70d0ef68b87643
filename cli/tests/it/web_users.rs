//! Users of the console: named ones, their sessions, and the record of what they change.

use std::path::Path;

use serde_json::{Value, json};

use crate::support::process::Running;
use crate::support::{PATIENCE, eventually};
use crate::test_outbox::TestOutbox;
use crate::web::{Ask, Console, FAILED, OPERATOR, form, insert, secrets, with};

const ANN: &str = "the secret that is ann's";
const BOB: &str = "the secret that is bob's";
const EVE: &str = "the secret that is eve's";

fn write(folder: &Path, name: &str, secret: &str) {
    std::fs::write(folder.join(name), format!("{secret}\n")).unwrap();
}

/// Ann and bob may change events, eve may read.
fn users(folder: &Path) -> String {
    for (name, secret) in [("ann", ANN), ("bob", BOB), ("eve", EVE)] {
        write(folder, name, secret);
    }
    let file = |name: &str| folder.join(name).display().to_string();
    let user = |table: &str, name: &str, source: &str| format!("[[web.{table}]]\nname = \"{name}\"\n{source}\n");
    user("operators", "ann", &format!("secret_file = \"{}\"", file("ann")))
        + &user("operators", "bob", &format!("secret_command = [\"cat\", \"{}\"]", file("bob")))
        + &user("readers", "eve", &format!("secret_file = \"{}\"", file("eve")))
}

#[tokio::test]
async fn named_users_sign_in_and_their_changes_bear_their_names() {
    let test = TestOutbox::new().await;
    let folder = tempfile::tempdir().unwrap();
    let console = Console::open(&test, &users(folder.path())).await;
    let ids = [insert(&test, FAILED).await, insert(&test, FAILED).await];
    let change = |secret: &str, json: Value| console.api("POST", "/events/changes", secret, Some(json));
    assert_eq!(change(EVE, json!({"action": "retry", "ids": [ids[0]]})).status, 403);
    assert_eq!(change(BOB, json!({"action": "fail", "ids": [ids[0]], "reason": "wrong order"})).status, 200);
    let cookie = console.sign_in(ANN);
    let token = console.get("/", &cookie).token();
    let all = form(&[("csrf", &token), ("action", "retry"), ("all", "1"), ("type", "t")]);
    assert_eq!(console.submit("/change", &cookie, &all).status, 200);

    let audit = console.api("GET", "/audit", EVE, None).json();
    let [first, second] = audit["entries"].as_array().unwrap().as_slice() else { panic!("{audit}") };
    assert_eq!(second["who"], "bob in the console");
    assert_eq!([&second["from"], &second["action"], &second["reason"]], ["127.0.0.1", "fail", "wrong order"]);
    assert_eq!((&second["ids"], &second["events"]), (&json!([ids[0]]), &json!(1)));
    assert_eq!([&first["who"], &first["action"]], ["ann in the console", "retry"]);
    assert_eq!((&first["filter"], &first["events"]), (&json!("type=t"), &json!(2)));
    let page = console.api("GET", "/audit?limit=1", EVE, None).json();
    let rest = console.api("GET", &format!("/audit?limit=1&before={}", page["next"]), EVE, None).json();
    assert_eq!((&rest["entries"][0], &rest["next"]), (second, &Value::Null));
    for (status, path) in [(400, "/audit?limit=0"), (400, "/audit?limit=201"), (400, "/audit?before=x")] {
        assert_eq!(console.api("GET", path, EVE, None).status, status, "{path}");
    }
    let page = console.get("/audit", &cookie).body;
    for text in ["bob in the console", "wrong order", "type=t", &ids[0]] {
        assert!(page.contains(text), "{text}: {page}");
    }
    let logged = [
        "user signed in to the console user=\"ann\" role=Operator".to_owned(),
        format!("action=\"fail\" actor=\"bob in the console\" from=\"127.0.0.1\" events=1 first={}", ids[0]),
    ];
    eventually("it is logged", PATIENCE, async || {
        let said = console.program.stderr();
        logged.iter().all(|line| said.contains(line))
    })
    .await;
}

#[tokio::test]
async fn a_secret_is_changed_while_the_console_runs_and_ends_its_sessions() {
    let test = TestOutbox::new().await;
    let folder = tempfile::tempdir().unwrap();
    let console = Console::open(&test, &users(folder.path())).await;
    let (ann, bob) = (console.sign_in(ANN), console.sign_in(BOB));
    write(folder.path(), "ann", "another secret that is ann's");
    let status = |secret: &str| console.api("GET", "/overview", secret, None).status;
    eventually("the new secret works", PATIENCE, async || status("another secret that is ann's") == 200).await;
    assert_eq!((status(ANN), status(BOB)), (401, 200));
    assert_eq!((console.get("/", &ann).status, console.get("/", &bob).status), (303, 200));
    // A secret that may not be used does not replace the last one.
    write(folder.path(), "ann", "short");
    eventually("the log says so", PATIENCE, async || {
        assert_eq!(status("another secret that is ann's"), 200);
        console.program.stderr().contains("cannot be changed; the last one stays valid problem=\"ann: ")
    })
    .await;
}

#[tokio::test]
async fn users_that_cannot_be_told_apart_are_refused_at_the_start() {
    let test = TestOutbox::new().await;
    let user =
        |table: &str, name: &str, secret: &str| format!("[[web.{table}]]\nname = \"{name}\"\nsecret = \"{secret}\"\n");
    for (settings, problem) in [
        (user("operators", "ann", ANN) + &user("readers", "ann", EVE), "two users are named \"ann\""),
        (user("operators", "ann", ANN) + &user("readers", "eve", ANN), "\"ann\" and \"eve\" have the same secret"),
        (user("operators", "ann", "short"), "at least 16 bytes"),
        (user("readers", "eve", EVE), "but no operator"),
        (user("operators", "", ANN), "must be a name of 1 to 100 bytes"),
        ("[[web.operators]]\nname = \"ann\"\n".to_owned(), "`web.operators.0.secret`"),
        (user("operators", "ann", ANN) + "sekret = \"x\"\n", "web.operators.0.sekret"),
        ("[web]\noperators = \"ann\"\n".to_owned(), "must be a list such as"),
    ] {
        let refused = test.outbox(&with(&test, &settings), &["web", "--http", "127.0.0.1:0"]).output().unwrap();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert!(!refused.status.success() && said.contains(problem), "{settings}: {said}");
        assert!(!said.contains(ANN), "{said}");
    }
}

#[tokio::test]
async fn signing_out_ends_the_session_wherever_its_cookie_is() {
    let test = TestOutbox::new().await;
    let console = Console::open(&test, &secrets()).await;
    let (cookie, other) = (console.sign_in(OPERATOR), console.sign_in(OPERATOR));
    let id = insert(&test, FAILED).await;
    let token = console.get("/", &cookie).token();
    assert_eq!(console.submit("/sign-out", &cookie, &form(&[("csrf", &token)])).status, 303);
    // A copy of the cookie, and another tab.
    assert_eq!(console.get("/", &cookie).status, 303);
    let refresh = vec![("cookie", cookie.clone()), ("hx-request", "true".to_owned())];
    assert_eq!(console.ask("GET", "/", Ask { headers: refresh, ..Ask::default() }).status, 401);
    let change = form(&[("csrf", &token), ("action", "retry"), ("id", &id)]);
    assert_eq!(console.submit("/change", &cookie, &change).location, "/sign-in?then=%2F");
    assert_eq!(test.number("SELECT count(*) FROM outbox_events WHERE status = 'failed'").await, 1);
    assert_eq!(console.get("/", &other).status, 200, "another session of the same user goes on");
    // A server that starts later does not know which sessions ended.
    let second = Console::open(&test, &secrets()).await;
    let renamed = |cookie: &str| cookie.replace(&console.port.to_string(), &second.port.to_string());
    assert_eq!(second.get("/", &renamed(&cookie)).status, 303);
}

#[tokio::test]
async fn changes_by_the_command_line_are_recorded_too() {
    let test = TestOutbox::new().await;
    let settings = test.settings().write();
    let id = insert(&test, FAILED).await;
    let run = |arguments: &[&str]| {
        let done = test.outbox(&settings, arguments).output().unwrap();
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
    };
    run(&["events", "fail", &id, "--reason", "by hand"]);
    run(&["events", "retry", "--status", "failed", "--yes"]);
    let mut worker = Running::spawn(&mut test.outbox(&settings, &["worker", "--until-empty"]));
    assert!(worker.wait_exit(PATIENCE).await.success());
    run(&["events", "replay", "--since", "1h", "--yes"]);
    let sql = "SELECT who, from_where, action, coalesce(filter, ''), reason, events FROM outbox_audit ORDER BY id";
    let rows = test.sql().await.query(sql, &[]).await.unwrap();
    let texts = |n: usize| (0..5).map(|column| rows[n].get::<_, String>(column)).collect::<Vec<_>>();
    let user = std::process::Command::new("id").arg("-un").output().unwrap();
    let user = String::from_utf8(user.stdout).unwrap().trim().to_owned();
    let host = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap().trim().to_owned();
    let who = format!("command line ({user})");
    assert_eq!(texts(0), [&who, &host, "fail", "", "by hand"].map(str::to_owned));
    assert_eq!(texts(1), [&who, &host, "retry", "status=failed", ""].map(str::to_owned));
    assert_eq!((texts(2)[2].as_str(), rows[2].get::<_, i64>(5)), ("replay", 1));
    assert!(texts(2)[3].contains("published_since="), "{:?}", texts(2));
}
