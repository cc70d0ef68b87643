//! Metrics that say what is, not what happened.

use std::time::Duration;

use super::clock::Moment;
use super::line::Line;
use super::shared::Shared;
use crate::error::StoreError;

/// What this worker knows itself.
pub(super) fn update_own(shared: &Shared) {
    shared.lines.values().for_each(|line| update_line(shared, line));
}

/// What the database is asked for.
pub(super) async fn update_due(shared: &Shared) -> Result<(), StoreError> {
    // Who delivers nothing says nothing of backends.
    if shared.lines.is_empty() {
        return Ok(());
    }
    let due = shared.store.due().await?;
    for line in shared.lines.values() {
        let of_it = || due.iter().filter(|due| line.flight(&due.lane).is_some());
        line.meters.due.set(of_it().map(|due| due.events).sum::<i64>() as f64);
        line.meters.oldest_due.set(of_it().map(|due| due.oldest).max().unwrap_or(Duration::ZERO));
    }
    Ok(())
}

fn update_line(shared: &Shared, line: &Line) {
    let now = Moment::now();
    let leases: Vec<i64> = line
        .flights
        .iter()
        .flat_map(|flight| shared.leases.readable(flight.lane(), now))
        .map(|(_, epoch)| epoch)
        .collect();
    let meters = &line.meters;
    meters.leases.set(leases.len() as f64);
    meters.epoch.set(leases.into_iter().max().unwrap_or(0) as f64);
    let credit = &line.credit;
    meters.in_flight_events.set(credit.most_events.saturating_sub(credit.events_left()) as f64);
    meters.in_flight_bytes.set(credit.most_bytes.saturating_sub(credit.bytes_left()) as f64);
    meters.breaker_open.set(f64::from(u8::from(line.state().down.is_some())));
}
