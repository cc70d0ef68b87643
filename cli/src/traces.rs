//! Traces, exported to an OpenTelemetry collector by OTLP over HTTP, as OpenTelemetry's environment variables configure.

use anyhow::Context;
use opentelemetry::trace::TracerProvider;
use opentelemetry_otlp::SpanExporter;
use opentelemetry_sdk::Resource;
use opentelemetry_sdk::trace::SdkTracerProvider;
use tracing::Subscriber;
use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::registry::LookupSpan;

/// Each of these turns the export on.
const ENDPOINTS: [&str; 2] = ["OTEL_EXPORTER_OTLP_ENDPOINT", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT"];

const SERVICE_NAME: &str = "OTEL_SERVICE_NAME";

/// Exports spans until it is ended.
pub(super) struct Export(SdkTracerProvider);

impl Export {
    /// Starts the export; `None` if the environment names no collector.
    pub(super) fn start() -> anyhow::Result<Option<Self>> {
        let is_set = |name: &str| std::env::var_os(name).is_some_and(|value| !value.is_empty());
        if !ENDPOINTS.into_iter().any(is_set) {
            return Ok(None);
        }
        let exporter = SpanExporter::builder().with_http().build().context("cannot export traces by OTLP")?;
        let resource = Resource::builder();
        let resource = if is_set(SERVICE_NAME) { resource } else { resource.with_service_name("outbox") };
        let provider =
            SdkTracerProvider::builder().with_batch_exporter(exporter).with_resource(resource.build()).build();
        Ok(Some(Self(provider)))
    }

    pub(super) fn layer<S>(&self) -> impl Layer<S> + use<S>
    where
        S: Subscriber + for<'span> LookupSpan<'span>,
    {
        let tracer = self.0.tracer("actix-outbox");
        tracing_opentelemetry::layer().with_tracer(tracer).with_filter(LevelFilter::INFO)
    }

    pub(super) fn end(self) {
        if let Err(error) = self.0.shutdown() {
            tracing::warn!(%error, "exporting the last spans failed");
        }
    }
}
