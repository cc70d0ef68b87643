//! Logs go to stderr, results to stdout.

use std::io::{self, IsTerminal};

use tracing_subscriber::EnvFilter;

use super::exit::Usage;

/// An application that has set up its own logs keeps them.
pub(super) fn start(is_worker: bool) -> Result<(), Usage> {
    let subscriber = tracing_subscriber::fmt()
        .with_env_filter(filter(is_worker)?)
        .with_writer(io::stderr)
        .with_ansi(io::stderr().is_terminal())
        .finish();
    drop(tracing::subscriber::set_global_default(subscriber));
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
    Ok(EnvFilter::new(if is_worker { "info" } else { "warn" }))
}
