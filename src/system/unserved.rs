//! Logs that no worker serves a lane to which applications send, but not for each event.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use super::context::SystemContext;
use crate::clock::BootInstant;
use crate::store::unserved;

/// The shortest time between two checks of a backend.
const INTERVAL: Duration = Duration::from_secs(60);

/// The most lanes that are remembered: their names come from applications, so there may be any number.
const MOST_REMEMBERED: usize = 100;

/// When it was last checked that a worker serves a lane.
#[derive(Default)]
pub(crate) struct AskedLanes(Mutex<HashMap<String, BootInstant>>);

impl AskedLanes {
    /// Whether to check now; notes that it is checked.
    fn begin(&self, lane: &str, now: BootInstant) -> bool {
        let mut asked = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_recent = |at: &BootInstant| now.since(*at) < INTERVAL;
        if asked.get(lane).is_some_and(is_recent) {
            return false;
        }
        if asked.len() >= MOST_REMEMBERED {
            asked.retain(|_, at| is_recent(at));
        }
        asked.len() < MOST_REMEMBERED && {
            asked.insert(lane.to_owned(), now);
            true
        }
    }
}

/// Checks, concurrently with the senders, whether a worker serves the lanes of events that were stored.
pub(crate) fn check<'a>(context: &Arc<SystemContext>, lanes: impl Iterator<Item = &'a str>) {
    let now = BootInstant::now();
    let to_ask = lanes.filter(|lane| context.publisher_of(lane).is_none() && context.asked.begin(lane, now));
    let to_ask: BTreeSet<String> = to_ask.map(str::to_owned).collect();
    if to_ask.is_empty() {
        return;
    }
    let context = Arc::clone(context);
    context.runtime.clone().spawn(async move {
        let lease = context.settings.worker.lease;
        // If the query fails, `outbox status` shows it all the same.
        if let Ok(lanes) = unserved::unserved(&*context.store, to_ask, lease).await {
            unserved::warn(&lanes);
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lane_is_asked_about_once_a_minute_and_not_too_many_at_a_time() {
        let (asked, now) = (AskedLanes::default(), BootInstant::now());
        assert!(asked.begin("a", now) && !asked.begin("a", now) && asked.begin("b", now));
        assert!((0..1_000).filter(|n| asked.begin(&n.to_string(), now)).count() == MOST_REMEMBERED - 2);
        let later = now.after(INTERVAL);
        assert!(asked.begin("a", later) && asked.begin("new", later) && !asked.begin("a", later));
    }
}
