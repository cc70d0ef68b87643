//! `outbox events fail`

use std::sync::Arc;

use super::changing::{self, EventAction, Selection};
use crate::cli::arguments;
use crate::cli::exit::UsageError;
use crate::event::Status;
use crate::store::{Change, EventFilter, Store};

/// Give events up: they become failed and are not tried again.
///
/// A failed event that is given up no longer holds back its key's later events, where `on_failed = "hold"` made it. An event
/// that is on its way to its backend at this moment may still arrive, and is published then. Published events are left
/// alone.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  outbox events fail 0197a3b2-0000-7000-8000-000000000001 --reason 'customer was deleted'
  outbox events fail --backend old-audit --yes")]
pub(in crate::cli) struct Args {
    #[command(flatten)]
    selection: Selection,
    /// Those of this status: pending, retry, processing or failed [default: all but failed, where events are not named].
    #[arg(long, value_name = "STATUS", value_parser = arguments::status, conflicts_with = "ids")]
    status: Option<Status>,
    /// Why; kept as the events' last error.
    #[arg(long, value_name = "TEXT", default_value = "given up by `outbox events fail`")]
    reason: String,
}

pub(in crate::cli) async fn run(args: Args, store: Arc<dyn Store>) -> anyhow::Result<()> {
    if args.selection.ids.is_empty() && args.status.is_none() && !args.selection.filters() {
        return Err(UsageError(
            "say which events: by their ids, or by --status, --type, --backend or --key".to_owned(),
        )
        .into());
    }
    if args.status == Some(Status::Published) {
        return Err(UsageError("published events cannot be given up".to_owned()).into());
    }
    let verb = EventAction {
        change: Change::Fail { reason: args.reason },
        infinitive: "Give up",
        past: "gave up",
        refusal: |id, status| format!("the event {id} is {status}; it cannot be given up any more"),
    };
    let open = || vec![Status::Pending, Status::Retry, Status::Processing];
    let statuses = args.status.map_or_else(open, |status| vec![status]);
    changing::run(&verb, &args.selection, EventFilter { statuses, ..EventFilter::default() }, store).await
}
