//! Deletes events that are done in place of recording them as published.
//!
//! A row that may not be deleted, because of a foreign key, a trigger or a policy, is recorded as published, and retention
//! tries again. If most of them are refused, the next settles do not try at all.

use std::time::Duration;

use uuid::Uuid;

use crate::error::StoreError;
use crate::store::{Acceptance, HandledDelivery, Period, Result, Settled, SettledEvent, warn_undeletable};

/// How long settles record events as published after the database refused to delete them.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// As many refused rows of one batch are found one by one; finding more costs more than deleting saves.
const MOST_REFUSED: usize = 8;

/// What is recorded about an event, after which its row may be deleted.
pub(crate) trait Deleting: Clone {
    fn id(&self) -> Uuid;
    fn deletes(&self) -> bool;
    /// The same, after which the row stays.
    fn kept(&self) -> Self;
}

impl Deleting for Acceptance {
    fn id(&self) -> Uuid {
        self.id
    }

    fn deletes(&self) -> bool {
        self.deletes
    }

    fn kept(&self) -> Self {
        Self { deletes: false, ..self.clone() }
    }
}

impl Deleting for HandledDelivery {
    fn id(&self) -> Uuid {
        self.id
    }

    fn deletes(&self) -> bool {
        self.deletes
    }

    fn kept(&self) -> Self {
        Self { deletes: false, ..self.clone() }
    }
}

/// The effect of a settle on one event's row.
pub(crate) trait Outcome {
    fn settled(&self) -> &Settled;
}

impl Outcome for Settled {
    fn settled(&self) -> &Settled {
        self
    }
}

impl Outcome for SettledEvent {
    fn settled(&self) -> &Settled {
        &self.outcome
    }
}

/// Records events, and deletes those that are not kept, except where the database refuses it or another transaction
/// holds what it has to change: they are published. `keeping` is the time in which the database is not asked to delete.
pub(crate) async fn record_and_delete<E, S, F>(
    keeping: &Period,
    events: &[E],
    record: impl Fn(Vec<E>) -> F,
) -> Result<Vec<S>>
where
    E: Deleting,
    S: Outcome,
    F: Future<Output = Result<Vec<S>>>,
{
    if !events.iter().any(E::deletes) {
        return record(events.to_vec()).await;
    }
    if keeping.is_running() {
        return record(kept(events.iter())).await;
    }
    let mut outcomes = match record(events.to_vec()).await {
        Err(refusal) if refusal.is_refusal() => {
            keeping.run_for(KEPT_FOR);
            warn_undeletable(events.iter().map(E::id), &refusal.to_string());
            return record(kept(events.iter())).await;
        }
        // Rows of other tables, which a foreign key has the deletion change.
        Err(StoreError::Locked { .. }) => return record(kept(events.iter())).await,
        outcomes => outcomes?,
    };
    let is_refused = |outcome: &S| matches!(outcome.settled(), Settled::Refused(_) | Settled::Untried);
    let refused: Vec<usize> = (0..).zip(&outcomes).filter(|(_, outcome)| is_refused(outcome)).map(|(n, _)| n).collect();
    if refused.len() > MOST_REFUSED {
        keeping.run_for(KEPT_FOR);
    }
    if let Some(reason) = outcomes.iter().find_map(|outcome| reason(outcome.settled())) {
        warn_undeletable(refused.iter().map(|&n| events[n].id()), reason);
    }
    if !refused.is_empty() {
        let again = record(kept(refused.iter().map(|&n| &events[n]))).await?;
        refused.into_iter().zip(again).for_each(|(n, outcome)| outcomes[n] = outcome);
    }
    Ok(outcomes)
}

fn kept<'a, E: Deleting + 'a>(events: impl Iterator<Item = &'a E>) -> Vec<E> {
    events.map(E::kept).collect()
}

fn reason(outcome: &Settled) -> Option<&str> {
    match outcome {
        Settled::Refused(reason) => Some(reason),
        _ => None,
    }
}
