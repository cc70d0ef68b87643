//! Gauges: metrics that show a state, not a count of occurrences.

use std::collections::HashSet;

use super::context::SystemContext;
use super::publisher_state::PublisherState;
use crate::clock::BootInstant;
use crate::error::StoreError;
use crate::metrics;
use crate::store::{Backlog, WorkerRow};

/// Updates what this worker knows itself.
pub(super) fn update_own(context: &SystemContext) {
    context.publishers.values().for_each(|publisher| update_publisher(context, publisher));
}

/// Updates what the database must be queried for.
pub(super) async fn update_due(context: &SystemContext) -> Result<(), StoreError> {
    if context.liveness.owes_handlers() {
        metrics::set_owed(&context.store.owed().await?);
    }
    // A process that delivers nothing reports no backends.
    if context.publishers.is_empty() {
        return Ok(());
    }
    let (due, workers) = tokio::try_join!(context.store.due(), context.store.workers())?;
    for publisher in context.publishers.values() {
        publisher.metrics.due.set(due.iter().filter(|due| publisher.in_flight(&due.lane).is_some()));
    }
    let is_alive = |worker: &&WorkerRow| worker.is_alive(context.settings.worker.lease);
    let served: HashSet<String> =
        workers.iter().filter(is_alive).flat_map(|worker| worker.reports().into_keys()).collect();
    let is_served = |due: &&Backlog| context.publisher_of(&due.lane).is_some() || served.contains(&*due.lane);
    context.metrics.unserved.set(due.iter().filter(|due| !is_served(due)));
    Ok(())
}

fn update_publisher(context: &SystemContext, publisher: &PublisherState) {
    let now = BootInstant::now();
    let leases: Vec<i64> = publisher
        .lanes
        .iter()
        .flat_map(|in_flight| context.leases.readable(in_flight.lane(), now))
        .map(|(_, epoch)| epoch)
        .collect();
    let metrics = &publisher.metrics;
    metrics.leases.set(leases.len() as f64);
    metrics.epoch.set(leases.into_iter().max().unwrap_or(0) as f64);
    let credit = &publisher.credit;
    metrics.in_flight_events.set(credit.most_events.saturating_sub(credit.free().events) as f64);
    metrics.in_flight_bytes.set(credit.most_bytes.saturating_sub(credit.free().bytes) as f64);
    metrics.unrecorded.set(publisher.lanes.iter().map(|in_flight| in_flight.unwritable_count()).sum::<usize>() as f64);
    metrics.breaker_open.set(f64::from(u8::from(publisher.breaker().open().is_some())));
}
