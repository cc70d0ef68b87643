//! Events for a backend that no worker serves: they are stored, and they wait.

use std::collections::BTreeSet;
use std::time::Duration;

use super::{Result, Store};

/// Those of these lanes that no live worker serves.
pub(crate) async fn unserved(store: &dyn Store, lanes: BTreeSet<String>, lease: Duration) -> Result<BTreeSet<String>> {
    if lanes.is_empty() {
        return Ok(lanes);
    }
    let workers = store.workers().await?;
    let served: BTreeSet<String> = workers
        .iter()
        .filter(|worker| worker.is_alive(lease))
        .flat_map(|worker| worker.reports().into_keys())
        .collect();
    Ok(lanes.difference(&served).cloned().collect())
}

/// Logs a warning for each of these lanes.
pub(crate) fn warn(lanes: &BTreeSet<String>) {
    for lane in lanes {
        tracing::warn!(
            backend = %if lane.is_empty() { "(default)" } else { lane },
            "no live worker serves this backend: the event is stored and waits; start a worker that has it under \
             [publishers], or correct the backend's name"
        );
    }
}
