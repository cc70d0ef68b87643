//! `outbox cleanup`

use std::sync::Arc;

use super::output;
use super::progress::Progress;
use crate::settings::Settings;
use crate::store::{Expiry, Store};

/// Delete old events now, as the settings under [retention] say.
///
/// A worker does the same by itself, a little at a time. A failed event that holds its key stays.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  outbox cleanup
  OUTBOX__RETENTION__PUBLISHED_RETENTION_DAYS=1 outbox cleanup")]
pub(super) struct Args {}

pub(super) async fn run(settings: &Settings, store: Arc<dyn Store>) -> anyhow::Result<()> {
    let (expiry, holding) = (Expiry::from(settings.retention), settings.holding_lanes());
    let progress = Progress::spinner();
    let mut deleted = 0;
    loop {
        let batch = store.delete_expired(expiry, &holding).await?;
        if batch == 0 {
            drop(progress);
            return Ok(output::line(format_args!("deleted {deleted} events"))?);
        }
        deleted += batch;
        progress.say(format!("{deleted} events deleted"));
    }
}
