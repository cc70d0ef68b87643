//! The console in an application's own server.

use std::net::SocketAddr;
use std::sync::mpsc;

use actix_outbox::{BackendError, OutboxEvent, OutboxSystem, PublisherBackend, Settings};
use actix_outbox_console::{Access, Console, User, scope};
use actix_web::dev::ServerHandle;
use actix_web::{App, HttpResponse, HttpServer, web};

use crate::test_outbox::TestOutbox;
use crate::web::{FAILED, OPERATOR, form, insert};

/// An application with the console at `/outbox` and pages of its own.
struct Application {
    address: SocketAddr,
    server: ServerHandle,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Application {
    fn start(test: &TestOutbox, access: impl FnOnce() -> Access + Send + 'static) -> Self {
        let settings = Settings::from_toml(&format!("[database]\nurl = \"{}\"", test.url())).unwrap();
        Self::serve(move || Console::new(&settings, access()).unwrap())
    }

    fn serve(console: impl FnOnce() -> Console + Send + 'static) -> Self {
        let (tell, told) = mpsc::channel();
        let thread = std::thread::spawn(move || {
            actix_rt::System::new().block_on(async move {
                let console = console();
                let app = move || {
                    let own = || async { HttpResponse::Ok().body("the application's own page") };
                    App::new().service(scope("/outbox", &console)).default_service(web::to(own))
                };
                let server = HttpServer::new(app).workers(1).disable_signals().bind(("127.0.0.1", 0)).unwrap();
                let address = server.addrs()[0];
                let server = server.run();
                tell.send((address, server.handle())).unwrap();
                server.await.unwrap();
            });
        });
        let (address, server) = told.recv().unwrap();
        Self { address, server, thread: Some(thread) }
    }

    fn ask(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> Answer {
        let agent: ureq::Agent =
            ureq::Agent::config_builder().http_status_as_error(false).max_redirects(0).build().into();
        let mut request = ureq::http::Request::builder().method(method).uri(format!("http://{}{path}", self.address));
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let mut answer = agent.run(request.body(body.to_owned()).unwrap()).unwrap();
        let header = |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap().to_owned());
        let (location, cookie) = (header("location").unwrap_or_default(), header("set-cookie"));
        let status = answer.status().as_u16();
        Answer { status, location, cookie, body: answer.body_mut().read_to_string().unwrap() }
    }

    /// Sends a form as a page of the console does.
    fn submit(&self, path: &str, headers: &[(&str, &str)], form: &str) -> Answer {
        let origin = format!("http://{}", self.address);
        let ours = [("origin", origin.as_str()), ("content-type", "application/x-www-form-urlencoded")];
        self.ask("POST", path, &[headers, &ours].concat(), form)
    }
}

impl Drop for Application {
    fn drop(&mut self) {
        drop(self.server.stop(false));
        let _ = self.thread.take().unwrap().join();
    }
}

struct Answer {
    status: u16,
    location: String,
    cookie: Option<String>,
    body: String,
}

impl Answer {
    fn token(&self) -> String {
        let (_, rest) = self.body.split_once("name=\"csrf\" value=\"").unwrap_or_else(|| panic!("{}", self.body));
        rest.split('"').next().unwrap().to_owned()
    }
}

#[tokio::test]
async fn however_a_path_is_written_the_secret_goes_to_the_console() {
    let test = TestOutbox::new().await;
    let application = Application::start(&test, || Access::secrets(&OPERATOR.into(), None).unwrap());
    let is_ours = |address: &str| ["/outbox/", "/%6Futbox/", "/o%75tbox/"].iter().any(|ours| address.starts_with(ours));
    for path in [
        "/outbox",
        "/outbox/events",
        "/outbox/%65vents",
        "/outbox/event%73?status=failed",
        "/%6Futbox/events",
        "/o%75tbox/%65vents",
        "/outbox/events%2Fx",
        "/outbox/%E4%FF",
        "/outbox/%2e%2e/x",
        "/outbox//events",
        "/outbox/a/../../b",
    ] {
        let said = application.ask("GET", path, &[], "");
        assert!(said.status == 303 && is_ours(&said.location), "{path}: {} {}", said.status, said.location);
        assert!(said.location.contains("/sign-in?then="), "{path}: {}", said.location);
    }
    for path in ["/outbox/sign-in", "/outbox/%73ign-in", "/outbox/sign%2Din?then=/events", "/%6Futbox/sign-in"] {
        let page = application.ask("GET", path, &[], "");
        assert_eq!(page.status, 200, "{path}");
        let (_, action) = page.body.split_once("action=\"").unwrap();
        let action = action.split('"').next().unwrap();
        assert!(is_ours(action), "{path}: {action}");
        let signed_in = application.submit(action, &[], &form(&[("secret", OPERATOR)]));
        assert!(signed_in.status == 303 && signed_in.cookie.is_some(), "{path}: {}", signed_in.body);
    }
}

#[tokio::test]
async fn an_application_brings_its_own_login() {
    let test = TestOutbox::new().await;
    let id = insert(&test, FAILED).await;
    let application = Application::start(&test, || {
        Access::application_login(|request| match request.headers().get("x-employee")?.to_str().ok()? {
            "ann" => Some(User::operator("ann")),
            name => Some(User::reader(name)),
        })
    });
    let [ann, eve] = ["ann", "eve"].map(|name| ("x-employee", name));
    let stranger = application.ask("GET", "/outbox/events", &[], "");
    assert_eq!((stranger.status, stranger.location.as_str()), (401, ""));
    assert_eq!(application.ask("GET", "/outbox/api/v1/overview", &[], "").status, 401);
    assert_eq!(application.ask("GET", "/outbox/sign-in", &[], "").status, 404);
    assert_eq!(application.submit("/outbox/sign-in", &[], &form(&[("secret", "")])).status, 404);
    assert_eq!(application.ask("GET", "/outbox/api/v1/overview", &[eve], "").status, 200);
    let confirm = format!("/outbox/confirm?action=retry&id={id}");
    assert_eq!(application.ask("GET", &confirm, &[eve], "").status, 403);

    let page = application.ask("GET", &confirm, &[ann], "");
    assert!(page.status == 200 && page.cookie.is_none() && !page.body.contains("Sign out"), "{}", page.body);
    let eves = application.ask("GET", "/outbox/", &[eve], "");
    assert!(!eves.body.contains("csrf") && !eves.body.contains("Sign out"), "{}", eves.body);
    let change = |token: &str| form(&[("csrf", token), ("action", "retry"), ("id", &id)]);
    let elsewhere = [ann, ("origin", "http://evil.example"), ("content-type", "application/x-www-form-urlencoded")];
    for (headers, token) in [(&elsewhere[..], page.token()), (&[ann, elsewhere[2]], page.token())] {
        assert_eq!(application.ask("POST", "/outbox/change", headers, &change(&token)).status, 403);
    }
    assert_eq!(application.submit("/outbox/change", &[ann], &change("")).status, 403);
    assert_eq!(application.submit("/outbox/change", &[eve], &change(&page.token())).status, 403);
    assert_eq!(test.number("SELECT count(*) FROM outbox_events WHERE status = 'failed'").await, 1);
    let done = application.submit("/outbox/change", &[ann], &change(&page.token()));
    assert!(done.body.contains("1 event retried"), "{}", done.body);
    let audit = application.ask("GET", "/outbox/api/v1/audit", &[eve], "");
    assert!(audit.body.contains("\"who\":\"ann in the console\""), "{}", audit.body);
}

/// A backend of the application.
struct Pigeon;

#[async_trait::async_trait]
impl PublisherBackend for Pigeon {
    async fn publish(&self, _: &OutboxEvent) -> Result<(), BackendError> {
        Ok(())
    }

    async fn health_check(&self) -> Result<(), BackendError> {
        Ok(())
    }
}

#[tokio::test]
async fn the_doctor_knows_the_backends_of_the_application() {
    let test = TestOutbox::new().await;
    let settings = format!("[database]\nurl = \"{}\"\n[publishers.default]\nbackend = \"pigeon\"", test.url());
    let settings = Settings::from_toml(&settings).unwrap();
    let checks = |console: Console| {
        let application = Application::serve(move || console);
        let answer = application.ask("GET", "/outbox/api/v1/doctor", &[("x-employee", "eve")], "");
        let answer: serde_json::Value = serde_json::from_str(&answer.body).unwrap();
        let findings = answer["findings"].as_array().unwrap().clone();
        findings.into_iter().filter(|finding| finding["part"] == "publisher default").collect::<Vec<_>>()
    };
    let access = || Access::application_login(|_| Some(User::reader("eve")));
    let builder = OutboxSystem::builder(settings.clone()).backend("pigeon", |_| Ok(Pigeon));
    assert_eq!(checks(Console::for_builder(&builder, &settings, access()).unwrap()), Vec::<serde_json::Value>::new());
    let unknown = checks(Console::new(&settings, access()).unwrap());
    assert_eq!(unknown[0]["check"], "settings", "{unknown:?}");
}
