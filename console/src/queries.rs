//! The console's queries and changes, for pages and the API alike.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::time::Duration;

use actix_outbox::StoreError;
use actix_outbox::admin::{
    Action, AdminError, ChangeReport, ChangeRequest, CountMode, EventCount, HistoryBucket, ListRequest, OutboxAdmin,
};
use actix_outbox::admin::{OutboxStatus, Resolution, Selection};
use chrono::{DateTime, DurationRound, TimeDelta, Utc};
use uuid::Uuid;

use super::data::MOST_INLINE;
use super::request_info::Author;
use super::requests::{BackendAction, BackendChange, Cursor, Filter, LARGEST_PAGE, PageRequest};
use super::responses::{Audit, Changed, Count, Detail, EventListItem, EventState, Events, Outcome, Overview};
use super::responses::{BackendChanged, Diagnosis, Skipped};
use super::single_flight::{CachedValue, Pace, SingleFlightCache};

/// How long events without a suitable index are scanned for: by default, and with `patient`.
const SCAN_TIME: Duration = Duration::from_millis(40);
const PATIENT_SCAN_TIME: Duration = Duration::from_secs(10);

/// How long events are counted.
const COUNT_TIME: Duration = Duration::from_secs(2);

/// Other events of the same key that are shown with an event: this many newer ones, and this many older ones.
const NEIGHBOURS: usize = 5;

/// Skipped events that a response names.
const MOST_SKIPPED: usize = 1_000;

/// A transaction that has been open for longer is a finding of the doctor.
const LONG_TRANSACTION: Duration = Duration::from_secs(10 * 60);

type Result<T> = std::result::Result<T, StoreError>;

/// The overview, counted by one request at a time.
#[derive(Default)]
pub(crate) struct OverviewCache(SingleFlightCache<Overview, StoreError>);

impl OverviewCache {
    /// The overview. It has neither an answer nor a failure if counting takes longer than `patience`.
    pub(crate) async fn get(&self, admin: &OutboxAdmin, patience: Duration) -> CachedValue<Overview, StoreError> {
        let admin = admin.clone();
        self.0.get(|| async move { load_overview(&admin).await }, patience).await
    }
}

/// What endangers the outbox, diagnosed by one request at a time.
pub(crate) struct DoctorCache(SingleFlightCache<Diagnosis, Infallible>);

impl Default for DoctorCache {
    fn default() -> Self {
        // Who asks has corrected something, and wants to know whether that was enough.
        const PACE: Pace = Pace { min_interval: Duration::from_secs(10), factor: 0, grace: None };
        Self(SingleFlightCache::new(PACE))
    }
}

impl DoctorCache {
    /// The diagnosis; none if it takes longer than `patience`.
    pub(crate) async fn get(&self, admin: &OutboxAdmin, patience: Duration) -> Option<Diagnosis> {
        let admin = admin.clone();
        let diagnose = || async move {
            let findings = admin.diagnose(LONG_TRANSACTION).await;
            Ok(Diagnosis { diagnosed_at: Utc::now(), findings })
        };
        self.0.get(diagnose, patience).await.answer
    }
}

pub(crate) async fn events(admin: &OutboxAdmin, filter: &Filter, page: PageRequest) -> Result<Events> {
    let request = ListRequest {
        newest_first: page.newest_first,
        after: page.after.map(|cursor| cursor.0),
        limit: usize::from(page.limit.clamp(1, LARGEST_PAGE)),
        scan_time: if page.is_patient { PATIENT_SCAN_TIME } else { SCAN_TIME },
        ..ListRequest::default()
    };
    let page = admin.list(&filter.into(), &request).await?;
    Ok(Events {
        events: page.events.into_iter().map(EventListItem::from).collect(),
        next: page.next.map(Cursor),
        stopped_at: page.stopped_at,
    })
}

/// An event with its data, unless that is large.
pub(crate) async fn event(admin: &OutboxAdmin, id: Uuid) -> Result<Detail> {
    let (event, data_bytes) = admin.get_row_up_to(id, MOST_INLINE).await?;
    let neighbours = async {
        match &event {
            Ok(event) => admin.neighbours(event, NEIGHBOURS, SCAN_TIME).await,
            Err(_) => Ok(Vec::new()),
        }
    };
    // Both take longer than reading the event.
    let (explanation, neighbours) = tokio::try_join!(admin.explain(id), neighbours)?;
    let state = EventState { event, explanation };
    Ok(Detail { state, data_bytes, neighbours: neighbours.into_iter().map(EventListItem::from).collect() })
}

/// The parts of an event's page that change while it is open; the data does not.
pub(crate) async fn event_state(admin: &OutboxAdmin, id: Uuid) -> Result<EventState> {
    let (event, explanation) = tokio::try_join!(admin.get_row_without_data(id), admin.explain(id))?;
    Ok(EventState { event, explanation })
}

/// How many events an action would change.
pub(crate) async fn count(admin: &OutboxAdmin, action: &Action, selection: &Selection) -> Result<Count> {
    let counted = match selection {
        Selection::Ids(ids) => admin.count_these(action, ids).await?,
        Selection::Matching { filter, .. } => match action.narrow(filter) {
            Some(filter) => admin.count(&filter, COUNT_TIME).await?,
            None => return Ok(Count { count: 0, more: false }),
        },
    };
    let EventCount { count, more, .. } = counted;
    Ok(Count { count, more })
}

/// Changes events, and continues if the client no longer waits.
pub(crate) async fn change(admin: &OutboxAdmin, action: Action, selection: Selection, by: Author) -> Result<Changed> {
    let admin = admin.clone();
    let refusal = refusal(&action);
    let request = ChangeRequest { action, selection, actor: by.actor, from: by.from };
    let changing = actix_rt::spawn(async move { admin.change(&request).await });
    // The task ends early only with its thread.
    let ended = |_| {
        let reason = "the task ended early".to_owned();
        Err(StoreError::Query { operation: "change events", reason, transient: true })
    };
    let mut report = changing.await.unwrap_or_else(ended)?;
    let skipped = skipped(&mut report, refusal);
    let more_skipped = report.skipped.len() - skipped.len();
    let mut error = report.error.map(|error| error.to_string());
    let next = match report.rest {
        Some(Selection::Matching { after, .. }) => after.map(Cursor),
        Some(Selection::Ids(rest)) => {
            error.get_or_insert_with(|| format!("time ran out before the last {} ids; select them again", rest.len()));
            None
        }
        None => None,
    };
    Ok(Changed { changed: report.changed.len(), skipped, more_skipped, error, next })
}

/// The first skipped events.
fn skipped(report: &mut ChangeReport, refusal: &str) -> Vec<Skipped> {
    let ChangeReport { skipped, reasons, .. } = report;
    let first = skipped.iter().take(MOST_SKIPPED);
    let mut reason = |id: &Uuid| reasons.remove(id).unwrap_or_else(|| format!("event {id} {refusal}"));
    first.map(|id| Skipped { id: *id, reason: reason(id) }).collect()
}

/// Why an event was probably skipped, if the report does not say so.
fn refusal(action: &Action) -> &'static str {
    match action {
        Action::Retry | Action::Fail { .. } => "no longer exists, or is published",
        Action::Replay => "no longer exists, or is not published",
        Action::Delete => "no longer exists, has another status by now, or is locked by another transaction",
        Action::Move { .. } => "no longer exists, was sent, or is locked by another transaction",
    }
}

/// Pauses or resumes a backend.
pub(crate) async fn change_backend(
    admin: &OutboxAdmin,
    change: &BackendChange,
    by: &Author,
) -> std::result::Result<BackendChanged, AdminError> {
    let BackendChange { action, name, reason } = change;
    let (changed, senders) = match action {
        BackendAction::Pause => {
            let paused = admin.pause_backend(name, &by.actor, &by.from, reason).await?;
            (paused, admin.senders(name).await?)
        }
        BackendAction::Resume => (admin.resume_backend(name, &by.actor, &by.from).await?, Vec::new()),
    };
    Ok(BackendChanged { changed, senders })
}

/// Operators' changes, newest first, a page at a time.
pub(crate) async fn audit(admin: &OutboxAdmin, before: Option<i64>, limit: u16) -> Result<Audit> {
    let limit = usize::from(limit);
    // One more than is shown, to know whether there is a next page.
    let mut entries = admin.audit(before, limit + 1).await?;
    let is_full = entries.len() > limit;
    entries.truncate(limit);
    let next = entries.last().map(|entry| entry.id).filter(|_| is_full);
    Ok(Audit { entries, next })
}

async fn load_overview(admin: &OutboxAdmin) -> Result<Overview> {
    const HOUR: Duration = Duration::from_secs(60 * 60);
    let (status, minutes, hours) = tokio::try_join!(
        admin.status(CountMode::Roughly),
        admin.history(Resolution::Minute, HOUR),
        admin.history(Resolution::Hour, 24 * HOUR)
    )?;
    let OutboxStatus { counted_at, counts, published_is_estimate, backends, workers, .. } = status;
    Ok(Overview {
        counted_at,
        counts,
        published_is_estimate,
        backends,
        workers,
        published_a_minute: published_a_minute(&minutes, counted_at),
        minutes: Outcome::sum_backends(minutes),
        hours: Outcome::sum_backends(hours),
    })
}

/// The number of events that each backend published in the last complete minute.
fn published_a_minute(minutes: &[HistoryBucket], now: DateTime<Utc>) -> BTreeMap<String, u64> {
    let minute = TimeDelta::minutes(1);
    let last = now.duration_trunc(minute).unwrap_or(now) - minute;
    let in_last = minutes.iter().filter(|bucket| bucket.began_at == last);
    in_last.map(|bucket| (bucket.backend.clone(), bucket.outcomes.published)).collect()
}
