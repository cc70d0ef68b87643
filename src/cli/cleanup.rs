//! `outbox cleanup`

use std::sync::Arc;

use uuid::Uuid;

use super::exit::UsageError;
use super::orphans::{self, BackendJournal, Served};
use super::progress::Progress;
use super::{arguments, output};
use crate::settings::Settings;
use crate::store::{CountMode, RetentionCutoff, Store};
use crate::system::Backends;

/// Delete old events now, as the settings under [retention] say, and what was left behind beside the streams.
///
/// A worker deletes events by itself, a little at a time. A failed event that holds its key stays.
///
/// Beside its stream, Redis keeps who may send and what was sent and is not recorded yet. Where the settings do not bring
/// a `publisher_backend` to that stream any more, what stands there for it is removed, but for events that the database
/// does not know to be published. What another outbox left is removed only where --gone names it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  outbox cleanup
  OUTBOX__RETENTION__PUBLISHED_RETENTION_DAYS=1 outbox cleanup
  outbox cleanup --gone 0197a3b2-0000-7000-8000-000000000001")]
pub(super) struct Args {
    /// An outbox whose database is gone for good, as `outbox status` names it: removes all that it left beside the
    /// streams of these settings. Were it alive, what it has in flight could be sent twice.
    #[arg(long, value_name = "OUTBOX", value_parser = arguments::id)]
    gone: Vec<Uuid>,
}

pub(super) async fn run(
    args: &Args,
    settings: &Settings,
    backends: &Backends,
    store: Arc<dyn Store>,
) -> anyhow::Result<()> {
    let outbox = store.outbox_id().await?;
    if args.gone.contains(&outbox) {
        return Err(UsageError(format!("--gone {outbox} is the outbox of this very database")).into());
    }
    delete_expired(settings, &*store).await?;
    let served = Served::new(outbox, settings, &store.overview(CountMode::Exactly).await?);
    let mut failed = None;
    for (name, publisher) in orphans::kept(settings) {
        match BackendJournal::read(name, publisher, backends, outbox).await {
            Ok(journal) => tidy(name, journal, &served, &args.gone, &*store).await?,
            Err(error) => failed = Some(error),
        }
    }
    failed.map_or(Ok(()), Err)
}

async fn delete_expired(settings: &Settings, store: &dyn Store) -> anyhow::Result<()> {
    let (expiry, holding) = (RetentionCutoff::from(settings.retention), settings.holding_lanes());
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

async fn tidy(
    name: &str,
    mut journal: BackendJournal,
    served: &Served,
    gone: &[Uuid],
    store: &dyn Store,
) -> anyhow::Result<()> {
    let tidied = journal.tidy(served, store).await?;
    if tidied.removed > 0 {
        output::line(format_args!("removed {} fields that this outbox left behind in backend {name}", tidied.removed))?;
    }
    if tidied.needed > 0 {
        output::line(format_args!(
            "kept what says that {} events are in the stream of backend {name}: they are not recorded as published, and \
             would be sent again",
            tidied.needed
        ))?;
    }
    for outbox in gone {
        let removed = journal.strike_outbox(*outbox).await?;
        output::line(format_args!("removed {removed} fields that outbox {outbox} left behind in backend {name}"))?;
    }
    Ok(())
}
