//! Changes of many events: retry, fail, replay, delete and move.

use std::collections::{BTreeMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;
use uuid::Uuid;

use super::applying::Changer;
use super::event_scan::EventScan;
use super::{OutboxAdmin, Result};
use crate::error::StoreError;
use crate::store::{Action, AuditNote, CreatedCursor, EventFilter, Wakeup};

/// Events changed in one transaction.
const BATCH: usize = 500;

/// A call ends after this time, or if the database fails, and reports what it has done. A batch that starts just before that
/// may wait for a connection and for its statement, ten seconds each; and before events are deleted or moved, workers must
/// release their backend.
const CHANGE_TIME: Duration = Duration::from_secs(8);

/// Events visited by one call.
const MOST_VISITED: usize = 10_000;

/// The longest reason of [`Action::Fail`] in characters: it is stored with each event.
const LONGEST_REASON: usize = 500;

/// An action, the events that it applies to, and who asks for it.
#[derive(Debug, Clone)]
pub struct ChangeRequest {
    /// What happens to the events.
    pub action: Action,
    /// Which events.
    pub selection: Selection,
    /// Who asks, for the log and the table of changes: a name, a role or a program.
    pub actor: String,
    /// From where: an address or a host's name; empty if unknown.
    pub from: String,
}

/// The events that an action applies to.
#[derive(Debug, Clone, PartialEq)]
pub enum Selection {
    /// The events with these ids.
    Ids(Vec<Uuid>),
    /// The events that match.
    Matching {
        /// The filter; see [`Action::narrow`].
        filter: Box<EventFilter>,
        /// Only events that were created after this one.
        after: Option<CreatedCursor>,
    },
}

impl ChangeRequest {
    fn note(&self) -> AuditNote {
        let filter = match &self.selection {
            Selection::Ids(_) => None,
            Selection::Matching { filter, .. } => Some(filter.to_string()),
        };
        AuditNote::new(&self.actor, &self.from, filter)
    }
}

impl Selection {
    /// All events that match.
    #[must_use]
    pub fn matching(filter: EventFilter) -> Self {
        Self::Matching { filter: Box::new(filter), after: None }
    }
}

/// What a call of [`OutboxAdmin::change`] did.
#[derive(Debug, Default)]
#[non_exhaustive]
pub struct ChangeReport {
    /// The events that were changed.
    pub changed: Vec<Uuid>,
    /// The events that were not: they no longer exist, their status does not allow the action, or for one of `reasons`.
    pub skipped: Vec<Uuid>,
    /// Why some of them were skipped, for an operator, if their status is not the reason.
    pub reasons: BTreeMap<Uuid, String>,
    /// The number of selected events that were visited, changed or not.
    pub visited: usize,
    /// The events that were not visited: the selection of the next call. `None`: all of them were.
    pub rest: Option<Selection>,
    /// Why the database ended the call early.
    pub error: Option<StoreError>,
}

impl OutboxAdmin {
    /// Changes those of the selected events whose status allows it, records and logs who changed how many, and wakes the workers.
    ///
    /// Events that match are visited in the order of their creation, so that each is visited once, even if its status changes
    /// meanwhile. A call visits at most 10,000 events and begins no batch after 8 s, so it lasts 28 s
    /// at most; repeat it with [`ChangeReport::rest`]. Before it deletes or moves events it waits until the workers have
    /// released their backend, usually two seconds, at most two lease times and ten seconds for each backend of a batch.
    ///
    /// # Errors
    /// Errors of the database, if nothing was changed; else [`ChangeReport::error`] holds it.
    pub async fn change(&self, request: &ChangeRequest) -> Result<ChangeReport> {
        let (action, note) = (without_excess(&request.action), request.note());
        let mut report = ChangeReport::default();
        let mut changer = Changer::new(self, &action, &request.selection, note);
        let outcome = match &request.selection {
            Selection::Ids(ids) => self.change_ids(&mut changer, ids, &mut report).await,
            Selection::Matching { filter, after } => {
                self.change_matching(&mut changer, filter, *after, &mut report).await
            }
        };
        changer.end().await;
        report.log(request);
        if !report.changed.is_empty() {
            self.wake_in_time(&Wakeup::EveryLane).await;
        }
        match outcome {
            Err(error) if report.changed.is_empty() => Err(error),
            outcome => Ok(ChangeReport { error: outcome.err(), ..report }),
        }
    }

    async fn change_ids(&self, changer: &mut Changer<'_>, ids: &[Uuid], report: &mut ChangeReport) -> Result<()> {
        let ends_at = Instant::now() + CHANGE_TIME;
        let rest = |visited: usize| ids.get(visited..).filter(|rest| !rest.is_empty());
        for batch in ids[..ids.len().min(MOST_VISITED)].chunks(BATCH) {
            report.rest = rest(report.visited).map(|rest| Selection::Ids(rest.to_vec()));
            changer.apply(batch, report).await?;
            if Instant::now() > ends_at {
                break;
            }
        }
        report.rest = rest(report.visited).map(|rest| Selection::Ids(rest.to_vec()));
        Ok(())
    }

    async fn change_matching(
        &self,
        changer: &mut Changer<'_>,
        filter: &EventFilter,
        after: Option<CreatedCursor>,
        report: &mut ChangeReport,
    ) -> Result<()> {
        let Some(narrowed) = changer.action.narrow(filter) else { return Ok(()) };
        let continued = |after| Selection::Matching { filter: Box::new(filter.clone()), after };
        report.rest = Some(continued(after));
        let mut scan = EventScan::new(&*self.store, &narrowed, false, after, CHANGE_TIME);
        while report.visited < MOST_VISITED
            && let Some(places) = scan.next(MOST_VISITED - report.visited).await?
        {
            for batch in places.chunks(BATCH) {
                let ids: Vec<Uuid> = batch.iter().map(|place| place.id).collect();
                changer.apply(&ids, report).await?;
                report.rest = Some(continued(batch.last().copied()));
                if scan.is_out_of_time() {
                    return Ok(());
                }
            }
        }
        report.rest = scan.resume_after().map(|after| continued(Some(after)));
        Ok(())
    }
}

impl ChangeReport {
    pub(super) fn add(&mut self, batch: &[Uuid], changed: Vec<Uuid>) {
        self.visited += batch.len();
        if changed.len() < batch.len() {
            let done: HashSet<&Uuid> = changed.iter().collect();
            self.skipped.extend(batch.iter().filter(|id| !done.contains(id)));
        }
        self.changed.extend(changed);
    }

    fn log(&self, request: &ChangeRequest) {
        let [first, ..] = self.changed.as_slice() else { return };
        let (action, events) = (request.action.name(), self.changed.len());
        let ChangeRequest { actor, from, .. } = request;
        match &request.selection {
            Selection::Ids(_) => tracing::info!(action, actor, from, events, %first, "events changed"),
            Selection::Matching { filter, .. } => {
                tracing::info!(action, actor, from, events, %first, %filter, "events changed");
            }
        }
    }
}

/// The action with a reason that every database stores.
fn without_excess(action: &Action) -> Action {
    match action {
        Action::Fail { reason } => {
            Action::Fail { reason: reason.chars().filter(|c| *c != '\0').take(LONGEST_REASON).collect() }
        }
        other => other.clone(),
    }
}

#[cfg(all(test, feature = "sqlite"))]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::event::Status;
    use crate::store::conformance::Fixture;
    use crate::store::sqlite::fixture::SqliteFixture;

    /// An outbox with this many failed events.
    async fn with_failed(events: usize) -> (SqliteFixture, OutboxAdmin) {
        let fixture = SqliteFixture::fresh().await;
        let insert = format!(
            "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < {events})
             INSERT INTO outbox_events (id, event_type, source, status) SELECT randomblob(16), 't', 's', 'failed' FROM n"
        );
        fixture.execute(&insert).await;
        let admin = OutboxAdmin {
            store: fixture.store(),
            settings: Arc::default(),
            backends: Arc::default(),
            retention: Arc::default(),
        };
        (fixture, admin)
    }

    fn retry(selection: Selection) -> ChangeRequest {
        ChangeRequest { action: Action::Retry, selection, actor: "a test".to_owned(), from: String::new() }
    }

    async fn assert_changes_all_in_two_calls(admin: &OutboxAdmin, selection: Selection) {
        let first = admin.change(&retry(selection)).await.unwrap();
        assert_eq!((first.visited, first.changed.len()), (MOST_VISITED, MOST_VISITED));
        let second = admin.change(&retry(first.rest.expect("events are left"))).await.unwrap();
        assert_eq!((second.visited, second.changed.len(), second.rest), (7, 7, None));
    }

    #[tokio::test]
    async fn a_change_of_many_events_ends_and_is_continued_where_it_ended() {
        let (fixture, admin) = with_failed(MOST_VISITED + 7).await;
        let failed = EventFilter { statuses: vec![Status::Failed], ..EventFilter::default() };
        assert_changes_all_in_two_calls(&admin, Selection::matching(failed.clone())).await;
        assert_eq!(fixture.number("SELECT count(*) FROM outbox_events WHERE status = 'pending'").await, 10_007);
        assert_eq!(admin.change(&retry(Selection::matching(failed))).await.unwrap().visited, 0);
    }

    #[tokio::test]
    async fn a_change_of_many_ids_ends_and_is_continued_with_the_rest() {
        let (_fixture, admin) = with_failed(MOST_VISITED + 7).await;
        let request = super::super::ListRequest { limit: usize::MAX, ..Default::default() };
        let events = admin.list(&EventFilter::default(), &request).await.unwrap().events;
        let ids = events.into_iter().map(|event| event.map_or_else(|row| row.id, |event| event.id));
        assert_changes_all_in_two_calls(&admin, Selection::Ids(ids.collect())).await;
    }

    #[tokio::test]
    async fn published_events_are_not_retried_and_a_reason_is_shortened() {
        let (fixture, admin) = with_failed(2).await;
        fixture.execute("UPDATE outbox_events SET status = 'published' WHERE rowid = 1").await;
        let published = EventFilter { statuses: vec![Status::Published], ..EventFilter::default() };
        assert_eq!(admin.change(&retry(Selection::matching(published))).await.unwrap().visited, 0);
        let action = Action::Fail { reason: format!("a\0b{}", "x".repeat(1_000)) };
        let failed = EventFilter { statuses: vec![Status::Failed], ..EventFilter::default() };
        let request = ChangeRequest { action, ..retry(Selection::matching(failed)) };
        assert_eq!(admin.change(&request).await.unwrap().changed.len(), 1);
        assert_eq!(fixture.number("SELECT length(last_error) FROM outbox_events WHERE status = 'failed'").await, 500);
    }
}
