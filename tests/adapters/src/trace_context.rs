//! An event carries the trace of the span in which it was published.

use actix_outbox::NewEvent;
use opentelemetry::trace::{TraceContextExt, TracerProvider};
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Instrument;
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::layer::SubscriberExt;

use crate::database::{Kind, TestDatabase};
use crate::doors::{
    DieselMysql, DieselPostgres, DieselSqlite, Door, MysqlAsync, Rusqlite, SeaOrm1, SeaOrm2, Sqlx8Mysql, Sqlx8Postgres,
    Sqlx8Sqlite, Sqlx9Postgres, Sqlx9Sqlite, TokioPostgres,
};

/// Publishes an event in a span of its own, and checks that its row names the span's trace.
async fn publish_in_span<D: Door>(database: &TestDatabase) {
    let mut door = D::connect(database).await;
    let span = tracing::info_span!("request");
    let trace = span.context().span().span_context().trace_id().to_string();
    let id = door.publish(NewEvent::new("t", "tests")).instrument(span).await.unwrap();
    let row = database.row(id, false).await;
    assert!(row.contains("traceparent") && row.contains(&trace), "{}: {row}", std::any::type_name::<D>());
}

#[tokio::test]
async fn an_event_carries_the_trace_of_the_current_span() {
    let provider = SdkTracerProvider::builder().build();
    let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("tests"));
    let (postgres, sqlite) = (TestDatabase::migrated(Kind::Postgres).await, TestDatabase::migrated(Kind::Sqlite).await);
    let mysql = TestDatabase::migrated(Kind::Mysql).await;
    let _default = tracing::subscriber::set_default(tracing_subscriber::registry().with(layer));
    publish_in_span::<DieselPostgres>(&postgres).await;
    publish_in_span::<TokioPostgres>(&postgres).await;
    publish_in_span::<Sqlx8Postgres>(&postgres).await;
    publish_in_span::<Sqlx9Postgres>(&postgres).await;
    publish_in_span::<SeaOrm1>(&postgres).await;
    publish_in_span::<SeaOrm2>(&postgres).await;
    publish_in_span::<DieselMysql>(&mysql).await;
    publish_in_span::<MysqlAsync>(&mysql).await;
    publish_in_span::<Sqlx8Mysql>(&mysql).await;
    publish_in_span::<DieselSqlite>(&sqlite).await;
    publish_in_span::<Rusqlite>(&sqlite).await;
    publish_in_span::<Sqlx8Sqlite>(&sqlite).await;
    publish_in_span::<Sqlx9Sqlite>(&sqlite).await;
    publish_in_span::<SeaOrm1>(&sqlite).await;
    publish_in_span::<SeaOrm2>(&sqlite).await;
}
