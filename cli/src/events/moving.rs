//! `outbox events move`

use actix_outbox::Status;
use actix_outbox::admin::{Action, EventFilter, OutboxAdmin};

use super::changing::{self, EventAction, SelectionArgs};
use crate::arguments;
use crate::exit::UsageError;

/// Give events that were not sent to another backend, for instance if their backend's name is misspelt.
///
/// The events keep their status and their time; their order within a key is that of their new backend. For a moment the
/// workers release the events' former backends, so that no event is sent to both. An event that was sent is skipped.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  outbox events move 0197a3b2-0000-7000-8000-000000000001 --to orders
  outbox events move --backend ordrs --to orders
  outbox events move --backend orders --status failed --to audit --yes")]
pub(crate) struct Args {
    #[command(flatten)]
    selection: SelectionArgs,
    /// The new `publisher_backend`; '' is the workers' default backend.
    #[arg(long, value_name = "NAME")]
    to: String,
    /// Events in this status; may be repeated [default: every status but published].
    #[arg(long = "status", value_name = "STATUS", value_parser = arguments::status, conflicts_with = "ids")]
    statuses: Vec<Status>,
}

pub(crate) async fn run(args: Args, admin: &OutboxAdmin) -> anyhow::Result<()> {
    if args.selection.ids.is_empty() && args.statuses.is_empty() && !args.selection.filters() {
        return Err(
            UsageError("say which events: give their ids, or --status, --type, --backend or --key".to_owned()).into()
        );
    }
    if args.statuses.contains(&Status::Published) {
        return Err(UsageError("published events were sent, so they cannot be moved".to_owned()).into());
    }
    let action = Action::move_to(&args.to)?;
    admin.warn_of_unserved_backend(&args.to).await;
    let verb = EventAction {
        action,
        infinitive: "Move",
        past: "moved",
        refusal: |id, status| match status {
            Status::Published => format!("event {id} was sent; only events that were not sent can be moved"),
            _ => format!("event {id} was sent, and handlers are still owed it, or another transaction has locked it"),
        },
    };
    // Without a status, the action excludes published events.
    let base = EventFilter { statuses: args.statuses, ..EventFilter::default() };
    changing::run(&verb, &args.selection, base, admin).await
}
