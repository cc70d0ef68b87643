//! Metrics that say what is, not what happened.

use std::collections::HashSet;

use super::clock::BootInstant;
use super::line::Line;
use super::shared::Shared;
use crate::error::StoreError;
use crate::meters;
use crate::store::{Due, WorkerRow};

/// What this worker knows itself.
pub(super) fn update_own(shared: &Shared) {
    shared.lines.values().for_each(|line| update_line(shared, line));
}

/// What the database is asked for.
pub(super) async fn update_due(shared: &Shared) -> Result<(), StoreError> {
    if shared.owes_handlers() {
        meters::set_owed(&shared.store.owed().await?);
    }
    // Who delivers nothing says nothing of backends.
    if shared.lines.is_empty() {
        return Ok(());
    }
    let (due, workers) = tokio::try_join!(shared.store.due(), shared.store.workers())?;
    for line in shared.lines.values() {
        line.meters.due.set(due.iter().filter(|due| line.in_flight(&due.lane).is_some()));
    }
    let is_alive = |worker: &&WorkerRow| worker.is_alive(shared.settings.worker.lease);
    let served: HashSet<String> =
        workers.iter().filter(is_alive).flat_map(|worker| worker.reports().into_keys()).collect();
    let is_served = |due: &&Due| shared.line_of(&due.lane).is_some() || served.contains(&*due.lane);
    shared.meters.unserved.set(due.iter().filter(|due| !is_served(due)));
    Ok(())
}

fn update_line(shared: &Shared, line: &Line) {
    let now = BootInstant::now();
    let leases: Vec<i64> = line
        .flights
        .iter()
        .flat_map(|in_flight| shared.leases.readable(in_flight.lane(), now))
        .map(|(_, epoch)| epoch)
        .collect();
    let meters = &line.meters;
    meters.leases.set(leases.len() as f64);
    meters.epoch.set(leases.into_iter().max().unwrap_or(0) as f64);
    let credit = &line.credit;
    meters.in_flight_events.set(credit.most_events.saturating_sub(credit.free().events) as f64);
    meters.in_flight_bytes.set(credit.most_bytes.saturating_sub(credit.free().bytes) as f64);
    meters.unrecorded.set(line.flights.iter().map(|in_flight| in_flight.unwritable_count()).sum::<usize>() as f64);
    meters.breaker_open.set(f64::from(u8::from(line.state().down.is_some())));
}
