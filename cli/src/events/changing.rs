//! Common code of `retry`, `fail` and `replay`: selecting events, and changing them.

use std::collections::HashSet;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use actix_outbox::admin::{
    Action, ChangeReport, ChangeRequest, EventCount, EventFilter, OutboxAdmin, Selection, Unreadable,
};
use actix_outbox::{Status, StoreError};
use uuid::Uuid;

use crate::arguments;
use crate::output;
use crate::progress::Progress;

/// How long events are counted before the question whether to change them.
const COUNT_TIME: Duration = Duration::from_secs(2);

/// Events by id, or by a filter.
#[derive(Debug, clap::Args)]
pub(super) struct SelectionArgs {
    /// The events' ids.
    #[arg(value_name = "ID", value_parser = arguments::id, conflicts_with_all = ["event_type", "backend", "key"])]
    pub(super) ids: Vec<Uuid>,
    /// Events of this type.
    #[arg(long = "type", value_name = "TYPE")]
    event_type: Option<String>,
    /// Events with this `publisher_backend`.
    #[arg(long, value_name = "NAME")]
    backend: Option<String>,
    /// Events with this partition key.
    #[arg(long, value_name = "KEY")]
    key: Option<String>,
    /// Do not ask for confirmation.
    #[arg(long, short)]
    yes: bool,
}

impl SelectionArgs {
    pub(super) fn filters(&self) -> bool {
        self.event_type.is_some() || self.backend.is_some() || self.key.is_some()
    }

    fn filter(&self, base: EventFilter) -> EventFilter {
        let Self { event_type, backend, key, .. } = self;
        EventFilter { event_type: event_type.clone(), backend: backend.clone(), key: key.clone(), ..base }
    }
}

/// A command's action, and its words for it.
pub(super) struct EventAction {
    pub(super) action: Action,
    pub(super) infinitive: &'static str,
    pub(super) past: &'static str,
    /// Why an event in this status is not changed.
    pub(super) refusal: fn(Uuid, Status) -> String,
}

/// Changes the events with the given ids, or those that match `base` and the arguments' filters.
pub(super) async fn run(
    verb: &EventAction,
    selected: &SelectionArgs,
    base: EventFilter,
    admin: &OutboxAdmin,
) -> anyhow::Result<()> {
    if selected.ids.is_empty() {
        change_matching(verb, selected.filter(base), selected.yes, admin).await
    } else {
        change_ids(verb, &selected.ids, admin).await
    }
}

async fn change_ids(verb: &EventAction, ids: &[Uuid], admin: &OutboxAdmin) -> anyhow::Result<()> {
    let progress = Progress::bar(ids.len());
    let changed = change_all(verb, Selection::Ids(ids.to_vec()), &progress, admin).await?;
    drop(progress);
    if !changed.is_empty() {
        report(verb, changed.len())?;
    }
    let mut refused = Vec::new();
    for id in ids.iter().filter(|id| !changed.contains(id)) {
        refused.push(why_not(verb, *id, admin).await?);
    }
    if refused.is_empty() { Ok(()) } else { Err(anyhow::anyhow!(refused.join("\n"))) }
}

async fn why_not(verb: &EventAction, id: Uuid, admin: &OutboxAdmin) -> anyhow::Result<String> {
    match admin.get_row(id).await {
        Ok(Ok(event)) => Ok((verb.refusal)(id, event.status)),
        Ok(Err(Unreadable { status: Some(status), .. })) => Ok((verb.refusal)(id, status)),
        Ok(Err(Unreadable { reason, .. })) => Ok(format!("event {id} cannot be read: {reason}")),
        Err(missing @ StoreError::NotFound(_)) => Ok(missing.to_string()),
        Err(error) => Err(error.into()),
    }
}

async fn change_matching(
    verb: &EventAction,
    filter: EventFilter,
    yes: bool,
    admin: &OutboxAdmin,
) -> anyhow::Result<()> {
    let count = admin.count(&filter, COUNT_TIME).await?;
    if (count.count == 0 && !count.more) || !(yes || confirmed(verb, count)?) {
        return report(verb, 0);
    }
    let progress = if count.more { Progress::spinner() } else { Progress::bar(count.count) };
    let changed = change_all(verb, Selection::matching(filter), &progress, admin).await?;
    drop(progress);
    report(verb, changed.len())
}

/// Repeats the change until all selected events have been visited.
async fn change_all(
    verb: &EventAction,
    mut selection: Selection,
    progress: &Progress,
    admin: &OutboxAdmin,
) -> anyhow::Result<HashSet<Uuid>> {
    let mut all = HashSet::new();
    loop {
        let request = ChangeRequest { action: verb.action.clone(), selection, actor: "command line".to_owned() };
        let ended = |changed: usize, error: StoreError| match changed {
            0 => anyhow::Error::from(error),
            _ => anyhow::anyhow!("{} {}, then: {error}", verb.past, events(changed)),
        };
        let report = admin.change(&request).await.map_err(|error| ended(all.len(), error))?;
        let ChangeReport { changed, visited, rest, error, .. } = report;
        all.extend(changed);
        progress.advance(visited);
        if let Some(error) = error {
            return Err(ended(all.len(), error));
        }
        match rest {
            Some(rest) => selection = rest,
            None => return Ok(all),
        }
    }
}

/// Asks for confirmation, but only on a terminal: a script has decided already.
fn confirmed(verb: &EventAction, count: EventCount) -> io::Result<bool> {
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Ok(true);
    }
    let more = if count.more { " or more" } else { "" };
    write!(io::stderr(), "{} {}{more}? [y/N] ", verb.infinitive, events(count.count))?;
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

fn report(verb: &EventAction, changed: usize) -> anyhow::Result<()> {
    Ok(output::line(format_args!("{} {}", verb.past, events(changed)))?)
}

fn events(count: usize) -> String {
    if count == 1 { "1 event".to_owned() } else { format!("{count} events") }
}
