//! Common code of `retry`, `fail` and `replay`: selecting events, and changing them in small batches.

use std::io::{self, IsTerminal, Write};
use std::sync::Arc;

use uuid::Uuid;

use crate::cli::arguments;
use crate::cli::output;
use crate::cli::progress::Progress;
use crate::event::Status;
use crate::store::{Change, EventFilter, Page, Store};

/// Events changed in one transaction.
const BATCH: usize = 500;

/// Events by id, or by a filter.
#[derive(Debug, clap::Args)]
pub(super) struct Selection {
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

impl Selection {
    pub(super) fn filters(&self) -> bool {
        self.event_type.is_some() || self.backend.is_some() || self.key.is_some()
    }

    fn filter(&self, base: EventFilter) -> EventFilter {
        let Self { event_type, backend, key, .. } = self;
        EventFilter { event_type: event_type.clone(), backend: backend.clone(), key: key.clone(), ..base }
    }
}

/// A command's change, and its words for it.
pub(super) struct EventAction {
    pub(super) change: Change,
    pub(super) infinitive: &'static str,
    pub(super) past: &'static str,
    /// Why an event in this status is not changed.
    pub(super) refusal: fn(Uuid, Status) -> String,
}

/// Changes the events with the given ids, or those that match `base` and the selection's filters.
pub(super) async fn run(
    verb: &EventAction,
    selection: &Selection,
    base: EventFilter,
    store: Arc<dyn Store>,
) -> anyhow::Result<()> {
    if selection.ids.is_empty() {
        let changed = change_filtered(verb, &selection.filter(base), selection.yes, store.as_ref()).await?;
        return report(verb, changed);
    }
    let (mut changed, mut refused) = (0, Vec::new());
    for ids in selection.ids.chunks(BATCH) {
        let done = store.change(&verb.change, ids).await?;
        changed += done.len();
        for id in ids.iter().filter(|id| !done.contains(id)) {
            refused.push(why_not(verb, *id, store.as_ref()).await?);
        }
    }
    if changed > 0 {
        report(verb, changed)?;
    }
    if refused.is_empty() { Ok(()) } else { Err(anyhow::anyhow!(refused.join("\n"))) }
}

async fn why_not(verb: &EventAction, id: Uuid, store: &dyn Store) -> anyhow::Result<String> {
    Ok(match store.find(id).await? {
        Some(event) => (verb.refusal)(id, event.status),
        None => crate::error::StoreError::NotFound(id).to_string(),
    })
}

/// Changes the events in the order of their creation, so that each is visited once, even if its status changes meanwhile.
async fn change_filtered(
    verb: &EventAction,
    filter: &EventFilter,
    yes: bool,
    store: &dyn Store,
) -> anyhow::Result<usize> {
    let count = store.count(filter).await?;
    if count == 0 || !(yes || confirmed(verb, count)?) {
        return Ok(0);
    }
    let progress = Progress::bar(count);
    let mut changed = 0;
    let mut page = Page { newest_first: false, after: None, limit: i64::try_from(BATCH)? };
    loop {
        let places = store.select(filter, page).await?;
        let Some(last) = places.last() else { return Ok(changed) };
        page.after = Some(*last);
        let ids: Vec<Uuid> = places.iter().map(|place| place.id).collect();
        changed += store.change(&verb.change, &ids).await?.len();
        progress.advance(places.len());
    }
}

/// Asks for confirmation, but only on a terminal: a script has decided already.
fn confirmed(verb: &EventAction, count: i64) -> io::Result<bool> {
    if !(io::stdin().is_terminal() && io::stderr().is_terminal()) {
        return Ok(true);
    }
    write!(io::stderr(), "{} {}? [y/N] ", verb.infinitive, events(count))?;
    io::stderr().flush()?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(matches!(answer.trim().to_lowercase().as_str(), "y" | "yes"))
}

fn report(verb: &EventAction, changed: usize) -> anyhow::Result<()> {
    Ok(output::line(format_args!("{} {}", verb.past, events(i64::try_from(changed)?)))?)
}

fn events(count: i64) -> String {
    if count == 1 { "1 event".to_owned() } else { format!("{count} events") }
}
