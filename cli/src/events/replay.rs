//! `outbox events replay`

use actix_outbox::Status;
use actix_outbox::admin::{Action, EventFilter, OutboxAdmin};
use chrono::{DateTime, Utc};

use super::changing::{self, EventAction, SelectionArgs};
use crate::arguments;
use crate::exit::UsageError;

/// Publish published events again.
///
/// The events keep their ids, so consumers can recognise them; the outbox treats them as new. All their handlers run again.
/// Events that were deleted, by retention or with published_retention_days = 0 when they were done, cannot be replayed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  outbox events replay 0197a3b2-0000-7000-8000-000000000001
  outbox events replay --since 2h
  outbox events replay --since 2026-01-31T12:00:00Z --until 2026-01-31T13:00:00Z --type user.created")]
pub(crate) struct Args {
    #[command(flatten)]
    selection: SelectionArgs,
    /// Events published at this time or later: RFC 3339, or how long ago, such as 90m or 2d.
    #[arg(long, value_name = "TIME", value_parser = arguments::past, conflicts_with = "ids")]
    since: Option<DateTime<Utc>>,
    /// Events published before this time [default: now].
    #[arg(long, value_name = "TIME", value_parser = arguments::past, requires = "since")]
    until: Option<DateTime<Utc>>,
}

pub(crate) async fn run(args: Args, admin: &OutboxAdmin) -> anyhow::Result<()> {
    if args.selection.ids.is_empty() && args.since.is_none() {
        return Err(UsageError("say which events: give their ids, or --since TIME".to_owned()).into());
    }
    let verb = EventAction {
        action: Action::Replay,
        infinitive: "Replay",
        past: "replayed",
        refusal: |id, status| format!("event {id} is {status}, not published; only published events can be replayed"),
    };
    let base = EventFilter {
        statuses: vec![Status::Published],
        published_since: args.since,
        // Events that are published while the command runs are not replayed by it.
        published_until: args.until.or_else(|| args.since.map(|_| Utc::now())),
        ..EventFilter::default()
    };
    changing::run(&verb, &args.selection, base, admin).await
}
