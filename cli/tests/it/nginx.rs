//! The console behind nginx: a visitor signs in, finds an event, retries it and signs out.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::support::free_port;
use crate::support::nginx::Nginx;
use crate::support::tls::Identity;
use crate::test_outbox::TestOutbox;
use crate::web::{Console, FAILED, OPERATOR, form, insert, secrets};

/// The name by which the visitor knows the proxy.
const NAME: &str = "outbox.example";

/// A browser in place of which curl sends requests, with the browser's cookies and `Origin`.
struct Visitor {
    folder: tempfile::TempDir,
    /// Scheme, name and port.
    origin: String,
    authority: Option<PathBuf>,
}

struct Answer {
    status: String,
    /// Where a redirect leads; a whole address.
    location: String,
    body: String,
}

impl Visitor {
    fn new(origin: String, authority: Option<&Path>) -> Self {
        Self { folder: tempfile::tempdir().unwrap(), origin, authority: authority.map(Path::to_owned) }
    }

    fn get(&self, path: &str) -> Answer {
        self.ask(path, None)
    }

    /// Sends a form as the page of this origin does.
    fn post(&self, path: &str, form: &str) -> Answer {
        self.ask(path, Some(form))
    }

    fn ask(&self, path: &str, form: Option<&str>) -> Answer {
        let (jar, body) = (self.folder.path().join("cookies"), self.folder.path().join("body"));
        let port = self.origin.rsplit(':').next().unwrap();
        let mut curl = Command::new("curl");
        curl.args(["--silent", "--show-error", "--noproxy", "*", "--resolve", &format!("{NAME}:{port}:127.0.0.1")]);
        curl.arg("--cookie").arg(&jar).arg("--cookie-jar").arg(&jar).arg("--output").arg(&body);
        curl.args(["--write-out", "%{http_code} %{redirect_url}"]);
        if let Some(authority) = &self.authority {
            curl.arg("--cacert").arg(authority);
        }
        if let Some(form) = form {
            curl.args(["--header", &format!("Origin: {}", self.origin), "--data", form]);
        }
        let output = curl.arg(format!("{}{path}", self.origin)).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        let told = String::from_utf8(output.stdout).unwrap();
        let (status, location) = told.split_once(' ').unwrap();
        let body = std::fs::read_to_string(body).unwrap_or_default();
        Answer { status: status.to_owned(), location: location.to_owned(), body }
    }

    /// The path of an address of this site.
    fn path<'a>(&self, address: &'a str) -> &'a str {
        address.strip_prefix(&self.origin).unwrap_or_else(|| panic!("{address} is not at {}", self.origin))
    }

    /// Each line of the cookie file.
    fn cookies(&self) -> String {
        std::fs::read_to_string(self.folder.path().join("cookies")).unwrap()
    }
}

/// The values of an attribute on a page.
fn attributes<'a>(page: &'a str, name: &str) -> Vec<&'a str> {
    let start = format!(" {name}=\"");
    page.split(start.as_str()).skip(1).map(|rest| rest.split('"').next().unwrap()).collect()
}

fn one<'a>(page: &'a str, name: &str, end: &str) -> &'a str {
    let found = attributes(page, name).into_iter().find(|value| value.ends_with(end));
    found.unwrap_or_else(|| panic!("no {name} ends with {end}: {page}"))
}

fn token(page: &str) -> &str {
    let (_, rest) = page.split_once("name=\"csrf\" value=\"").unwrap_or_else(|| panic!("no form: {page}"));
    rest.split('"').next().unwrap()
}

fn sign_in(visitor: &Visitor, path: &str) -> Answer {
    let stranger = visitor.get(path);
    assert_eq!(stranger.status, "303", "{}", stranger.body);
    let page = visitor.get(visitor.path(&stranger.location));
    let then = attributes(&page.body, "value")[0].replace("&amp;", "&");
    let secret = form(&[("secret", OPERATOR), ("then", &then)]);
    visitor.post(one(&page.body, "action", "/sign-in"), &secret)
}

/// Goes by the links, forms and redirects of the pages alone.
async fn assert_works(test: &TestOutbox, visitor: &Visitor, prefix: &str) {
    let id = insert(test, FAILED).await;
    let start = format!("{prefix}/events?status=failed");
    let signed_in = sign_in(visitor, &start);
    assert_eq!((signed_in.status.as_str(), visitor.path(&signed_in.location)), ("303", start.as_str()));
    assert!(visitor.cookies().contains(&format!("\t{}\t", if prefix.is_empty() { "/" } else { prefix })));

    let list = visitor.get(&start);
    assert_eq!(list.status, "200", "{}", list.body);
    for end in [".css", ".svg"] {
        assert_eq!(visitor.get(one(&list.body, "href", end)).status, "200");
    }
    for end in ["htmx.js", "console.js"] {
        assert_eq!(visitor.get(one(&list.body, "src", end)).status, "200");
    }
    for address in ["href", "action", "src"].map(|name| attributes(&list.body, name)).concat() {
        assert!(address.starts_with(&format!("{prefix}/")) || address == "#content", "{address}");
    }
    let event = visitor.get(one(&list.body, "href", &id));
    assert_eq!(attributes(&event.body, "hx-get"), [format!("{prefix}/events/{id}")]);
    let confirm = one(&event.body, "action", "/confirm");
    let confirm = visitor.get(&format!("{confirm}?id={id}&action=retry"));
    assert!(confirm.body.contains("Retry 1 event?"), "{}", confirm.body);
    let change = form(&[("csrf", token(&confirm.body)), ("action", "retry"), ("id", &id)]);
    let done = visitor.post(one(&confirm.body, "action", "/change"), &change);
    assert!(done.body.contains("1 event retried"), "{}", done.body);
    let sql = format!("SELECT count(*) FROM outbox_events WHERE id = '{id}' AND status = 'pending'");
    assert_eq!(test.number(&sql).await, 1);

    let signed_out = visitor.post(one(&done.body, "action", "/sign-out"), &form(&[("csrf", token(&done.body))]));
    assert_eq!(visitor.path(&signed_out.location), format!("{prefix}/sign-in"));
    assert_eq!(visitor.get(&start).status, "303");
}

#[tokio::test]
async fn behind_a_plain_proxy_pass() {
    let test = TestOutbox::new().await;
    let console = Console::open(&test, &format!("{}\nhosts = [\"{NAME}\"]", secrets())).await;
    let port = free_port();
    let server = format!("listen 127.0.0.1:{port};\nlocation / {{ proxy_pass http://{}; }}", console.host());
    let _nginx = Nginx::start(port, &server);
    assert_works(&test, &Visitor::new(format!("http://{NAME}:{port}"), None), "").await;
    // The proxy's other names are not the console's.
    let other = Visitor::new(format!("http://127.0.0.1:{port}"), None);
    let refused = sign_in(&other, "/events");
    assert_eq!(refused.status, "403");
    for value in [other.origin.clone(), console.host()] {
        assert!(refused.body.contains(&value), "{value} is named: {}", refused.body);
    }
}

#[tokio::test]
async fn behind_a_proxy_that_drops_the_port_of_host() {
    let test = TestOutbox::new().await;
    let console = Console::open(&test, &format!("{}\nhosts = [\"{NAME}\"]", secrets())).await;
    let port = free_port();
    let server = format!(
        "listen 127.0.0.1:{port};\nlocation / {{ proxy_pass http://{}; proxy_set_header Host $host; }}",
        console.host()
    );
    let _nginx = Nginx::start(port, &server);
    assert_works(&test, &Visitor::new(format!("http://{NAME}:{port}"), None), "").await;
}

#[tokio::test]
async fn behind_a_proxy_that_takes_a_prefix_off() {
    let test = TestOutbox::new().await;
    let console = Console::open(&test, &format!("{}\nproxies = [\"127.0.0.1\"]", secrets())).await;
    let port = free_port();
    let server = format!(
        "listen 127.0.0.1:{port};\nlocation /ops/outbox/ {{ proxy_pass http://{}/; proxy_set_header Host $http_host;\n\
         proxy_set_header X-Forwarded-Prefix /ops/outbox; proxy_set_header X-Forwarded-For $proxy_add_x_forwarded_for; }}",
        console.host()
    );
    let _nginx = Nginx::start(port, &server);
    assert_works(&test, &Visitor::new(format!("http://{NAME}:{port}"), None), "/ops/outbox").await;
}

#[tokio::test]
async fn a_prefix_is_believed_only_from_a_configured_proxy() {
    let test = TestOutbox::new().await;
    let console = Console::open(&test, &secrets()).await;
    let headers = vec![("x-forwarded-prefix", "/elsewhere".to_owned())];
    let said = console.ask("GET", "/events", crate::web::Ask { headers, ..crate::web::Ask::default() });
    assert_eq!(said.location, "/sign-in?then=%2Fevents");
}

#[tokio::test]
async fn behind_a_proxy_that_passes_the_prefix_on() {
    let test = TestOutbox::new().await;
    let settings = format!("{}\npath = \"/ops/outbox\"\nhosts = [\"{NAME}\"]", secrets());
    let console = Console::open(&test, &settings).await;
    let port = free_port();
    let server = format!(
        "listen 127.0.0.1:{port};\nlocation /ops/outbox {{ proxy_pass http://{}; proxy_set_header Host $http_host; }}",
        console.host()
    );
    let _nginx = Nginx::start(port, &server);
    assert_works(&test, &Visitor::new(format!("http://{NAME}:{port}"), None), "/ops/outbox").await;
}

#[tokio::test]
async fn behind_a_proxy_with_tls() {
    let test = TestOutbox::new().await;
    let console = Console::open(&test, &secrets()).await;
    let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
    let identity = Identity::write(folder.path());
    let server = format!(
        "listen 127.0.0.1:{port} ssl;\nssl_certificate {};\nssl_certificate_key {};\nlocation / {{ proxy_pass http://{};\n\
         proxy_set_header Host $http_host; proxy_set_header X-Forwarded-Proto $scheme; }}",
        identity.certificate.display(),
        identity.key.display(),
        console.host()
    );
    let _nginx = Nginx::start(port, &server);
    let visitor = Visitor::new(format!("https://localhost:{port}"), Some(&identity.authority));
    let signed_in = sign_in(&visitor, "/events");
    assert_eq!(signed_in.status, "303", "{}", signed_in.body);
    assert!(visitor.cookies().contains("\t/\tTRUE\t"), "only over TLS: {}", visitor.cookies());
    let visitor = Visitor::new(format!("https://localhost:{port}"), Some(&identity.authority));
    assert_works(&test, &visitor, "").await;
}

/// The page's first block of this language.
fn shown(language: &str) -> &'static str {
    let page = include_str!("../../../docs/console.md");
    let page = page.split("### Behind a proxy").nth(1).unwrap();
    page.split(&format!("```{language}\n")).nth(1).unwrap().split("```").next().unwrap()
}

#[tokio::test]
async fn behind_the_proxy_of_the_book() {
    let test = TestOutbox::new().await;
    let (port, folder) = (free_port(), tempfile::tempdir().unwrap());
    let identity = Identity::write(folder.path());
    let secret = folder.path().join("ann");
    std::fs::write(&secret, OPERATOR).unwrap();
    let reader = folder.path().join("support");
    std::fs::write(&reader, crate::web::READER).unwrap();
    let web = shown("toml").replace("outbox.example", "localhost");
    let web = web.replace("/etc/outbox/secrets/", &format!("{}/", folder.path().display()));
    let console = Console::open(&test, &web).await;
    let (upstream, server) = shown("nginx").split_once("server {\n    listen").unwrap();
    let server = format!("listen{}", server.trim_end().strip_suffix('}').unwrap());
    let server = server
        .replace("listen 443 ssl", &format!("listen 127.0.0.1:{port} ssl"))
        .replace("outbox.example", "localhost")
        .replace("/etc/nginx/outbox.crt", identity.certificate.to_str().unwrap())
        .replace("/etc/nginx/outbox.key", identity.key.to_str().unwrap());
    let upstream = upstream.replace("127.0.0.1:9750", &console.host());
    let _nginx = Nginx::start_with(port, &upstream, &server);
    let visitor = Visitor::new(format!("https://localhost:{port}"), Some(&identity.authority));
    assert_works(&test, &visitor, "/outbox").await;
    assert_eq!(sign_in(&visitor, "/outbox/events").status, "303");
    assert!(visitor.cookies().contains("\t/outbox\tTRUE\t"), "only over TLS: {}", visitor.cookies());
    assert_eq!(visitor.get("/outbox").status, "301");
    for path in ["/metrics", "/readyz", "/"] {
        assert_eq!(visitor.get(path).status, "404", "{path}");
    }
}
