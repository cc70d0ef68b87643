//! Deletes events that are done in place of recording them as published.
//!
//! A row that may not be deleted, because of a foreign key, a trigger or a policy, is recorded as published, and retention
//! tries again. If most of them are refused, the next settles do not try at all.

use std::time::Duration;

use super::{Settling, record};
use crate::store::postgres::Result;
use crate::store::{Acceptance, Care, Settled, SettledEvent, warn_undeletable};

/// How long settles record events as published after the database refused to delete them.
const KEPT_FOR: Duration = Duration::from_secs(60);

/// As many refused rows of one batch are found one by one; finding more costs more than deleting saves.
const MOST_REFUSED: usize = 8;

/// Deletes events whose acceptance is recorded, except those that the database refuses to delete: they are published.
pub(super) async fn delete(settling: &Settling, events: &[Acceptance], care: Care) -> Result<Vec<SettledEvent>> {
    let mut outcomes = match record(settling, events, care).await {
        Err(refusal) if refusal.is_refusal() => {
            settling.keep_rows();
            warn_undeletable(events.iter().map(|event| event.id), &refusal.to_string());
            return record(settling, &kept(events.iter()), care).await;
        }
        outcomes => outcomes?,
    };
    let refused: Vec<usize> = (0..).zip(&outcomes).filter(|(_, event)| is_refused(event)).map(|(n, _)| n).collect();
    if refused.len() > MOST_REFUSED {
        settling.keep_rows();
    }
    if let Some(reason) = outcomes.iter().find_map(reason) {
        warn_undeletable(refused.iter().map(|&n| events[n].id), reason);
    }
    if !refused.is_empty() {
        let again = record(settling, &kept(refused.iter().map(|&n| &events[n])), care).await?;
        refused.into_iter().zip(again).for_each(|(n, outcome)| outcomes[n] = outcome);
    }
    Ok(outcomes)
}

/// The same acceptances, after which the rows stay.
pub(super) fn kept<'a>(events: impl Iterator<Item = &'a Acceptance>) -> Vec<Acceptance> {
    events.map(|event| Acceptance { deletes: false, ..event.clone() }).collect()
}

fn is_refused(event: &SettledEvent) -> bool {
    matches!(event.outcome, Settled::Refused(_) | Settled::Untried)
}

fn reason(event: &SettledEvent) -> Option<&str> {
    match &event.outcome {
        Settled::Refused(reason) => Some(reason),
        _ => None,
    }
}

impl Settling {
    /// Whether the database refused to delete most rows recently.
    pub(super) fn keeps_rows(&self) -> bool {
        self.kept.is_running()
    }

    fn keep_rows(&self) {
        self.kept.run_for(KEPT_FOR);
    }
}
