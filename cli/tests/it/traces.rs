//! One trace across two processes: publishing an event, its delivery, and a handler's work.

use std::process::{Command, Stdio};

use actix::{Actor, Context, Handler, ResponseFuture};
use actix_outbox::{HandleEvent, HandlerError, NewEvent, OutboxSystem, Settings, Subscribe, publish};
use actix_web::{App, HttpResponse, HttpServer, web};
use diesel_async::{AsyncConnection, AsyncPgConnection};
use opentelemetry::trace::{SpanId, TracerProvider};
use opentelemetry_sdk::trace::{InMemorySpanExporter, SdkTracerProvider, SpanData};
use serde::{Deserialize, Serialize};
use tracing::{Instrument, info_span};
use tracing_subscriber::layer::SubscriberExt;

use crate::actors::Log;
use crate::support::process::Running;
use crate::support::{PATIENCE, free_port, redis};
use crate::test_outbox::TestOutbox;

/// The settings of the other process.
const SETTINGS: &str = "OUTBOX_TEST_TRACES_SETTINGS";

/// The prefix of each span that the other process prints.
const MARK: &str = "span: ";

/// An exported span.
#[derive(Debug, PartialEq, Serialize, Deserialize)]
struct Span {
    name: String,
    trace: String,
    id: String,
    parent: String,
    /// The spans by their traces.
    links: Vec<(String, String)>,
    status: String,
}

impl From<SpanData> for Span {
    fn from(span: SpanData) -> Self {
        let links = span.links.links.iter().map(|link| &link.span_context);
        Self {
            name: span.name.into_owned(),
            trace: span.span_context.trace_id().to_string(),
            id: span.span_context.span_id().to_string(),
            parent: span.parent_span_id.to_string(),
            links: links.map(|context| (context.trace_id().to_string(), context.span_id().to_string())).collect(),
            status: format!("{:?}", span.status),
        }
    }
}

/// Sets up tracing that samples and keeps every span.
fn subscriber() -> (impl tracing::Subscriber + Send + Sync, InMemorySpanExporter) {
    let exporter = InMemorySpanExporter::default();
    let provider = SdkTracerProvider::builder().with_simple_exporter(exporter.clone()).build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
    let filter = tracing::level_filters::LevelFilter::INFO;
    (tracing_subscriber::registry().with(filter).with(layer), exporter)
}

fn exported(exporter: &InMemorySpanExporter) -> Vec<Span> {
    exporter.get_finished_spans().unwrap().into_iter().map(Span::from).collect()
}

/// Creates a span of its own for each event, and fails once.
struct Mailer {
    failed: bool,
}

impl Actor for Mailer {
    type Context = Context<Self>;
}

impl Handler<HandleEvent> for Mailer {
    type Result = ResponseFuture<Result<(), HandlerError>>;

    fn handle(&mut self, message: HandleEvent, _: &mut Self::Context) -> Self::Result {
        let fails = !std::mem::replace(&mut self.failed, true);
        let work = async move {
            drop(info_span!("send mail"));
            if fails { Err(HandlerError::retry("the mailbox is full")) } else { Ok(()) }
        };
        Box::pin(work.instrument(message.span))
    }
}

/// Delivers until no event is left, and prints its spans.
#[test]
#[ignore = "the other process of the test below"]
fn the_other_process() {
    let Ok(tables) = std::env::var(SETTINGS) else { return };
    let (subscriber, exporter) = subscriber();
    tracing::subscriber::set_global_default(subscriber).unwrap();
    actix_rt::System::new().block_on(async {
        let mailer = Mailer { failed: false }.start().recipient();
        let outbox = OutboxSystem::builder(Settings::from_toml(&tables).unwrap())
            .subscribe(Subscribe::new("mailer", "order.placed", mailer))
            .start()
            .await
            .unwrap();
        tokio::time::timeout(PATIENCE, outbox.drained()).await.unwrap();
        // The handler's second attempt is not due immediately.
        while outbox.health().await.unwrap().in_flight > 0
            || exported(&exporter).iter().filter(|span| span.name == "send mail").count() < 2
        {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
        outbox.shutdown().await.unwrap();
    });
    for span in exported(&exporter) {
        println!("{MARK}{}", serde_json::to_string(&span).unwrap());
    }
}

fn run_the_other_process(settings: &str) -> Vec<Span> {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "traces::the_other_process", "--ignored", "--nocapture"])
        .env(SETTINGS, settings)
        .stderr(Stdio::inherit())
        .output()
        .unwrap();
    let said = String::from_utf8(output.stdout).unwrap();
    assert!(output.status.success(), "{said}");
    let spans = said.lines().filter_map(|line| line.split_once(MARK));
    spans.map(|(_, span)| serde_json::from_str(span).unwrap()).collect()
}

#[actix::test]
async fn publishing_delivering_and_handling_are_one_trace_across_two_processes() {
    let test = TestOutbox::new().await;
    let (subscriber, exporter) = subscriber();
    let traced = tracing::subscriber::set_default(subscriber);
    let mut conn = AsyncPgConnection::establish(test.url()).await.unwrap();
    let order = info_span!("place an order");
    let published = publish(&mut conn, NewEvent::new("order.placed", "shop")).instrument(order).await.unwrap();
    let mine = exported(&exporter);
    drop(traced);
    publish(&mut conn, NewEvent::new("order.cancelled", "shop")).await.unwrap();
    let order = mine.iter().find(|span| span.name == "place an order").unwrap();
    let traceparent = format!("00-{}-{}-01", order.trace, order.id);
    assert_eq!(published.extensions.as_str(), format!(r#"{{"traceparent":"{traceparent}"}}"#));

    let retries = "[worker]\nretry_backoff = { base = \"10ms\", factor = 1, max = \"20ms\", jitter = 0 }";
    let settings = format!("[database]\nurl = \"{}\"\n[publishers.default]\n{}{retries}", test.url(), test.stream());
    let spans = run_the_other_process(&settings);
    let named = |name: &str| spans.iter().filter(|span| span.name == name).collect::<Vec<_>>();
    let (deliver, process, mail) = (named("deliver default"), named("process mailer"), named("send mail"));
    assert_eq!([deliver.len(), process.len(), mail.len()], [1, 2, 2], "{spans:#?}");
    for span in deliver.iter().chain(&process).chain(&mail) {
        assert_eq!(span.trace, order.trace, "{span:?}");
    }
    for span in deliver.iter().chain(&process) {
        assert_eq!(span.parent, order.id, "{span:?}");
    }
    let parents: Vec<&str> = mail.iter().map(|span| span.parent.as_str()).collect();
    assert!(process.iter().all(|span| parents.contains(&span.id.as_str())), "{spans:#?}");
    let failed = process.iter().filter(|span| span.status.contains("the mailbox is full")).count();
    assert_eq!(failed, 1, "{process:#?}");
    let batches = named("send default");
    assert_eq!(batches.len(), 1, "{batches:#?}");
    assert_eq!(batches[0].links, [(order.trace.clone(), order.id.clone())]);
    assert_eq!(batches[0].parent, SpanId::INVALID.to_string());

    let mut redis = redis::connect(test.redis_url()).await;
    let entries: ::redis::streams::StreamRangeReply =
        ::redis::cmd("XRANGE").arg(test.stream_name()).arg(&["-", "+"]).query_async(&mut redis).await.unwrap();
    let with_trace = entries.ids.iter().filter(|entry| {
        let event: serde_json::Value = serde_json::from_str(&entry.get::<String>("cloud_event").unwrap()).unwrap();
        event["traceparent"] == traceparent
    });
    assert_eq!((entries.ids.len(), with_trace.count()), (2, 1));
}

/// A collector that keeps the received spans.
async fn collector() -> (u16, Log) {
    let (log, port) = (Log::default(), free_port());
    let kept = log.clone();
    let app = move || {
        let log = kept.clone();
        let take = move |body: web::Bytes| {
            let log = log.clone();
            async move {
                log.add(String::from_utf8_lossy(&body));
                HttpResponse::Ok().finish()
            }
        };
        App::new().route("/v1/traces", web::post().to(take))
    };
    let server = HttpServer::new(app).workers(1).disable_signals().bind(("127.0.0.1", port)).unwrap();
    actix_rt::spawn(server.run());
    (port, log)
}

#[actix::test]
async fn the_program_exports_the_spans_of_sampled_events_by_otlp() {
    let test = TestOutbox::new().await;
    let trace = |flags: &str| format!("traceparent=00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-{flags}");
    for (source, flags) in [("sampled", "01"), ("not-sampled", "00")] {
        test.run(&["publish", "t", "--source", source, "--extension", &trace(flags)]).await;
    }
    let (port, received) = collector().await;
    let mut worker = test.outbox(&test.settings().write(), &["worker", "--until-empty"]);
    worker.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{port}"));
    let mut worker = Running::spawn(&mut worker);
    assert!(worker.wait_exit(PATIENCE).await.success(), "{}", worker.stderr());
    let spans = received.lines().concat();
    for part in
        ["deliver default", "send default", "messaging.system", "redis_stream", "cloudevents.event_source", "sampled"]
    {
        assert!(spans.contains(part), "{part} in {spans:?}");
    }
    assert!(!spans.contains("not-sampled"), "{spans:?}");
}

#[actix::test]
async fn consuming_continues_the_trace_in_which_the_event_was_published() {
    let trace = "0af7651916cd43dd8448eb211c80319c";
    let test = TestOutbox::new().await;
    let traced = format!("traceparent=00-{trace}-b7ad6b7169203331-01");
    test.run(&["publish", "t", "--source", "s", "--extension", &traced]).await;
    test.drain(&test.settings().write()).await;
    let (port, received) = collector().await;
    let arguments = ["consume", "--stream", test.stream_name(), "--group", "mailer", "--limit", "1"];
    let mut consumer = test.outbox(&test.settings().write(), &arguments);
    consumer.env("OTEL_EXPORTER_OTLP_ENDPOINT", format!("http://127.0.0.1:{port}"));
    let mut consumer = Running::spawn(&mut consumer);
    assert!(consumer.wait_exit(PATIENCE).await.success(), "{}", consumer.stderr());
    let bytes: Vec<u8> =
        (0..trace.len()).step_by(2).map(|at| u8::from_str_radix(&trace[at..at + 2], 16).unwrap()).collect();
    let spans = received.lines().concat();
    assert!(spans.contains("process command-line"), "{spans:?}");
    assert!(spans.contains(&*String::from_utf8_lossy(&bytes)), "{spans:?}");
}
