//! `outbox cleanup`

use actix_outbox::StoreError;
use actix_outbox::admin::{OutboxAdmin, RemovedOrphans};
use uuid::Uuid;

use super::exit::UsageError;
use super::progress::Progress;
use super::{arguments, output};

/// Delete old events now, as configured under [retention], and orphaned fields next to the streams.
///
/// Workers delete old events themselves, in small batches. A failed event that holds its key is not deleted.
///
/// Next to each stream, Redis keeps fields with the session that may send and with the events that were sent and are not
/// recorded yet. If the settings no longer map a `publisher_backend` to that stream, its fields are orphaned and removed,
/// except those of events that the database does not have as published. Fields of another outbox are removed only if
/// --gone names it.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  outbox cleanup
  OUTBOX__RETENTION__PUBLISHED_RETENTION_DAYS=1 outbox cleanup
  outbox cleanup --inbox --database-url postgres://localhost/billing
  outbox cleanup --gone 0197a3b2-0000-7000-8000-000000000001")]
pub(super) struct Args {
    /// The id, from `outbox status`, of an outbox whose database no longer exists: removes all its fields next to the
    /// streams of these settings. If that outbox is still in use, its events in flight may be sent twice.
    #[arg(long, value_name = "OUTBOX", value_parser = arguments::id)]
    gone: Vec<Uuid>,
    /// Delete old notes of the inbox in this database, and nothing else. Workers do this in the database of their outbox; for
    /// another database, run it once a day. inbox_retention_days under [retention] says what is old.
    #[arg(long, conflicts_with = "gone")]
    inbox: bool,
}

pub(super) async fn run(args: &Args, admin: &OutboxAdmin) -> anyhow::Result<()> {
    if args.inbox {
        let deleted = until_none_is_left("notes", async || admin.delete_handled().await).await?;
        return Ok(output::line(format_args!("deleted {deleted} notes of the inbox"))?);
    }
    let outbox = admin.outbox_id().await?;
    if args.gone.contains(&outbox) {
        return Err(UsageError(format!("--gone {outbox} is the outbox of this database")).into());
    }
    let deleted = until_none_is_left("events", async || admin.delete_expired().await).await?;
    output::line(format_args!("deleted {deleted} events"))?;
    let mut failed = Vec::new();
    for (name, removed) in admin.remove_orphans(&args.gone).await? {
        match removed {
            Ok(removed) => print(&name, &removed)?,
            Err(error) => failed.push(error.to_string()),
        }
    }
    if failed.is_empty() { Ok(()) } else { Err(anyhow::anyhow!(failed.join("\n"))) }
}

/// Deletes batch after batch and returns how many there were.
async fn until_none_is_left(
    what: &str,
    delete: impl AsyncFn() -> Result<usize, StoreError>,
) -> Result<usize, StoreError> {
    let progress = Progress::spinner();
    let mut deleted = 0;
    loop {
        match delete().await? {
            0 => return Ok(deleted),
            batch => deleted += batch,
        }
        progress.message(format!("{deleted} {what} deleted"));
    }
}

fn print(name: &str, RemovedOrphans { removed, needed, gone, .. }: &RemovedOrphans) -> std::io::Result<()> {
    if *removed > 0 {
        output::line(format_args!("removed {removed} orphaned fields of this outbox from backend {name}"))?;
    }
    if *needed > 0 {
        output::line(format_args!(
            "kept fields with {needed} events in backend {name}: the events are in the stream and not recorded as \
             published; without the fields they would be sent again"
        ))?;
    }
    for (outbox, removed) in gone {
        output::line(format_args!("removed {removed} orphaned fields of outbox {outbox} from backend {name}"))?;
    }
    Ok(())
}
