//! Common code of the commands that change events: selecting events, and changing them.

use std::collections::BTreeMap;
use std::io::{self, IsTerminal, Write};
use std::time::Duration;

use actix_outbox::admin::{
    Action, ChangeReport, ChangeRequest, EventCount, EventFilter, OutboxAdmin, Selection, Unreadable,
};
use actix_outbox::{Status, StoreError};
use serde::Serialize;
use uuid::Uuid;

use crate::arguments::{self, Format};
use crate::progress::Progress;
use crate::{author, output};

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
    /// Print the result as a sentence, or as JSON: `{"changed": 2, "skipped": [{"id": "…", "reason": "…"}]}`.
    #[arg(long, value_enum, default_value_t)]
    format: Format,
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
    let (selection, progress) = if selected.ids.is_empty() {
        let filter = selected.filter(base);
        let count = admin.count(&filter, COUNT_TIME).await?;
        if (count.count == 0 && !count.more) || !(selected.yes || confirmed(verb, count)?) {
            return report(verb, 0, Vec::new(), selected.format);
        }
        let progress = if count.more { Progress::spinner() } else { Progress::bar(count.count) };
        (Selection::matching(filter), progress)
    } else {
        (Selection::Ids(selected.ids.clone()), Progress::bar(selected.ids.len()))
    };
    let Changed { events, skipped: ids, mut reasons } = change_all(verb, selection, &progress, admin).await?;
    drop(progress);
    let mut skipped = Vec::with_capacity(ids.len());
    for id in ids {
        let reason = match reasons.remove(&id) {
            Some(reason) => reason,
            None => why_not(verb, id, admin).await?,
        };
        skipped.push(Skipped { id, reason });
    }
    report(verb, events, skipped, selected.format)
}

/// An event that was not changed.
#[derive(Serialize)]
struct Skipped {
    id: Uuid,
    reason: String,
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

/// What a change of all selected events did.
#[derive(Default)]
struct Changed {
    events: usize,
    skipped: Vec<Uuid>,
    /// Why some were skipped.
    reasons: BTreeMap<Uuid, String>,
}

/// Repeats the change until all selected events have been visited.
async fn change_all(
    verb: &EventAction,
    mut selection: Selection,
    progress: &Progress,
    admin: &OutboxAdmin,
) -> anyhow::Result<Changed> {
    let mut all = Changed::default();
    loop {
        let action = verb.action.clone();
        let request = ChangeRequest { action, selection, actor: author::actor(), from: author::host() };
        let ended = |changed: usize, error: StoreError| match changed {
            0 => anyhow::Error::from(error),
            _ => anyhow::anyhow!("{} {}, then: {error}", verb.past, events(changed)),
        };
        let report = admin.change(&request).await.map_err(|error| ended(all.events, error))?;
        let ChangeReport { changed, skipped, reasons, visited, rest, error, .. } = report;
        all.events += changed.len();
        all.skipped.extend(skipped);
        all.reasons.extend(reasons);
        progress.advance(visited);
        if let Some(error) = error {
            return Err(ended(all.events, error));
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

/// Prints what was done; that events were skipped is a failure.
fn report(verb: &EventAction, changed: usize, skipped: Vec<Skipped>, format: Format) -> anyhow::Result<()> {
    match format {
        Format::Json => output::json(&serde_json::json!({ "changed": changed, "skipped": skipped }))?,
        Format::Table if changed > 0 || skipped.is_empty() => {
            output::line(format_args!("{} {}", verb.past, events(changed)))?;
        }
        Format::Table => {}
    }
    if skipped.is_empty() {
        return Ok(());
    }
    let reasons: Vec<String> = skipped.into_iter().map(|skipped| skipped.reason).collect();
    Err(anyhow::anyhow!(reasons.join("\n")))
}

fn events(count: usize) -> String {
    if count == 1 { "1 event".to_owned() } else { format!("{count} events") }
}
