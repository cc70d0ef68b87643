//! The outbox in an application on actix-web.

use actix::prelude::*;
use actix_outbox::actix_web::Probes;
use actix_outbox::metrics::Prometheus;
use actix_outbox::{
    HandleEvent, HandlerError, NewEvent, Outbox, OutboxSystem, PublishError, Settings, Subscribe, SystemError,
};
use actix_web::body::MessageBody;
use actix_web::dev::ServiceResponse;
use actix_web::http::header::RETRY_AFTER;
use actix_web::test::{TestRequest, call_service, init_service, read_body};
use actix_web::{App, HttpResponse, web};
use serde::Deserialize;
use serde_json::Value;
use uuid::Uuid;

struct Mailer;

impl Actor for Mailer {
    type Context = Context<Self>;
}

impl Handler<HandleEvent> for Mailer {
    type Result = Result<(), HandlerError>;

    fn handle(&mut self, _: HandleEvent, _: &mut Self::Context) -> Self::Result {
        Ok(())
    }
}

#[derive(Deserialize)]
struct NewUser {
    name: String,
    id: Option<Uuid>,
}

async fn create_user(outbox: Outbox, user: web::Json<NewUser>) -> Result<HttpResponse, PublishError> {
    let event = NewEvent::new("user.created", "tests").subject(&user.name);
    let event = outbox.send(user.id.iter().fold(event, |event, id| event.id(*id))).await?;
    Ok(HttpResponse::Created().json(event))
}

/// The full report, which an application may serve to its operators.
async fn report(outbox: Outbox) -> Result<HttpResponse, SystemError> {
    Ok(HttpResponse::Ok().json(outbox.health().await?))
}

async fn body(response: ServiceResponse<impl MessageBody>) -> Value {
    let body = read_body(response).await;
    serde_json::from_slice(&body).unwrap_or_else(|_| Value::from(String::from_utf8_lossy(&body)))
}

async fn start(folder: &tempfile::TempDir, handler: &str) -> Outbox {
    let url = format!("sqlite://{}", folder.path().join("app.db").display());
    let settings =
        Settings::from_toml(&format!("[database]\nurl = \"{url}\"\n\n[publishers.default]\nbackend = \"local\"\n"));
    OutboxSystem::builder(settings.unwrap())
        .migrate(true)
        .subscribe(Subscribe::new(handler, "user.created", Mailer.start().recipient()))
        .start()
        .await
        .unwrap()
}

#[actix::test]
async fn an_application_takes_the_outbox_as_an_argument_and_returns_its_errors() {
    let folder = tempfile::tempdir().unwrap();
    let outbox = start(&folder, "mailer").await;
    let app = App::new().app_data(web::Data::new(outbox.clone())).route("/users", web::post().to(create_user));
    let app = init_service(app).await;
    let post = async |user: Value| {
        let response = call_service(&app, TestRequest::post().uri("/users").set_json(user).to_request()).await;
        let retry = response.headers().get(RETRY_AFTER).map(|seconds| seconds.to_str().unwrap().to_owned());
        (response.status().as_u16(), retry, body(response).await)
    };
    let id = Uuid::now_v7();
    let (status, _, event) = post(serde_json::json!({"name": "Ada", "id": id})).await;
    assert_eq!((status, &event["id"], &event["subject"]), (201, &Value::from(id.to_string()), &Value::from("Ada")));

    let (status, _, problem) = post(serde_json::json!({"name": "Grace", "id": id})).await;
    assert!(status == 409 && problem["error"].as_str().unwrap().contains("`subject`"), "{status}: {problem}");
    let (status, _, problem) = post(serde_json::json!({"name": "x".repeat(256)})).await;
    assert!(status == 400 && problem["error"].as_str().unwrap().contains("`subject`"), "{status}: {problem}");

    outbox.shutdown().await.unwrap();
    let (status, retry, problem) = post(serde_json::json!({"name": "Alan"})).await;
    assert_eq!((status, retry.as_deref()), (503, Some("1")), "{problem}");
}

#[actix::test]
async fn an_application_serves_health_readiness_and_metrics() {
    let folder = tempfile::tempdir().unwrap();
    let prometheus = Prometheus::install().unwrap();
    // The recorder also has the metrics of tests that run at the same time.
    let outbox = start(&folder, "observed").await;
    let probes = Probes::new(&outbox).metrics(move || prometheus.render());
    let app = App::new()
        .app_data(web::Data::new(outbox.clone()))
        .service(web::scope("/internal").configure(|config| probes.configure(config)))
        .route("/report", web::get().to(report));
    let app = init_service(app).await;
    let get = async |path: &str| {
        let response = call_service(&app, TestRequest::get().uri(path).to_request()).await;
        (response.status().as_u16(), body(response).await)
    };

    assert_eq!(get("/internal/healthz").await, (200, serde_json::json!({"process": "ok"})));
    outbox.send(NewEvent::new("user.created", "tests")).await.unwrap();
    outbox.drained().await;
    let (status, ready) = get("/internal/readyz").await;
    assert_eq!(
        (status, &ready["database"], &ready["handlers"]["observed"]),
        (200, &"ok".into(), &"ok".into()),
        "{ready}"
    );
    let (status, metrics) = get("/internal/metrics").await;
    let handled = "outbox_events_handled_total{handler=\"observed\"} 1";
    assert!(status == 200 && metrics.as_str().unwrap().contains(handled), "{metrics}");
    let (status, report) = get("/report").await;
    assert_eq!((status, &report["handlers"]["observed"]), (200, &"ok".into()), "{report}");

    outbox.shutdown().await.unwrap();
    assert_eq!(get("/report").await.0, 503);
}
