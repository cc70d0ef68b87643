//! Logs, which go to stderr; results go to stdout.

use std::io::{self, IsTerminal};

use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::{EnvFilter, Layer};

use super::exit::UsageError;

/// The format of logs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum LogFormat {
    /// Lines of text.
    #[default]
    Text,
    /// One JSON object a line: timestamp, level, target, message, and the event's fields.
    Json,
}

/// Exports the remaining spans when dropped.
#[must_use]
pub(super) struct Logs {
    #[cfg(feature = "otel")]
    traces: Option<super::traces::Export>,
}

/// Sets up logs, unless the application has set up its own.
pub(super) fn start(format: LogFormat, is_worker: bool) -> anyhow::Result<Logs> {
    let layer = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let layer = match format {
        LogFormat::Text => layer.with_ansi(io::stderr().is_terminal()).boxed(),
        LogFormat::Json => layer.json().flatten_event(true).boxed(),
    };
    let subscriber = tracing_subscriber::registry().with(layer.with_filter(filter(is_worker)?));
    #[cfg(feature = "otel")]
    let traces = super::traces::Export::start()?;
    #[cfg(feature = "otel")]
    let subscriber = subscriber.with(traces.as_ref().map(super::traces::Export::layer));
    drop(tracing::subscriber::set_global_default(subscriber));
    Ok(Logs {
        #[cfg(feature = "otel")]
        traces,
    })
}

#[cfg(feature = "otel")]
impl Drop for Logs {
    fn drop(&mut self) {
        if let Some(traces) = self.traces.take() {
            traces.end();
        }
    }
}

fn filter(is_worker: bool) -> Result<EnvFilter, UsageError> {
    for name in ["OUTBOX_LOG", "RUST_LOG"] {
        if let Some(directives) = std::env::var(name).ok().filter(|value| !value.is_empty()) {
            let usage = |error| {
                UsageError(format!("{name} is not a valid log filter, such as `info` or `actix_outbox=debug`: {error}"))
            };
            return EnvFilter::try_new(directives).map_err(usage);
        }
    }
    Ok(EnvFilter::new(if is_worker { "info,actix_server=warn,async_nats=warn" } else { "warn" }))
}
