//! The `http` backend, against a server of the test's own that fails in every way.

use std::collections::HashMap;
use std::convert::Infallible;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use actix_outbox::{NewEvent, Outbox, OutboxSystem};
use diesel_async::{AsyncConnection, AsyncPgConnection};
use http_body_util::{BodyExt, Full};
use hyper::body::{Bytes, Incoming};
use hyper::service::service_fn;
use hyper::{HeaderMap, Request, Response, StatusCode};
use hyper_util::rt::{TokioExecutor, TokioIo};
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpStream};

use crate::actors::{QUICK_RETRIES, wait_status};
use crate::python::interpreter;
use crate::support::tls::Identity;
use crate::support::{PATIENCE, eventually};
use crate::test_outbox::TestOutbox;

/// What the server does with a request.
#[derive(Debug, Clone)]
pub(crate) enum Reply {
    Status(u16, Vec<(&'static str, String)>),
    /// Accepts it after this time.
    After(Duration),
    /// Closes the connection without an answer.
    Close,
    /// Closes it in the middle of the answer's head.
    CloseHalf,
    /// Never answers.
    Stall,
    /// Answers, and then sends a body that has no end.
    Endless,
    /// Answers, and then says no more.
    Silent,
}

impl Reply {
    pub(crate) fn status(status: u16) -> Self {
        Self::Status(status, Vec::new())
    }
}

#[derive(Debug, Clone)]
struct Received {
    path: String,
    headers: HeaderMap,
    body: Bytes,
    version: hyper::Version,
}

impl Received {
    fn json(&self) -> Value {
        serde_json::from_slice(&self.body).unwrap()
    }

    fn header(&self, name: &str) -> &str {
        self.headers.get(name).map_or("", |value| value.to_str().unwrap())
    }
}

/// A receiver of webhooks: the replies of a path are used up one after the other; then it accepts.
#[derive(Clone)]
pub(crate) struct Receiver {
    port: u16,
    received: Arc<Mutex<Vec<Received>>>,
    replies: Arc<Mutex<HashMap<String, Vec<Reply>>>>,
}

impl Receiver {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let receiver =
            Self { port: listener.local_addr().unwrap().port(), received: Arc::default(), replies: Arc::default() };
        let server = receiver.clone();
        tokio::spawn(async move {
            loop {
                let (stream, _) = listener.accept().await.unwrap();
                tokio::spawn(server.clone().serve(stream));
            }
        });
        receiver
    }

    pub(crate) fn url(&self, path: &str) -> String {
        format!("http://127.0.0.1:{}{path}", self.port)
    }

    /// What the server does with the next requests for a path.
    pub(crate) fn reply(&self, path: &str, replies: impl IntoIterator<Item = Reply>) {
        let mut replies: Vec<Reply> = replies.into_iter().collect();
        replies.reverse();
        self.replies.lock().unwrap().insert(path.to_owned(), replies);
    }

    /// How many requests it has received.
    pub(crate) fn count(&self) -> usize {
        self.received().len()
    }

    fn received(&self) -> Vec<Received> {
        self.received.lock().unwrap().clone()
    }

    fn subjects(&self) -> Vec<String> {
        self.received().iter().map(|request| request.json()["subject"].as_str().unwrap().to_owned()).collect()
    }

    async fn serve(self, stream: TcpStream) {
        use tokio::io::AsyncWriteExt;

        // A second handle to the connection, for answers that are none.
        let stream = stream.into_std().unwrap();
        let raw = stream.try_clone().unwrap();
        let stream = TcpStream::from_std(stream).unwrap();
        let raw = Arc::new(tokio::sync::Mutex::new(TcpStream::from_std(raw).unwrap()));
        let service = service_fn(move |request: Request<Incoming>| {
            let (server, raw) = (self.clone(), Arc::clone(&raw));
            async move {
                let reply = server.note(request).await;
                let answer = match reply {
                    Reply::Status(status, headers) => {
                        let mut answer = Response::new(Full::new(Bytes::from_static(b"ok")));
                        *answer.status_mut() = StatusCode::from_u16(status).unwrap();
                        for (name, value) in headers {
                            answer.headers_mut().insert(name, value.parse().unwrap());
                        }
                        answer
                    }
                    Reply::After(time) => {
                        tokio::time::sleep(time).await;
                        Response::new(Full::new(Bytes::new()))
                    }
                    Reply::Close => return Err("closed"),
                    Reply::CloseHalf => {
                        raw.lock().await.write_all(b"HTTP/1.1 200 O").await.unwrap();
                        return Err("closed");
                    }
                    Reply::Stall => std::future::pending().await,
                    Reply::Silent => {
                        let head = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n";
                        raw.lock().await.write_all(head).await.unwrap();
                        std::future::pending().await
                    }
                    Reply::Endless => {
                        let mut raw = raw.lock().await;
                        raw.write_all(b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n").await.unwrap();
                        while raw.write_all(b"400\r\n").await.is_ok() {
                            let _ = raw.write_all(&[b'x'; 1024]).await;
                            let _ = raw.write_all(b"\r\n").await;
                        }
                        return Err("closed");
                    }
                };
                Ok(answer)
            }
        });
        let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
            .serve_connection(TokioIo::new(stream), service)
            .await;
    }

    async fn note(&self, request: Request<Incoming>) -> Reply {
        let (head, body) = request.into_parts();
        let path = head.uri.path_and_query().unwrap().to_string();
        let reply = self.replies.lock().unwrap().get_mut(&path).and_then(Vec::pop).unwrap_or(Reply::status(204));
        let body = body.collect().await.unwrap().to_bytes();
        self.received.lock().unwrap().push(Received { path, headers: head.headers, body, version: head.version });
        reply
    }
}

/// Lines of a publisher that may send to this machine.
const TO_LOOPBACK: &str = "allow_addresses = [\"127.0.0.0/8\"]\ntimeout = \"1s\"\n";

async fn start(test: &TestOutbox, publisher: &str) -> Outbox {
    let tables = format!("[publishers.default]\nbackend = \"http\"\n{publisher}\n[worker]\n{QUICK_RETRIES}");
    OutboxSystem::builder(test.system_settings(&tables)).start().await.unwrap()
}

async fn diesel(test: &TestOutbox) -> AsyncPgConnection {
    AsyncPgConnection::establish(test.url()).await.unwrap()
}

fn event(subject: &str) -> NewEvent {
    NewEvent::new("thing.happened", "tests").subject(subject).data(json!({ "n": 1 }))
}

#[actix::test]
async fn events_arrive_in_each_mode_and_the_python_sdk_reads_them() {
    let (test, receiver) = (TestOutbox::new().await, Receiver::start().await);
    let sdk = |request: &Received| {
        let headers: Vec<(String, String)> = request
            .headers
            .iter()
            .map(|(name, value)| (name.to_string(), value.to_str().unwrap().to_owned()))
            .collect();
        let read = "import json, sys\nfrom cloudevents.core.bindings.http import HTTPMessage, from_http_event\n\
            given = json.load(sys.stdin)\n\
            event = from_http_event(HTTPMessage(dict(given['headers']), given['body'].encode()))\n\
            print(json.dumps({**event.get_attributes(), 'data': event.get_data()}, default=str))";
        let given = json!({ "headers": headers, "body": String::from_utf8_lossy(&request.body) }).to_string();
        let mut python = Command::new(interpreter("cloudevents", &["cloudevents==2.2.0"]));
        let mut python = python
            .args(["-c", read])
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .spawn()
            .unwrap();
        std::io::Write::write_all(&mut python.stdin.take().unwrap(), given.as_bytes()).unwrap();
        serde_json::from_slice::<Value>(&python.wait_with_output().unwrap().stdout).unwrap()
    };
    for mode in ["structured", "binary"] {
        let lines = format!("url = \"{}\"\nmode = \"{mode}\"\n{TO_LOOPBACK}", receiver.url("/{type}/{key}"));
        let outbox = start(&test, &lines).await;
        let sent = event("a ü").partition_key("k/1").extension("tenant", "t 1");
        let stored = outbox.send(sent).await.unwrap();
        outbox.drained().await;
        outbox.shutdown().await.unwrap();
        let request = receiver.received().pop().unwrap();
        assert_eq!(request.path, "/thing.happened/k%2F1");
        let read = sdk(&request);
        for (name, value) in [
            ("id", stored.id.to_string().as_str()),
            ("type", "thing.happened"),
            ("source", "tests"),
            ("subject", "a ü"),
            ("partitionkey", "k/1"),
            ("tenant", "t 1"),
        ] {
            assert_eq!(read[name], value, "{mode}: {read}");
        }
        assert_eq!(read["data"], json!({ "n": 1 }), "{mode}");
    }
    let lines = format!("url = \"{}\"\nmode = \"batch\"\n{TO_LOOPBACK}", receiver.url("/batch"));
    let events: Vec<NewEvent> = (0..250).map(|n| event(&n.to_string()).partition_key((n % 7).to_string())).collect();
    actix_outbox::publish_many(&mut diesel(&test).await, events).await.unwrap();
    let outbox = start(&test, &lines).await;
    outbox.drained().await;
    outbox.shutdown().await.unwrap();
    let batches: Vec<Received> = receiver.received().into_iter().filter(|request| request.path == "/batch").collect();
    let sizes: Vec<usize> = batches.iter().map(|request| request.json().as_array().unwrap().len()).collect();
    assert!(sizes.iter().sum::<usize>() == 250 && sizes.iter().all(|size| *size <= 100), "{sizes:?}");
    let all: Vec<Value> = batches.iter().flat_map(|request| request.json().as_array().unwrap().clone()).collect();
    for key in ["0", "1", "2", "3", "4", "5", "6"] {
        let of_key = all.iter().filter(|event| event["partitionkey"] == key);
        assert!(of_key.map(|event| event["subject"].as_str().unwrap().parse::<u32>().unwrap()).is_sorted());
    }
    assert!(batches[0].header("content-type").starts_with("application/cloudevents-batch+json"));
}

#[actix::test]
async fn an_unavailable_host_costs_no_retries_and_holds_up_no_other() {
    let (test, dead, alive) = (TestOutbox::new().await, Receiver::start().await, Receiver::start().await);
    let unavailable = [
        Reply::Close,
        Reply::CloseHalf,
        Reply::Stall,
        Reply::status(500),
        Reply::status(408),
        Reply::Status(429, vec![("retry-after", "1".to_owned())]),
        Reply::Status(503, vec![("retry-after", "Thu, 01 Jan 1970 00:00:00 GMT".to_owned())]),
    ];
    // Before each of them, the first event of the dead host is due.
    for reply in unavailable {
        let outbox = start(&test, TO_LOOPBACK).await;
        let name = format!("{reply:?}");
        dead.reply("/hook", [reply]);
        let to = |receiver: &Receiver, subject: String| {
            event(&subject).partition_key("k").publisher_config("url", receiver.url("/hook"))
        };
        let first = outbox.send(to(&dead, format!("{name} 1"))).await.unwrap();
        outbox.send(to(&dead, format!("{name} 2"))).await.unwrap();
        let other = outbox.send(to(&alive, format!("{name} 3")).partition_key("other")).await.unwrap();
        test.wait_published().await;
        let sql = test.sql().await;
        let order = "SELECT count(*) FROM outbox_events WHERE id = $1 AND published_at <= \
                     (SELECT published_at FROM outbox_events WHERE id = $2)";
        let waited: i64 = sql.query_one(order, &[&other.id, &first.id]).await.unwrap().get(0);
        assert_eq!(waited, 1, "{name}: the other host's event was not held up");
        outbox.shutdown().await.unwrap();
        let subjects = dead.subjects();
        let tail = &subjects[subjects.len() - 3..];
        assert_eq!(tail, [format!("{name} 1"), format!("{name} 1"), format!("{name} 2")], "one try, then in order");
    }
    let spent = "SELECT count(*) FROM outbox_events WHERE retry_count > 0 OR status <> 'published'";
    assert_eq!(test.number(spent).await, 0);
    assert!(
        test.number("SELECT count(*) FROM outbox_events WHERE last_error <> ''").await >= 7,
        "it says why it waited"
    );
}

#[actix::test]
async fn a_slow_host_holds_up_no_other() {
    const EVENTS: usize = 12;
    let (test, slow, fast) = (TestOutbox::new().await, Receiver::start().await, Receiver::start().await);
    slow.reply("/", vec![Reply::After(Duration::from_millis(600)); EVENTS]);
    let outbox = start(&test, &format!("{TO_LOOPBACK}concurrency = 1\n")).await;
    for n in 0..EVENTS {
        outbox.send(event(&format!("slow {n}")).publisher_config("url", slow.url("/"))).await.unwrap();
    }
    eventually("its batch is on its way", PATIENCE, async || slow.count() >= 2).await;
    outbox.send(event("fast").publisher_config("url", fast.url("/"))).await.unwrap();
    eventually("the other host has its event", PATIENCE, async || fast.count() == 1).await;
    assert!(slow.count() < EVENTS, "the slow host has all of its events first");
    eventually("all arrive", PATIENCE, async || slow.count() == EVENTS).await;
    test.wait_published().await;
    assert_eq!(test.number("SELECT sum(retry_count) FROM outbox_events").await, 0);
    outbox.shutdown().await.unwrap();
}

#[actix::test]
async fn an_answer_body_without_an_end_is_not_waited_for() {
    let (test, receiver) = (TestOutbox::new().await, Receiver::start().await);
    let outbox = start(&test, &format!("url = \"{}\"\n{TO_LOOPBACK}", receiver.url("/hook"))).await;
    for (sent, reply) in [Reply::Endless, Reply::Silent].into_iter().enumerate() {
        receiver.reply("/hook", [reply]);
        outbox.send(event("1")).await.unwrap();
        outbox.drained().await;
        assert_eq!((test.published().await, receiver.received().len()), (sent as i64 + 1, sent + 1));
    }
    outbox.shutdown().await.unwrap();
}

#[actix::test]
async fn a_host_that_wants_to_be_left_alone_forever_is_tried_again_within_the_limit() {
    let (test, receiver) = (TestOutbox::new().await, Receiver::start().await);
    let lines = format!("url = \"{}\"\nunavailable_limit = \"1h\"\n{TO_LOOPBACK}", receiver.url("/hook"));
    receiver.reply("/hook", [Reply::Status(503, vec![("retry-after", u64::MAX.to_string())])]);
    let outbox = start(&test, &lines).await;
    outbox.send(event("1")).await.unwrap();
    let row = wait_status(&test.sql().await, "1", "retry").await;
    assert_eq!((row.retry_count, row.errors), (0, 1));
    let wait = "SELECT count(*) FROM outbox_events WHERE retry_at BETWEEN now() + interval '50 min' AND now() + interval '80 min'";
    assert_eq!(test.number(wait).await, 1);
    outbox.shutdown().await.unwrap();
}

#[actix::test]
async fn a_refusal_fails_the_event_and_a_redirect_is_not_followed() {
    let (test, receiver) = (TestOutbox::new().await, Receiver::start().await);
    let outbox = start(&test, &format!("url = \"{}\"\n{TO_LOOPBACK}", receiver.url("/{key}"))).await;
    let sql = test.sql().await;
    for status in [400, 401, 404, 422] {
        let subject = status.to_string();
        receiver.reply(&format!("/{status}"), [Reply::status(status)]);
        outbox.send(event(&subject).partition_key(&subject)).await.unwrap();
        let row = wait_status(&sql, &subject, "failed").await;
        assert!(row.last_error.contains(&subject) && row.last_error.contains("127.0.0.1"), "{row:?}");
    }
    let elsewhere = Reply::Status(302, vec![("location", "http://169.254.169.254/latest/meta-data".to_owned())]);
    receiver.reply("/moved", vec![elsewhere; 10]);
    outbox.send(event("moved").partition_key("moved")).await.unwrap();
    let row = wait_status(&sql, "moved", "failed").await;
    assert!(row.last_error.contains("redirect") && row.retry_count == 3, "{row:?}");
    outbox.shutdown().await.unwrap();
}

#[actix::test]
async fn one_bad_event_does_not_fail_its_batch() {
    let (test, receiver) = (TestOutbox::new().await, Receiver::start().await);
    // Of one key, so that they are sent together.
    let events: Vec<NewEvent> = (0..3).map(|n| event(&n.to_string()).partition_key("k")).collect();
    actix_outbox::publish_many(&mut diesel(&test).await, events).await.unwrap();
    // The batch, and then the second event alone.
    receiver.reply("/hook", [Reply::status(400), Reply::status(204), Reply::status(400), Reply::status(204)]);
    let outbox = start(&test, &format!("url = \"{}\"\nmode = \"batch\"\n{TO_LOOPBACK}", receiver.url("/hook"))).await;
    outbox.drained().await;
    outbox.shutdown().await.unwrap();
    let failed = "SELECT string_agg(subject, ' ') FROM outbox_events WHERE status = 'failed'";
    assert_eq!(test.sql().await.query_one(failed, &[]).await.unwrap().get::<_, String>(0), "1");
    assert_eq!(test.published().await, 2);
}

#[actix::test]
async fn an_event_is_rejected_when_its_host_was_unavailable_for_the_limit() {
    let (test, receiver) = (TestOutbox::new().await, Receiver::start().await);
    let lines = format!("url = \"{}\"\nunavailable_limit = \"0s\"\n{TO_LOOPBACK}", receiver.url("/hook"));
    receiver.reply("/hook", vec![Reply::status(503); 100]);
    let outbox = start(&test, &lines).await;
    outbox.send(event("1")).await.unwrap();
    let row = wait_status(&test.sql().await, "1", "failed").await;
    assert!(row.retry_count == 3 && row.last_error.contains("unavailable for"), "{row:?}");
    outbox.shutdown().await.unwrap();
}

#[actix::test]
async fn an_address_that_is_not_public_is_never_connected() {
    let (test, receiver) = (TestOutbox::new().await, Receiver::start().await);
    // Without `allow_addresses`; the name is resolved to an address of this machine.
    let outbox = start(&test, "").await;
    let sql = test.sql().await;
    for (subject, host) in
        [("literal", "127.0.0.1"), ("number", "2130706433"), ("name", "localhost"), ("six", "[::ffff:127.0.0.1]")]
    {
        let url = format!("http://{host}:{}/hook", receiver.port);
        outbox.send(event(subject).publisher_config("url", url)).await.unwrap();
        let row = wait_status(&sql, subject, "failed").await;
        assert!(row.last_error.contains("not public"), "{subject}: {row:?}");
    }
    let fixed = format!("[publishers.default]\nbackend = \"http\"\nurl = \"{}\"\n", receiver.url("/hook"));
    let refused = OutboxSystem::builder(test.system_settings(&fixed)).start().await.err().unwrap();
    assert!(refused.to_string().contains("not public"), "{refused}");
    outbox.send(event("none")).await.unwrap();
    assert!(wait_status(&sql, "none", "failed").await.last_error.contains("no address"));
    outbox.shutdown().await.unwrap();
    assert!(receiver.received().is_empty());
}

#[actix::test]
async fn requests_are_signed_with_each_secret_and_an_independent_library_verifies_them() {
    let (test, receiver) = (TestOutbox::new().await, Receiver::start().await);
    let secrets = ["whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "whsec_C2FVsBQIhrscChlQIMV+b5sSYspob7oD"];
    let file = test.file(&secrets.join("\n"));
    let lines = format!(
        "url = \"{}\"\nsecrets_file = \"{}\"\nheaders = {{ authorization = \"Bearer t0ken\" }}\n{TO_LOOPBACK}",
        receiver.url("/hook"),
        file.display()
    );
    receiver.reply("/hook", [Reply::status(503)]);
    let outbox = start(&test, &lines).await;
    let stored = outbox.send(event("1")).await.unwrap();
    test.wait_published().await;
    outbox.shutdown().await.unwrap();
    let received = receiver.received();
    assert_eq!(received.len(), 2);
    let verify = "import sys\nfrom standardwebhooks import Webhook\nsecret, id, timestamp, signature, body = sys.argv[1:]\n\
        Webhook(secret).verify(body, {'webhook-id': id, 'webhook-timestamp': timestamp, 'webhook-signature': signature})";
    for request in &received {
        assert_eq!(request.header("webhook-id"), stored.id.to_string(), "the same at every try");
        assert_eq!(request.header("authorization"), "Bearer t0ken");
        let body = String::from_utf8(request.body.to_vec()).unwrap();
        let run = |secret: &str, body: &str| {
            Command::new(interpreter("standardwebhooks", &["standardwebhooks==1.1.0"]))
                .args(["-c", verify, secret, request.header("webhook-id"), request.header("webhook-timestamp")])
                .args([request.header("webhook-signature"), body])
                .output()
                .unwrap()
        };
        for secret in secrets {
            let verified = run(secret, &body);
            assert!(verified.status.success(), "{}", String::from_utf8_lossy(&verified.stderr));
        }
        assert!(!run(secrets[0], &format!("{body} ")).status.success());
    }
}

#[actix::test]
async fn https_verifies_the_receiver_and_speaks_http_2() {
    let test = TestOutbox::new().await;
    let (folder, receiver) = (tempfile::tempdir().unwrap(), Receiver::start().await);
    let identity = Identity::write(folder.path());
    let port = serve_tls(&identity, receiver.clone()).await;
    let url = format!("https://localhost:{port}/hook");
    let unknown = start(&test, &format!("url = \"{url}\"\n{TO_LOOPBACK}")).await;
    let sql = test.sql().await;
    unknown.send(event("1")).await.unwrap();
    eventually("it waits", PATIENCE, async || {
        let why: String = sql.query_one("SELECT last_error FROM outbox_events", &[]).await.unwrap().get(0);
        why.contains("certificate")
    })
    .await;
    unknown.shutdown().await.unwrap();
    assert!(receiver.received().is_empty());

    let tls = format!("tls = {{ ca_file = \"{}\" }}\n", identity.authority.display());
    let outbox = start(&test, &format!("url = \"{url}\"\n{tls}{TO_LOOPBACK}")).await;
    test.wait_published().await;
    outbox.shutdown().await.unwrap();
    let received = receiver.received();
    assert_eq!((received.len(), received[0].version), (1, hyper::Version::HTTP_2));
}

/// Serves a receiver by TLS as well; returns the port.
async fn serve_tls(identity: &Identity, receiver: Receiver) -> u16 {
    use rustls::pki_types::pem::PemObject;
    use rustls::pki_types::{CertificateDer, PrivateKeyDer};

    let certificates = CertificateDer::pem_file_iter(&identity.certificate).unwrap().map(Result::unwrap).collect();
    let key = PrivateKeyDer::from_pem_file(&identity.key).unwrap();
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let mut config = config.with_no_client_auth().with_single_cert(certificates, key).unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    let acceptor = tokio_rustls::TlsAcceptor::from(Arc::new(config));
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            let (acceptor, receiver) = (acceptor.clone(), receiver.clone());
            tokio::spawn(async move {
                let Ok(stream) = acceptor.accept(stream).await else { return };
                let service = service_fn(move |request| {
                    let receiver = receiver.clone();
                    async move {
                        receiver.note(request).await;
                        Ok::<_, Infallible>(Response::new(Full::new(Bytes::new())))
                    }
                });
                let _ = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new())
                    .serve_connection(TokioIo::new(stream), service)
                    .await;
            });
        }
    });
    port
}

#[actix::test]
async fn events_behind_the_one_that_finds_its_host_gone_wait() {
    const CONCURRENCY: i64 = 2;
    let (test, gone) = (TestOutbox::new().await, Receiver::start().await);
    let events = (0..50).map(|n| event(&n.to_string()));
    actix_outbox::publish_many(&mut diesel(&test).await, events).await.unwrap();
    gone.reply("/hook", vec![Reply::status(410); 50]);
    let lines = format!("url = \"{}\"\nconcurrency = {CONCURRENCY}\n{TO_LOOPBACK}", gone.url("/hook"));
    let outbox = start(&test, &lines).await;
    let touched = "SELECT count(*) FROM outbox_events WHERE status <> 'pending'";
    eventually("all were tried", PATIENCE, async || test.number(touched).await == 50).await;
    let failed = test.number("SELECT count(*) FROM outbox_events WHERE status = 'failed'").await;
    // Shards are opened, and so batches sent, a few at a time.
    assert!((1..=CONCURRENCY).contains(&failed), "{failed} of 50 failed");
    assert_eq!(test.number("SELECT count(*) FROM outbox_events WHERE retry_count > 0 AND status = 'retry'").await, 0);
    outbox.shutdown().await.unwrap();
}

#[actix::test]
async fn a_host_that_is_gone_is_paused_until_an_operator_resumes_it() {
    let (test, gone, other) = (TestOutbox::new().await, Receiver::start().await, Receiver::start().await);
    let outbox = start(&test, TO_LOOPBACK).await;
    gone.reply("/hook", [Reply::status(410)]);
    // Two hosts: a name, and an address.
    let to_gone =
        |subject: &str| event(subject).publisher_config("url", format!("http://localhost:{}/hook", gone.port));
    let sql = test.sql().await;
    outbox.send(to_gone("1")).await.unwrap();
    wait_status(&sql, "1", "failed").await;
    outbox.send(to_gone("2")).await.unwrap();
    let row = wait_status(&sql, "2", "retry").await;
    assert!(row.retry_count == 0 && row.last_error.contains("localhost is paused"), "{row:?}");
    outbox.send(event("3").publisher_config("url", other.url("/hook"))).await.unwrap();
    wait_status(&sql, "3", "published").await;
    let listed = test.outbox(&settings(&test), &["backends", "list"]).output().unwrap();
    assert!(String::from_utf8_lossy(&listed.stdout).contains("paused hosts: localhost"), "{listed:?}");

    test.outbox(&settings(&test), &["backends", "resume", "default", "--host", "LOCALHOST"]).output().unwrap();
    sql.batch_execute("UPDATE outbox_events SET retry_at = now() WHERE status = 'retry'").await.unwrap();
    eventually("it is sent once the worker has seen it", PATIENCE, async || {
        sql.batch_execute("UPDATE outbox_events SET retry_at = now() WHERE status = 'retry'").await.unwrap();
        test.number("SELECT count(*) FROM outbox_events WHERE subject = '2' AND status = 'published'").await == 1
    })
    .await;
    assert_eq!(gone.received().len(), 2);

    let paused = ["backends", "pause", "default", "--host", "127.0.0.1", "--reason", "moves"];
    let paused = test.outbox(&settings(&test), &paused).output().unwrap();
    assert!(String::from_utf8_lossy(&paused.stdout).starts_with("paused 127.0.0.1 of default"), "{paused:?}");
    outbox.shutdown().await.unwrap();
}

fn settings(test: &TestOutbox) -> std::path::PathBuf {
    test.file(&format!("[database]\nurl = \"{}\"\n[publishers.default]\nbackend = \"http\"\n", test.url()))
}
