//! `outbox events delete`

use actix_outbox::Status;
use actix_outbox::admin::{Action, EventFilter, OutboxAdmin};

use super::changing::{self, EventAction, SelectionArgs};
use crate::arguments;
use crate::exit::UsageError;

/// Delete events for good, such as failed ones, or a person's data by key.
///
/// For a moment the workers release the events' backends, so that no event is sent while it is deleted. An event that was sent
/// and is not recorded as sent yet is skipped. What a backend already has stays there.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  outbox events delete 0197a3b2-0000-7000-8000-000000000001
  outbox events delete --status failed --type user.created
  outbox events delete --key user-7 --yes")]
pub(crate) struct Args {
    #[command(flatten)]
    selection: SelectionArgs,
    /// Events in this status; may be repeated [default: every status].
    #[arg(long = "status", value_name = "STATUS", value_parser = arguments::status, conflicts_with = "ids")]
    statuses: Vec<Status>,
}

pub(crate) async fn run(args: Args, admin: &OutboxAdmin) -> anyhow::Result<()> {
    if args.selection.ids.is_empty() && args.statuses.is_empty() && !args.selection.filters() {
        return Err(
            UsageError("say which events: give their ids, or --status, --type, --backend or --key".to_owned()).into()
        );
    }
    let verb = EventAction {
        action: Action::Delete,
        infinitive: "Delete",
        past: "deleted",
        refusal: |id, status| {
            format!("event {id} is {status} by now and was not meant, or another transaction has locked it; try again")
        },
    };
    let base = EventFilter { statuses: args.statuses, ..EventFilter::default() };
    changing::run(&verb, &args.selection, base, admin).await
}
