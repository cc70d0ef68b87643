//! The console: its pages, actions and access control.

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};
use ureq::http::{Method, Request};

use crate::support::process::Running;
use crate::support::proxy::{Passage, Proxy};
use crate::support::{PATIENCE, eventually, free_port};
use crate::test_outbox::TestOutbox;

pub(crate) const OPERATOR: &str = "the operators' secret";
pub(crate) const READER: &str = "the readers' secret";

/// A running `outbox web`.
pub(crate) struct Console {
    pub(crate) program: Running,
    pub(crate) port: u16,
}

/// A request of a browser or a program.
#[derive(Default, Clone)]
pub(crate) struct Ask<'a> {
    pub(crate) headers: Vec<(&'a str, String)>,
    pub(crate) form: Option<String>,
    pub(crate) json: Option<Value>,
}

pub(crate) struct Said {
    pub(crate) status: u16,
    pub(crate) location: String,
    pub(crate) cookie: Option<String>,
    policy: String,
    allow: String,
    pub(crate) body: String,
}

impl Said {
    /// The CSRF token of the forms on a page.
    pub(crate) fn token(&self) -> String {
        let (_, rest) = self.body.split_once("name=\"csrf\" value=\"").expect("a form");
        rest.split('"').next().unwrap().to_owned()
    }

    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.body))
    }
}

impl Console {
    pub(crate) async fn open(test: &TestOutbox, settings: &str) -> Self {
        let open: &[&str] = if settings.contains("secret") { &[] } else { &["--insecure-no-secret"] };
        Self::serve(test, &with(test, settings), open).await
    }

    /// The console of a file with settings.
    pub(crate) async fn serve(test: &TestOutbox, settings: &Path, arguments: &[&str]) -> Self {
        let port = free_port();
        let address = format!("127.0.0.1:{port}");
        let mut program = test.outbox(settings, &["web", "--http", &address]);
        let mut program = Running::spawn(program.args(arguments));
        eventually("the console is served", PATIENCE, async || {
            assert!(program.is_running(), "{}", program.stderr());
            std::net::TcpStream::connect(("127.0.0.1", port)).is_ok()
        })
        .await;
        Self { program, port }
    }

    pub(crate) fn host(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    pub(crate) fn ask(&self, method: &str, path: &str, ask: Ask) -> Said {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).max_redirects(0).build().into();
        let mut request = Request::builder()
            .method(Method::from_bytes(method.as_bytes()).unwrap())
            .uri(format!("http://{}{path}", self.host()));
        for (name, value) in &ask.headers {
            request = request.header(*name, value);
        }
        let body = match (ask.form, ask.json) {
            (Some(form), _) => {
                request = request.header("content-type", "application/x-www-form-urlencoded");
                form
            }
            (None, Some(json)) => {
                request = request.header("content-type", "application/json");
                json.to_string()
            }
            (None, None) => String::new(),
        };
        let mut answer = agent.run(request.body(body).unwrap()).unwrap();
        let header = |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let cookie = header("set-cookie").map(|cookie| cookie.split(';').next().unwrap().to_owned());
        let [location, policy, allow] =
            ["location", "content-security-policy", "allow"].map(|name| header(name).unwrap_or_default());
        let status = answer.status().as_u16();
        Said { status, location, cookie, policy, allow, body: answer.body_mut().read_to_string().unwrap() }
    }

    pub(crate) fn get(&self, path: &str, cookie: &str) -> Said {
        self.ask("GET", path, Ask { headers: vec![("cookie", cookie.to_owned())], ..Ask::default() })
    }

    /// Sends a form as a browser does from a page of the console.
    pub(crate) fn submit(&self, path: &str, cookie: &str, form: &str) -> Said {
        let headers = vec![("cookie", cookie.to_owned()), ("origin", format!("http://{}", self.host()))];
        self.ask("POST", path, Ask { headers, form: Some(form.to_owned()), ..Ask::default() })
    }

    pub(crate) fn api(&self, method: &str, path: &str, secret: &str, json: Option<Value>) -> Said {
        let headers = vec![("authorization", format!("Bearer {secret}"))];
        self.ask(method, &format!("/api/v1{path}"), Ask { headers, json, ..Ask::default() })
    }

    pub(crate) fn sign_in(&self, secret: &str) -> String {
        let said = self.submit("/sign-in", "", &form(&[("secret", secret), ("then", "/events")]));
        assert_eq!((said.status, said.location.as_str()), (303, "/events"), "{}", said.body);
        said.cookie.unwrap()
    }
}

pub(crate) fn form(pairs: &[(&str, &str)]) -> String {
    url::form_urlencoded::Serializer::new(String::new()).extend_pairs(pairs).finish()
}

pub(crate) fn with(test: &TestOutbox, table: &str) -> PathBuf {
    let path = test.settings().write();
    let text = std::fs::read_to_string(&path).unwrap();
    std::fs::write(&path, format!("{text}\n{table}\n")).unwrap();
    path
}

pub(crate) fn secrets() -> String {
    format!("[web]\noperator_secret = \"{OPERATOR}\"\nreader_secret = \"{READER}\"")
}

pub(crate) async fn insert(test: &TestOutbox, columns: &[(&str, &str)]) -> String {
    let names: Vec<&str> = columns.iter().map(|(name, _)| *name).collect();
    let values: Vec<&str> = columns.iter().map(|(_, value)| *value).collect();
    let statement = format!(
        "INSERT INTO outbox_events (id, {}) VALUES (gen_random_uuid(), {}) RETURNING id::text",
        names.join(", "),
        values.join(", ")
    );
    test.sql().await.query_one(&statement, &[]).await.unwrap().get(0)
}

pub(crate) const FAILED: &[(&str, &str)] = &[
    ("event_type", "'t'"),
    ("source", "'s'"),
    ("status", "'failed'"),
    ("retry_count", "3"),
    ("last_error", "'no room'"),
];

#[tokio::test]
async fn without_a_secret_in_the_settings_one_is_drawn_and_its_link_works_once() {
    let test = TestOutbox::new().await;
    let port = free_port();
    let address = format!("127.0.0.1:{port}");
    let program = Running::spawn(&mut test.outbox(&test.settings().write(), &["web", "--http", &address]));
    eventually("the link is printed", PATIENCE, async || program.stderr().contains("/sign-in?token=")).await;
    eventually("the console is served", PATIENCE, async || std::net::TcpStream::connect(&address).is_ok()).await;
    let said = program.stderr();
    let (_, link) = said.split_once(&format!("http://{address}")).unwrap();
    let link = link.lines().next().unwrap().to_owned();
    let secret = said.lines().map(str::trim).find(|line| line.len() == 64).unwrap().to_owned();
    let console = Console { program, port };
    let get = |path: &str, cookie: &str| {
        let headers = if cookie.is_empty() { Vec::new() } else { vec![("cookie", cookie.to_owned())] };
        console.ask("GET", path, Ask { headers, ..Ask::default() })
    };
    assert_eq!(get("/", "").status, 303, "strangers of this machine sign in");
    assert_eq!(get("/api/v1/overview", "").status, 401);
    assert_eq!(get("/sign-in?token=0123456789", "").status, 403);
    let signed_in = get(&link, "");
    assert_eq!((signed_in.status, signed_in.location.as_str()), (303, "/"));
    let cookie = signed_in.cookie.unwrap();
    assert_eq!(get("/", cookie.split(';').next().unwrap()).status, 200);
    assert_eq!(get(&link, "").status, 403, "once");
    let bearer = Ask { headers: vec![("authorization", format!("Bearer {secret}"))], ..Ask::default() };
    assert_eq!(console.ask("GET", "/api/v1/overview", bearer).status, 200);
}

#[tokio::test]
async fn without_a_secret_the_console_is_for_this_machine_alone() {
    let test = TestOutbox::new().await;
    for command in [&["web", "--http", "0.0.0.0:0"][..], &["worker", "--http", "0.0.0.0:0"]] {
        let refused = test.outbox(&test.settings().write(), command).output().unwrap();
        let said = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(1), "{said}");
        assert!(said.contains("on 0.0.0.0:0, the console needs a secret: set operator_secret_file"), "{said}");
    }
    let short = with(&test, "[web]\noperator_secret = \"short\"");
    let refused = test.outbox(&short, &["web", "--http", "0.0.0.0:0"]).output().unwrap();
    assert!(String::from_utf8_lossy(&refused.stderr).contains("at least 16 bytes"));
    let mut probes = Running::spawn(
        &mut test.outbox(&test.settings().write(), &["worker", "--http", "0.0.0.0:0", "--no-web", "--until-empty"]),
    );
    assert!(probes.wait_exit(PATIENCE).await.success(), "{}", probes.stderr());
}

/// Every route, with a valid request.
pub(crate) fn routes(id: &str) -> Vec<(&'static str, String, Ask<'static>)> {
    let form = |text: &str| Ask { form: Some(text.to_owned()), ..Ask::default() };
    let json = |json: Value| Ask { json: Some(json), ..Ask::default() };
    let change = json(json!({"action": "retry", "ids": [id]}));
    let moving = json(json!({"to": "elsewhere", "ids": [id]}));
    let pause = json(json!({"action": "pause", "name": "default"}));
    vec![
        ("GET", "/".to_owned(), Ask::default()),
        ("GET", "/events".to_owned(), Ask::default()),
        ("GET", format!("/events/{id}"), Ask::default()),
        ("GET", "/audit".to_owned(), Ask::default()),
        ("GET", format!("/confirm?action=retry&id={id}"), Ask::default()),
        ("POST", "/change".to_owned(), form(&format!("action=retry&id={id}"))),
        ("GET", "/backends/confirm?action=pause&name=default".to_owned(), Ask::default()),
        ("POST", "/backends/change".to_owned(), form("action=pause&name=default")),
        ("GET", "/doctor".to_owned(), Ask::default()),
        ("GET", "/consumers".to_owned(), Ask::default()),
        ("GET", "/consumers/dead?consumer=mailer".to_owned(), Ask::default()),
        ("GET", "/consumers/confirm?consumer=mailer&action=retry&all=1".to_owned(), Ask::default()),
        ("POST", "/consumers/change".to_owned(), form("consumer=mailer&action=retry&all=1")),
        ("GET", "/api/v1/consumers".to_owned(), Ask::default()),
        ("GET", "/api/v1/consumers/mailer/dead".to_owned(), Ask::default()),
        ("POST", "/api/v1/consumers/mailer/dead/changes".to_owned(), json(json!({"action": "retry", "all": true}))),
        ("POST", "/sign-out".to_owned(), form("")),
        ("GET", "/nowhere".to_owned(), Ask::default()),
        ("DELETE", format!("/events/{id}"), Ask::default()),
        ("GET", "/api/v1/openapi.json".to_owned(), Ask::default()),
        ("GET", "/api/v1/overview".to_owned(), Ask::default()),
        ("GET", "/api/v1/events".to_owned(), Ask::default()),
        ("GET", "/api/v1/audit".to_owned(), Ask::default()),
        ("GET", "/api/v1/events/count?action=retry".to_owned(), Ask::default()),
        ("POST", "/api/v1/events/changes".to_owned(), change),
        ("POST", "/api/v1/events/moves".to_owned(), moving),
        ("POST", "/api/v1/backends/changes".to_owned(), pause),
        ("GET", "/api/v1/doctor".to_owned(), Ask::default()),
        ("GET", format!("/api/v1/events/{id}"), Ask::default()),
        ("GET", format!("/api/v1/events/{id}/explanation"), Ask::default()),
        ("GET", format!("/api/v1/events/{id}/groups"), Ask::default()),
        ("GET", format!("/api/v1/events/{id}/data"), Ask::default()),
        ("GET", format!("/events/{id}/data"), Ask::default()),
        ("PUT", "/api/v1/nowhere".to_owned(), Ask::default()),
    ]
}

#[tokio::test]
async fn nobody_comes_in_without_a_secret_and_no_other_site_changes_anything() {
    let test = TestOutbox::new().await;
    let console = Console::open(&test, &format!("{}\nhosts = [\"outbox.example\"]", secrets())).await;
    let id = insert(&test, FAILED).await;
    let cookie = console.sign_in(OPERATOR);
    let token = console.get("/", &cookie).token();
    let reader = console.sign_in(READER);
    let readers_token = console.get("/", &reader).token();
    assert_ne!(token, readers_token);
    let ours = ("origin", format!("http://{}", console.host()));

    for (method, path, ask) in routes(&id) {
        let what = format!("{method} {path}");
        let is_api = path.starts_with("/api");
        let changes = method != "GET";
        let status = |extra: Vec<(&'static str, String)>, csrf: Option<&str>| {
            let mut ask = ask.clone();
            ask.headers.extend(extra);
            if let Some(csrf) = csrf {
                match &mut ask.form {
                    Some(form) => *form += &format!("&csrf={csrf}"),
                    None => ask.headers.push(("x-csrf-token", csrf.to_owned())),
                }
            }
            console.ask(method, &path, ask).status
        };
        let unknown = if is_api { 401 } else { 303 };
        assert_eq!(status(vec![], None), unknown, "{what} without a session");
        let forged = format!("{}x", cookie);
        assert_eq!(
            status(vec![("cookie", forged), ours.clone()], Some(&token)),
            unknown,
            "{what} with a forged cookie"
        );
        let wrong = vec![("authorization", format!("Bearer {OPERATOR}x"))];
        assert_eq!(status(wrong, None), unknown, "{what} with a wrong token");
        assert_eq!(status(vec![("host", "evil.example".to_owned())], None), 421, "{what} by a foreign name");
        let elsewhere = vec![("cookie", cookie.clone()), ("origin", "http://evil.example".to_owned())];
        if !changes {
            continue;
        }
        assert_eq!(status(elsewhere, Some(&token)), 403, "{what} from another site");
        assert_eq!(status(vec![("cookie", cookie.clone())], Some(&token)), 403, "{what} from no site");
        let from_ours = |cookie: &str| vec![("cookie", cookie.to_owned()), ours.clone()];
        assert_eq!(status(from_ours(&cookie), None), 403, "{what} without a token");
        assert_eq!(status(from_ours(&cookie), Some("")), 403, "{what} with an empty token");
        assert_eq!(status(from_ours(&cookie), Some(&readers_token)), 403, "{what} with another session's token");
        if path != "/sign-out" {
            assert_eq!(status(from_ours(&reader), Some(&readers_token)), 403, "{what} by a reader");
            let bearer = vec![("authorization", format!("Bearer {READER}"))];
            assert_eq!(status(bearer, None), 403, "{what} by a reader's token");
        }
    }
    assert_eq!(test.number("SELECT count(*) FROM outbox_events WHERE status = 'failed'").await, 1);
    assert_eq!(test.number("SELECT count(*) FROM outbox_audit").await, 0);

    assert_eq!(console.api("GET", "/overview", "a wrong secret", None).status, 401);
    let headers = vec![("origin", "http://evil.example".to_owned())];
    let secret = form(&[("secret", OPERATOR)]);
    let elsewhere = console.ask("POST", "/sign-in", Ask { headers, form: Some(secret), ..Ask::default() });
    assert!(elsewhere.status == 403 && elsewhere.cookie.is_none(), "another site cannot sign a user in");
    // Sign-in attempts are limited.
    let wrong = |n: u8| console.submit("/sign-in", "", &form(&[("secret", &format!("a wrong one {n}"))])).status;
    let tries: Vec<u16> = (0..8).map(wrong).collect();
    assert!(tries.contains(&403) && tries.last() == Some(&429), "{tries:?}");
    // A signed-in user stays signed in, also behind a proxy with its own login.
    assert_eq!(console.get("/", &cookie).status, 200);
    let basic = vec![("cookie", cookie.clone()), ("authorization", "Basic YTpi".to_owned())];
    assert_eq!(console.ask("GET", "/", Ask { headers: basic, ..Ask::default() }).status, 200);
    assert_eq!(console.api("GET", "/overview", READER, None).status, 200);
}

#[tokio::test]
async fn on_loopback_other_sites_and_other_names_are_refused_too() {
    let test = TestOutbox::new().await;
    let console = Console::open(&test, "").await;
    let id = insert(&test, FAILED).await;
    let page = console.get(&format!("/confirm?action=retry&id={id}"), "");
    let (cookie, token) = (page.cookie.clone().unwrap(), page.token());
    // The token of a page that was requested without a cookie belongs to the cookie in its response.
    let change = |cookie: &str, origin: &str, token: &str| {
        let headers = vec![("cookie", cookie.to_owned()), ("origin", origin.to_owned())];
        let form = Some(format!("action=retry&id={id}&csrf={token}"));
        console.ask("POST", "/change", Ask { headers, form, ..Ask::default() }).status
    };
    let ours = format!("http://{}", console.host());
    assert_eq!(change("", &ours, &token), 403);
    assert_eq!(change(&cookie, "http://evil.example", &token), 403);
    assert_eq!(change(&cookie, "null", &token), 403);
    assert_eq!(change(&cookie, &ours, "0"), 403);
    let rebound = Ask { headers: vec![("host", "evil.example".to_owned())], ..Ask::default() };
    assert_eq!(console.ask("GET", "/events", rebound).status, 421);
    let passed_on = Ask { headers: vec![("x-forwarded-for", "192.0.2.1".to_owned())], ..Ask::default() };
    assert_eq!(console.ask("GET", "/events", passed_on).status, 403, "a forwarded request may come from any machine");
    let programs = Ask { json: Some(json!({"action": "retry", "ids": [id]})), ..Ask::default() };
    assert_eq!(console.ask("POST", "/api/v1/events/changes", programs).status, 403);
    assert_eq!(test.number("SELECT count(*) FROM outbox_events WHERE status = 'failed'").await, 1);
    assert_eq!(change(&cookie, &ours, &token), 200);
    assert_eq!(test.number("SELECT count(*) FROM outbox_events WHERE status = 'pending'").await, 1);
}

#[tokio::test]
async fn a_failed_event_is_found_retried_after_a_confirmation_and_published() {
    let test = TestOutbox::new().await;
    let console = Console::open(&test, &secrets()).await;
    let id = insert(&test, FAILED).await;
    test.insert(3, 1).await;
    let cookie = console.sign_in(OPERATOR);
    let list = console.get("/events?status=failed", &cookie);
    assert!(list.body.contains(&id) && list.body.contains("no room"), "{}", list.body);
    let event = console.get(&format!("/events/{id}"), &cookie);
    assert!(event.body.contains("after 3 tries: no room"), "{}", event.body);
    let confirm = console.get(&format!("/confirm?action=retry&id={id}"), &cookie);
    assert!(confirm.body.contains("Retry 1 event?"), "{}", confirm.body);
    let done =
        console.submit("/change", &cookie, &form(&[("csrf", &confirm.token()), ("action", "retry"), ("id", &id)]));
    assert!(done.body.contains("1 event retried"), "{}", done.body);
    test.drain(&test.settings().write()).await;
    assert!(console.get(&format!("/events/{id}"), &cookie).body.contains("It was published at"));
    // All matching events, now four.
    let confirm = console.get("/confirm?action=replay&all=1", &cookie);
    assert!(confirm.body.contains("Replay 4 events?"), "{}", confirm.body);
    let all = form(&[("csrf", &confirm.token()), ("action", "replay"), ("all", "1")]);
    assert!(console.submit("/change", &cookie, &all).body.contains("4 events replayed"));
    assert_eq!(test.unpublished().await, 4);
    let signed_out = console.submit("/sign-out", &cookie, &form(&[("csrf", &confirm.token())]));
    assert_eq!(
        (signed_out.status, signed_out.cookie.unwrap().as_str()),
        (303, format!("outbox_session_{}=", console.port).as_str())
    );
}

#[tokio::test]
async fn a_reader_is_shown_no_button() {
    let test = TestOutbox::new().await;
    let console = Console::open(&test, &secrets()).await;
    let id = insert(&test, FAILED).await;
    let reader = console.sign_in(READER);
    for path in ["/events".to_owned(), format!("/events/{id}")] {
        let page = console.get(&path, &reader);
        assert!(page.body.contains(&id) && !page.body.contains("/confirm"), "{}", page.body);
    }
    eventually("the overview is shown without a button", PATIENCE, async || {
        let page = console.get("/", &reader).body;
        assert!(!page.contains("/confirm"), "{page}");
        page.contains("Rate limit")
    })
    .await;
    assert_eq!(console.get("/backends/confirm?action=pause&name=default", &reader).status, 403);
}

#[tokio::test]
async fn whatever_stands_in_an_event_is_text() {
    const HARM: &str = "<script>alert(1)</script>\"' onmouseover=alert(2) <img src=x onerror=alert(3)>";
    let test = TestOutbox::new().await;
    let console = Console::open(&test, &secrets()).await;
    let text = format!("'{}'", HARM.replace('\'', "''"));
    let json = format!("to_jsonb({text}::text)");
    let errors = format!("jsonb_build_array(jsonb_build_object('at', {text}::text, 'error', {text}::text))");
    let columns = [
        ("event_type", text.as_str()),
        ("source", &text),
        ("subject", &text),
        ("data_content_type", &text),
        ("data_schema", &text),
        ("data", &json),
        ("status", "'failed'"),
        ("last_error", &text),
        ("publisher_backend", &text),
        ("partition_key", &text),
        ("cloud_event_id", &text),
        ("errors", &errors),
    ];
    let id = insert(&test, &columns).await;
    insert(&test, &columns).await;
    // The overview shows the backend of due events.
    insert(&test, &columns.map(|(name, value)| (name, if name == "status" { "'pending'" } else { value }))).await;
    let cookie = console.sign_in(OPERATOR);
    let filtered = format!("/events?{}", form(&[("key", HARM), ("search", HARM)]));
    let confirmed = format!("/confirm?{}", form(&[("action", "fail"), ("all", "1"), ("key", HARM), ("subject", HARM)]));
    let signing_in = format!("/sign-in?{}", form(&[("then", &format!("/{HARM}"))]));
    eventually("the events are counted", PATIENCE, async || {
        !console.get("/", &cookie).body.contains("Counting events")
    })
    .await;
    for path in ["/", "/events", &format!("/events/{id}"), &filtered, &confirmed, &signing_in] {
        let page = console.get(path, &cookie);
        assert_eq!(page.status, 200, "{path}: {}", page.body);
        for harm in ["<script>", "<img", "\"' onmouseover"] {
            assert!(!page.body.contains(harm), "{path}: {}", page.body);
        }
        assert!(page.body.contains("&lt;script&gt;alert(1)"), "{path} does not show it: {}", page.body);
        assert!(page.policy.contains("script-src 'self'") && !page.policy.contains("unsafe"), "{}", page.policy);
    }
    assert!(console.get(&format!("/events/{id}"), &cookie).body.matches("&lt;script&gt;").count() > 8);
}

#[tokio::test]
async fn programs_page_through_the_list_and_change_events() {
    let test = TestOutbox::new().await;
    let console = Console::open(&test, &secrets()).await;
    test.insert(7, 2).await;
    let newest = |path: &str| console.api("GET", path, READER, None).json();
    let ids = |page: &Value| {
        page["events"]
            .as_array()
            .unwrap()
            .iter()
            .map(|event| event["id"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    let mut seen = Vec::new();
    let mut path = "/events?limit=3".to_owned();
    loop {
        let page = newest(&path);
        seen.extend(ids(&page));
        match page["next"].as_str() {
            Some(next) => path = format!("/events?limit=3&after={next}"),
            None => break,
        }
    }
    assert_eq!(seen.len(), 7);
    let mut oldest = ids(&newest("/events?order=oldest"));
    oldest.reverse();
    assert_eq!(seen, oldest);
    assert_eq!(ids(&newest("/events?key=key-0")).len() + ids(&newest("/events?key=key-1")).len(), 7);
    assert!(ids(&newest("/events?until=2000-01-01T00:00:00Z")).is_empty());

    let change = |json: Value| console.api("POST", "/events/changes", OPERATOR, Some(json));
    assert_eq!(change(json!({"action": "fail", "ids": [seen[0]], "reason": "broken"})).json(), json!({"changed": 1}));
    let event = newest(&format!("/events/{}", seen[0]));
    assert_eq!([&event["event"]["last_error"], &event["explanation"]["reason"]], ["broken", "failed"]);
    assert_eq!(
        event["neighbours"].as_array().unwrap().len(),
        ids(&newest(&format!("/events?key={}", event["event"]["partition_key"].as_str().unwrap()))).len() - 1
    );
    assert_eq!(newest("/events/count?action=retry"), json!({"count": 1, "more": false}));
    assert_eq!(change(json!({"action": "retry", "filter": {"status": "failed"}})).json()["changed"], 1);
    let overview = newest("/overview");
    assert_eq!(overview["backends"][0]["name"], "default");

    for (status, path) in [
        (400, "/events?limit=0"),
        (400, "/events?after=x"),
        (400, "/events?status=lost"),
        (400, "/events?key=%00"),
        (400, "/events?since=-271821-01-01T00:00:00Z"),
        (400, "/events?after="),
        (404, "/events/7"),
        (404, "/events/00000000-0000-0000-0000-000000000007"),
        (404, "/nowhere"),
    ] {
        let said = console.api("GET", path, READER, None);
        assert_eq!(said.status, status, "{path}");
        assert!(said.json()["error"].is_string(), "{path}: {}", said.body);
    }
    let as_text = Ask {
        headers: vec![("authorization", format!("Bearer {OPERATOR}"))],
        form: Some("{}".to_owned()),
        ..Ask::default()
    };
    assert_eq!(console.ask("POST", "/api/v1/events/changes", as_text).status, 415);
    assert_eq!(console.api("GET", "/events/count?action=retry&stauts=failed", READER, None).status, 400);
    for wrong in [
        json!({}),
        json!({"action": "retry"}),
        json!({"action": "retry", "ids": [], "filter": {}}),
        json!({"action": "fail", "filter": {"stauts": "failed"}}),
        json!([]),
    ] {
        assert_eq!(change(wrong.clone()).status, 400, "{wrong}");
    }
    for (method, path, allowed) in
        [("DELETE", "/overview", "GET, HEAD"), ("GET", "/events/changes", "POST"), ("PATCH", "/events/7", "GET, HEAD")]
    {
        let said = console.api(method, path, OPERATOR, None);
        assert_eq!((said.status, said.allow.as_str()), (405, allowed), "{method} {path}");
        assert!(said.json()["error"].is_string(), "{path}: {}", said.body);
    }
    let head = console.api("HEAD", "/overview", READER, None);
    assert_eq!((head.status, head.body.as_str()), (200, ""));
    let described = newest("/openapi.json");
    assert_eq!(described["servers"][0]["url"], "/api/v1");
    let paths: Vec<&String> = described["paths"].as_object().unwrap().keys().collect();
    assert_eq!(paths.len(), 15, "{paths:?}");
}

/// The server's response to an incomplete request, until it closes the connection.
fn stall(port: u16, beginning: &str) -> String {
    let mut stream = TcpStream::connect(("127.0.0.1", port)).unwrap();
    stream.set_read_timeout(Some(2 * PATIENCE)).unwrap();
    stream.write_all(beginning.as_bytes()).unwrap();
    let mut said = Vec::new();
    let _ = stream.read_to_end(&mut said);
    String::from_utf8_lossy(&said).lines().next().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn a_request_that_is_large_or_does_not_end_is_given_up() {
    let test = TestOutbox::new().await;
    let console = Console::open(&test, &secrets()).await;
    let (port, host) = (console.port, console.host());
    let beginning = |rest: &str| format!("POST /api/v1/events/changes HTTP/1.1\r\nHost: {host}\r\n{rest}");
    let body = "Content-Type: application/json\r\nContent-Length: 1000\r\n\r\n{";
    let tokened = format!("Authorization: Bearer {OPERATOR}\r\n{body}");
    let beginnings = [beginning(""), beginning(&tokened), beginning(body)];
    let stalled: Vec<_> = beginnings.into_iter().map(|text| std::thread::spawn(move || stall(port, &text))).collect();
    let large = json!({"action": "fail", "reason": "x".repeat(65 * 1024), "filter": {}});
    assert_eq!(console.api("POST", "/events/changes", OPERATOR, Some(large)).status, 413);
    let said: Vec<String> = stalled.into_iter().map(|stalled| stalled.join().unwrap()).collect();
    let of = |n: usize, statuses: &[&str]| statuses.iter().any(|status| said[n].contains(status));
    assert!(of(0, &["408"]) && of(1, &["408", "503"]) && of(2, &["401"]), "{said:?}");
}

#[tokio::test]
async fn what_no_index_leads_to_is_looked_for_until_it_is_found() {
    let test = TestOutbox::new().await;
    let console = Console::open(&test, &secrets()).await;
    let insert = "INSERT INTO outbox_events (id, event_type, source, subject, status, created_at) \
        SELECT gen_random_uuid(), 't', 's', CASE WHEN n % 20000 = 7 THEN 'rare' ELSE '' END, 'published', \
            now() - n * interval '1 second' FROM generate_series(1, 90000) n";
    test.sql().await.batch_execute(insert).await.unwrap();
    let get = |path: &str| console.api("GET", path, READER, None).json();
    let mut found = 0;
    let mut after = String::new();
    loop {
        let page = get(&format!("/events?subject=rare&limit=2{after}"));
        found += page["events"].as_array().unwrap().len();
        match page["next"].as_str() {
            Some(next) => after = format!("&after={next}"),
            None => break,
        }
    }
    assert_eq!(found, 5);
    let patient = get("/events?subject=rare&patient=true&order=oldest");
    assert_eq!(patient["events"].as_array().unwrap().len(), 5);
    assert!(patient["next"].is_null() && patient["stopped_at"].is_null(), "{patient}");
    assert_eq!(get("/events/count?action=replay&subject=rare")["count"], 5);
    assert_eq!(get("/events/count?action=replay"), json!({"count": 90000, "more": false}));

    let replay = json!({"action": "replay", "filter": {"type": "t"}});
    let replay = |after: &Value| {
        let mut replay = replay.clone();
        replay["after"] = after.clone();
        console.api("POST", "/events/changes", OPERATOR, Some(replay)).json()
    };
    let first = replay(&Value::Null);
    assert_eq!(first["changed"], 10_000);
    assert_eq!(replay(&first["next"])["changed"], 10_000);
    assert_eq!(get("/events/count?action=fail"), json!({"count": 20000, "more": false}));
}

#[tokio::test]
async fn a_confirmation_counts_what_will_be_changed() {
    let test = TestOutbox::new().await;
    let console = Console::open(&test, &secrets()).await;
    let cookie = console.sign_in(OPERATOR);
    let failed = insert(&test, FAILED).await;
    let published = insert(&test, &[("event_type", "'t'"), ("source", "'s'"), ("status", "'published'")]).await;
    insert(&test, &[("event_type", "'t'"), ("source", "'s'")]).await;
    let unknown = "00000000-0000-0000-0000-00000000dead";
    let asks = |query: &str| {
        let said = console.get(&format!("/confirm?{query}"), &cookie);
        let (_, title) = said.body.split_once("<h1>").unwrap();
        (said.status, title.split("</h1>").next().unwrap().to_owned())
    };
    let named = format!("id={failed}&id={failed}&id={published}&id={unknown}");
    assert_eq!(asks(&format!("action=retry&{named}")), (200, "Retry 1 event?".to_owned()));
    assert_eq!(asks(&format!("action=replay&{named}")), (200, "Replay 1 event?".to_owned()));
    // A failed event keeps its error, unless it is selected.
    assert_eq!(asks("action=fail&all=1"), (200, "Fail 1 event?".to_owned()));
    assert_eq!(asks("action=fail&all=1&status=failed"), (200, "Fail 1 event?".to_owned()));
    assert_eq!(asks("action=fail&all=1&status=published"), (200, "Fail 0 events?".to_owned()));
    assert_eq!(asks("action=retry&all=1&stauts=failed").0, 400, "a misspelt filter would match all events");
    assert_eq!(console.get("/events?search=%00", &cookie).status, 400);
    let reader = console.sign_in(READER);
    assert_eq!(console.get("/confirm?action=retry&all=1", &reader).status, 403);
}

#[tokio::test]
async fn a_session_that_is_over_before_a_change_leads_to_a_page() {
    let test = TestOutbox::new().await;
    let console = Console::open(&test, &secrets()).await;
    let said = console.submit("/change", "", &form(&[("action", "retry"), ("all", "1")]));
    assert_eq!((said.status, said.location.as_str()), (303, "/sign-in?then=%2F"));
}

#[tokio::test]
async fn long_fields_of_an_event_are_shortened_and_its_readable_history_shown() {
    let test = TestOutbox::new().await;
    let console = Console::open(&test, &secrets()).await;
    let cookie = console.sign_in(OPERATOR);
    let errors =
        "'[{\"at\": 5, \"error\": \"odd\"}, {\"at\": \"2026-01-31T12:00:00Z\", \"error\": \"the cause\"}]'::jsonb";
    let columns = [
        ("event_type", "'t'"),
        ("source", "'s'"),
        ("status", "'failed'"),
        ("last_error", "repeat('<é', 400000)"),
        ("errors", errors),
        ("retry_at", "now()"),
    ];
    let id = insert(&test, &columns).await;
    for path in ["/events", &format!("/events/{id}")] {
        let said = console.get(path, &cookie).body;
        assert!(said.len() < 50_000 && said.contains(" bytes)"), "{path}: {} bytes", said.len());
    }
    let said = console.get(&format!("/events/{id}"), &cookie).body;
    for text in ["rejected: </span>the cause", "1 more failures that cannot be read", "marked as failed by an operator"]
    {
        assert!(said.contains(text), "{text}: {said}");
    }
    assert!(!said.contains("next attempt"), "{said}");
}

#[tokio::test]
async fn who_has_changed_what_is_in_the_log() {
    let test = TestOutbox::new().await;
    let console = Console::open(&test, &secrets()).await;
    let id = insert(&test, FAILED).await;
    let cookie = console.sign_in(READER);
    console.get("/", &cookie);
    console.submit("/sign-in", "", &form(&[("secret", "a wrong one")]));
    for _ in 0..12 {
        assert_eq!(console.api("GET", "/overview", "a token that is wrong", None).status, 401);
    }
    console.api("POST", "/events/changes", OPERATOR, Some(json!({"action": "retry", "ids": [id]})));
    let logged = [
        "user signed in to the console user=\"reader\" role=Reader".to_owned(),
        "sign-in to the console refused: the secret is wrong from=127.0.0.1".to_owned(),
        "request to the console refused: the token is wrong from=127.0.0.1".to_owned(),
        format!(
            "events changed action=\"retry\" actor=\"operator in the console\" from=\"127.0.0.1\" events=1 first={id}"
        ),
    ];
    eventually("it is logged", PATIENCE, async || {
        let said = console.program.stderr();
        logged.iter().all(|line| said.contains(line))
    })
    .await;
    // A program that keeps trying does not fill the log.
    assert_eq!(console.program.stderr().matches("the token is wrong").count(), 5);
}

#[tokio::test]
async fn an_overview_that_is_no_longer_so_says_so() {
    let test = TestOutbox::new().await;
    let proxy = Proxy::to(url::Url::parse(test.url()).unwrap().port().unwrap()).await;
    let test = test.through(proxy.port());
    let console = Console::open(&test, &secrets()).await;
    let cookie = console.sign_in(OPERATOR);
    // One page every half second, because of the console's rate limit.
    let is_shown = async |stale: bool| {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        let page = console.get("/", &cookie).body;
        page.contains("Counted at") && page.contains("Overview may be out of date") == stale
    };
    eventually("it is counted", PATIENCE, async || is_shown(false).await).await;
    proxy.set(Passage::CutAtReply);
    eventually("the page shows it", PATIENCE, async || is_shown(true).await).await;
    assert_eq!(console.api("GET", "/overview", READER, None).status, 503);
    proxy.set(Passage::Open);
    eventually("it is counted again", PATIENCE, async || is_shown(false).await).await;
    assert_eq!(console.api("GET", "/overview", READER, None).status, 200);
}

#[tokio::test]
async fn what_cannot_be_counted_in_the_first_place_says_why() {
    let test = TestOutbox::new().await;
    let proxy = Proxy::to(url::Url::parse(test.url()).unwrap().port().unwrap()).await;
    let test = test.through(proxy.port());
    proxy.set(Passage::LoseReplies);
    let console = Console::open(&test, &secrets()).await;
    let cookie = console.sign_in(OPERATOR);
    eventually("the page shows the reason", PATIENCE, async || {
        let said = console.get("/", &cookie);
        said.status == 503 && said.body.contains("no answer within")
    })
    .await;
}

#[tokio::test]
async fn a_worker_serves_the_console_beside_its_probes_and_an_outage_is_a_page() {
    let mut test = TestOutbox::new().await;
    let port = free_port();
    let settings = test.settings().write();
    let _worker = Running::spawn(&mut test.outbox(
        &settings,
        &["worker", "--http", &format!("127.0.0.1:{port}"), "--name", "seen", "--insecure-no-secret"],
    ));
    let agent: ureq::Agent = ureq::Agent::config_builder().http_status_as_error(false).build().into();
    let get = |port: u16, path: &str| {
        let mut answer = agent.get(format!("http://127.0.0.1:{port}{path}")).call().ok()?;
        Some((answer.status().as_u16(), answer.body_mut().read_to_string().unwrap()))
    };
    eventually("it is ready", PATIENCE, async || get(port, "/readyz").is_some_and(|(status, _)| status == 200)).await;
    eventually("it is shown", PATIENCE, async || get(port, "/").unwrap().1.contains("seen")).await;
    assert_eq!(get(port, "/healthz").unwrap().0, 200);

    let text = std::fs::read_to_string(&settings).unwrap();
    let unavailable = text.replace(test.url(), "postgres://unknown@127.0.0.1:1/nothing");
    std::fs::write(&settings, unavailable).unwrap();
    let port = free_port();
    let _console = Running::spawn(
        &mut test.outbox(&settings, &["web", "--http", &format!("127.0.0.1:{port}"), "--insecure-no-secret"]),
    );
    eventually("the page shows that the database is unavailable", PATIENCE, async || {
        get(port, "/").is_some_and(|(status, body)| status == 503 && body.contains("cannot reach the database"))
    })
    .await;
    let (status, body) = get(port, "/api/v1/overview").unwrap();
    assert!(status == 503 && body.contains("\"error\""), "{body}");
    test.read_from(String::new());
}
