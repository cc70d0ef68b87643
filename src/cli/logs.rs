//! Logs go to stderr, results to stdout.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use super::exit::Usage;

/// How logs are written.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line: timestamp, level, target, message, and the fields of what happened.
    Json,
}

/// An application that has set up its own logs keeps them.
pub(super) fn start(format: LogFormat, is_worker: bool) -> Result<(), Usage> {
    let logs = tracing_subscriber::fmt().with_env_filter(filter(is_worker)?).with_writer(io::stderr);
    let installed = match format {
        LogFormat::Text => {
            let subscriber = logs.with_ansi(io::stderr().is_terminal()).finish();
            tracing::subscriber::set_global_default(subscriber)
        }
        LogFormat::Json => tracing::subscriber::set_global_default(logs.json().flatten_event(true).finish()),
    };
    drop(installed);
    Ok(())
}

fn filter(is_worker: bool) -> Result<EnvFilter, Usage> {
    for name in ["OUTBOX_LOG", "RUST_LOG"] {
        if let Some(directives) = std::env::var(name).ok().filter(|value| !value.is_empty()) {
            let usage =
                |error| Usage(format!("{name} is no log filter such as `info` or `actix_outbox=debug`: {error}"));
            return EnvFilter::try_new(directives).map_err(usage);
        }
    }
    Ok(EnvFilter::new(if is_worker { "info,actix_server=warn" } else { "warn" }))
}
