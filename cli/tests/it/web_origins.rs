//! Where requests to the console come from, and to which name and path they are sent.

use crate::support::process::Running;
use crate::support::{PATIENCE, eventually, free_port};
use crate::test_outbox::TestOutbox;
use crate::web::{Ask, Console, FAILED, OPERATOR, form, insert, routes, secrets, with};

#[tokio::test]
async fn a_link_on_another_site_changes_nothing() {
    let test = TestOutbox::new().await;
    let console = Console::open(&test, &secrets()).await;
    let id = insert(&test, FAILED).await;
    let cookie = console.sign_in(OPERATOR);
    let token = console.get("/", &cookie).token();
    let change = form(&[("csrf", &token), ("action", "retry"), ("id", &id)]);
    let paths = routes(&id).into_iter().map(|(_, path, _)| path);
    for path in paths.chain([format!("/change?{change}"), format!("/sign-out?{change}")]) {
        for method in ["GET", "HEAD"] {
            let headers = vec![("cookie", cookie.clone()), ("referer", "http://evil.example/".to_owned())];
            let said = console.ask(method, &path, Ask { headers, ..Ask::default() });
            assert!([200, 404, 405].contains(&said.status), "{method} {path}: {}", said.status);
        }
    }
    assert_eq!(test.number("SELECT count(*) FROM outbox_events WHERE status = 'failed'").await, 1);
    assert_eq!(test.number("SELECT count(*) FROM outbox_audit").await, 0);
    assert_eq!(console.get("/", &cookie).status, 200);
}

#[tokio::test]
async fn what_is_refused_is_named() {
    let test = TestOutbox::new().await;
    let console = Console::open(&test, &format!("{}\nhosts = [\"outbox.example\"]", secrets())).await;
    let headers = |host: &str, origin: &str| vec![("host", host.to_owned()), ("origin", origin.to_owned())];
    for (path, headers) in [
        ("/sign-in", headers("outbox.example:9750", "http://outbox.example:9751")),
        ("/api/v1/events/changes", headers("outbox.example", "https://<evil>.example")),
        ("/sign-in", headers("other.example", "http://outbox.example")),
        ("/api/v1/events/changes", headers("other.example:80", "null")),
    ] {
        let values: Vec<String> =
            headers.iter().map(|(_, value)| value.replace('<', "&lt;").replace('>', "&gt;")).collect();
        let said = console.ask("POST", path, Ask { headers, form: Some(String::new()), ..Ask::default() });
        let shown =
            if path.starts_with("/api") { said.body.replace('<', "&lt;").replace('>', "&gt;") } else { said.body };
        assert!([403, 421].contains(&said.status) && values.iter().all(|value| shown.contains(value)), "{shown}");
    }
}

#[tokio::test]
async fn without_tls_an_address_that_others_reach_is_a_warning() {
    let test = TestOutbox::new().await;
    let settings = with(&test, &secrets());
    for (address, is_warned) in [("0.0.0.0", true), ("127.0.0.1", false)] {
        let address = format!("{address}:{}", free_port());
        let program = Running::spawn(&mut test.outbox(&settings, &["web", "--http", &address]));
        eventually("it is served", PATIENCE, async || program.stderr().contains("HTTP server listening")).await;
        let said = program.stderr();
        assert_eq!(said.contains("WARN") && said.contains("without TLS"), is_warned, "{said}");
    }
}

#[tokio::test]
async fn a_console_with_a_path_is_there_and_the_probes_are_not() {
    let test = TestOutbox::new().await;
    let address = format!("127.0.0.1:{}", free_port());
    let settings = with(&test, "[web]\npath = \"/ops/outbox\"");
    let worker = Running::spawn(&mut test.outbox(&settings, &["worker", "--http", &address]));
    let link = format!("http://{address}/ops/outbox/sign-in?token=");
    eventually("the link is printed", PATIENCE, async || worker.stderr().contains(&link)).await;
    let get = |url: &str| {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).max_redirects(0).build().into();
        let answer = agent.get(url).call().ok()?;
        let location = answer.headers().get("location").map(|to| to.to_str().unwrap().to_owned());
        Some((answer.status().as_u16(), location.unwrap_or_default()))
    };
    eventually("it is served", PATIENCE, async || get(&format!("http://{address}/healthz")).is_some()).await;
    let said = worker.stderr();
    let (_, token) = said.split_once(&link).unwrap();
    let link = format!("{link}{}", token.lines().next().unwrap());
    assert_eq!(get(&link), Some((303, "/ops/outbox/".to_owned())));
    for (path, expected) in [
        ("/ops/outbox", (303, "/ops/outbox/sign-in?then=")),
        ("/ops/outbox/events", (303, "/ops/outbox/sign-in?then=%2Fevents")),
        ("/events", (404, "")),
        ("/ops/outboxes", (404, "")),
        ("/healthz", (200, "")),
    ] {
        let (status, location) = get(&format!("http://{address}{path}")).unwrap();
        assert_eq!((status, location.as_str()), expected, "{path}");
    }
}
