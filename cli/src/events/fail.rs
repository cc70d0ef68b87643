//! `outbox events fail`

use actix_outbox::Status;
use actix_outbox::admin::{Action, EventFilter, OutboxAdmin};

use super::changing::{self, EventAction, SelectionArgs};
use crate::arguments;
use crate::exit::UsageError;

/// Mark events as failed: they are not sent.
///
/// Events that this command marks do not hold their keys, also with `on_failed = "hold"`; run it on a failed event that
/// holds its key to let later events of the key pass. An event in flight may still reach its backend, and is then
/// published. Published events are not changed.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  outbox events fail 0197a3b2-0000-7000-8000-000000000001 --reason 'customer was deleted'
  outbox events fail --backend old-audit --yes")]
pub(crate) struct Args {
    #[command(flatten)]
    selection: SelectionArgs,
    /// Events in this status: pending, retry, processing or failed [default without ids: all of these except failed].
    #[arg(long, value_name = "STATUS", value_parser = arguments::status, conflicts_with = "ids")]
    status: Option<Status>,
    /// The reason, stored as the events' last error.
    #[arg(long, value_name = "TEXT", default_value = "marked as failed by `outbox events fail`")]
    reason: String,
}

pub(crate) async fn run(args: Args, admin: &OutboxAdmin) -> anyhow::Result<()> {
    if args.selection.ids.is_empty() && args.status.is_none() && !args.selection.filters() {
        return Err(
            UsageError("say which events: give their ids, or --status, --type, --backend or --key".to_owned()).into()
        );
    }
    if args.status == Some(Status::Published) {
        return Err(UsageError("published events cannot be marked as failed".to_owned()).into());
    }
    let verb = EventAction {
        action: Action::Fail { reason: args.reason },
        infinitive: "Fail",
        past: "marked as failed:",
        refusal: |id, status| format!("event {id} is {status}; it cannot be marked as failed"),
    };
    let open = || vec![Status::Pending, Status::Retry, Status::Processing];
    let statuses = args.status.map_or_else(open, |status| vec![status]);
    changing::run(&verb, &args.selection, EventFilter { statuses, ..EventFilter::default() }, admin).await
}
