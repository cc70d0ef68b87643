//! `outbox events retry`

use actix_outbox::Status;
use actix_outbox::admin::{Action, EventFilter, OutboxAdmin};

use super::changing::{self, EventAction, SelectionArgs};
use crate::arguments;
use crate::exit::UsageError;

/// Make events pending again, as if they had never been rejected.
///
/// The events keep their order within their key. An event that its backend already has is not sent again; only its missing
/// handlers run. Published events are not changed; `outbox events replay` publishes those again.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  outbox events retry 0197a3b2-0000-7000-8000-000000000001
  outbox events retry --status failed
  outbox events retry --status failed --type user.created --yes")]
pub(crate) struct Args {
    #[command(flatten)]
    selection: SelectionArgs,
    /// Events in this status: failed, retry, pending or processing [default without ids: failed].
    #[arg(long, value_name = "STATUS", value_parser = arguments::status, conflicts_with = "ids")]
    status: Option<Status>,
}

pub(crate) async fn run(args: Args, admin: &OutboxAdmin) -> anyhow::Result<()> {
    if args.selection.ids.is_empty() && args.status.is_none() && !args.selection.filters() {
        return Err(
            UsageError("say which events: give their ids, or --status, --type, --backend or --key".to_owned()).into()
        );
    }
    if args.status == Some(Status::Published) {
        return Err(UsageError(
            "published events are not retried; `outbox events replay` publishes them again".to_owned(),
        )
        .into());
    }
    let verb = EventAction {
        action: Action::Retry,
        infinitive: "Retry",
        past: "retried",
        refusal: |id, status| format!("event {id} is {status}; `outbox events replay {id}` publishes it again"),
    };
    let base = EventFilter { statuses: vec![args.status.unwrap_or(Status::Failed)], ..EventFilter::default() };
    changing::run(&verb, &args.selection, base, admin).await
}
