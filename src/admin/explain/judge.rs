//! Decides which reason holds: the first that would keep the event from being sent even if all later ones were gone.

use std::collections::BTreeMap;

use super::{Circumstances, Reason};
use crate::event::{OutboxEvent, Status};
use crate::store::{LaneHealth, WorkerRow};

pub(super) fn judge(circumstances: &Circumstances) -> Reason {
    final_reason(&circumstances.event)
        .or_else(|| before_its_time(circumstances))
        .unwrap_or_else(|| waiting_for_others(circumstances))
}

/// The reason if it is finished, or not this library's to send.
fn final_reason(event: &OutboxEvent) -> Option<Reason> {
    match event.status {
        Status::Published => Some(Reason::Published { at: event.published_at }),
        Status::Failed => Some(Reason::Failed {
            at: event.updated_at,
            attempts: event.retry_count,
            error: event.last_error.clone(),
            published_at: event.published_at,
        }),
        Status::Processing => Some(match event.published_at {
            Some(published_at) => Reason::Owed {
                published_at,
                handlers: event.pending_handlers.clone().unwrap_or_default(),
                error: event.last_error.clone(),
            },
            None => Reason::Processing { since: event.updated_at },
        }),
        Status::Pending | Status::Retry => None,
    }
}

fn before_its_time(Circumstances { event, position, .. }: &Circumstances) -> Option<Reason> {
    let due = match event.status {
        Status::Retry => event.retry_at.unwrap_or(event.scheduled_at),
        _ => event.scheduled_at,
    };
    if due > position.now {
        return Some(match event.published_at {
            Some(published_at) => Reason::Handlers {
                published_at,
                handlers: event.pending_handlers.clone(),
                at: Some(due),
                error: event.last_error.clone(),
            },
            None if event.status == Status::Retry => Reason::Retrying {
                at: due,
                attempts: event.retry_count,
                max_retries: event.max_retries.max(1),
                error: event.last_error.clone(),
            },
            None => Reason::Scheduled { at: due },
        });
    }
    (event.seq == 0).then_some(Reason::WithoutPlace)
}

/// The reason if a worker reports an outcome for the event that the database does not record.
fn unrecorded(event: &OutboxEvent, alive: &[&WorkerRow]) -> Option<Reason> {
    alive.iter().find_map(|worker| {
        let report = worker.reports().remove(&event.publisher_backend)?;
        let row = report.unrecorded.into_iter().find(|row| row.id == event.id)?;
        let (backend, worker) = (event.publisher_backend.clone(), worker.name.clone());
        Some(Reason::Unrecorded { backend, worker, since: row.since, error: row.reason })
    })
}

fn waiting_for_others(circumstances: &Circumstances) -> Reason {
    let Circumstances { event, position, before, workers, pause, lease } = circumstances;
    let alive: Vec<&WorkerRow> = workers.iter().filter(|worker| worker.is_alive(*lease)).collect();
    if let Some(reason) = unrecorded(event, &alive) {
        return reason;
    }
    if let Some(pause) = pause.clone().filter(|_| event.published_at.is_none()) {
        return Reason::BackendPaused { backend: event.publisher_backend.clone(), pause };
    }
    if alive.is_empty() {
        return Reason::NoWorker { last_heartbeat: workers.iter().map(|worker| worker.heartbeat_at).max() };
    }
    let backend = event.publisher_backend.clone();
    let report = |worker: &WorkerRow| worker.reports().remove(&backend);
    let serving: Vec<(&WorkerRow, LaneHealth)> =
        alive.iter().filter_map(|worker| Some((*worker, report(worker)?))).collect();
    if serving.is_empty() {
        return Reason::UnknownBackend { backend, workers: names(&alive) };
    }
    if let Some((id, status)) = before {
        return Reason::BehindKey { partition_key: event.partition_key.clone(), event: *id, status: *status };
    }
    let Some((worker, report)) = serving.iter().find(|(worker, _)| position.owner == Some(worker.id)) else {
        return without_owner(backend, position.shard, &serving);
    };
    if !report.is_ok() {
        return paused(backend, worker, report);
    }
    with_owner(circumstances, worker, report)
}

fn without_owner(backend: String, shard: i16, serving: &[(&WorkerRow, LaneHealth)]) -> Reason {
    let standing_by: BTreeMap<String, String> = serving
        .iter()
        .filter_map(|(worker, report)| Some((worker.name.clone(), report.standing_by.clone()?)))
        .collect();
    if serving.iter().all(|(_, report)| report.standing_by.is_some()) {
        return Reason::StandingBy { backend, workers: standing_by };
    }
    let able: Vec<&WorkerRow> =
        serving.iter().filter(|(_, report)| report.standing_by.is_none()).map(|(worker, _)| *worker).collect();
    match serving.iter().find(|(_, report)| !report.is_ok()) {
        Some((worker, report)) if serving.iter().all(|(_, report)| !report.is_ok()) => paused(backend, worker, report),
        _ => Reason::NoOwner { backend, shard, workers: names(&able) },
    }
}

fn with_owner(circumstances: &Circumstances, worker: &WorkerRow, report: &LaneHealth) -> Reason {
    let Circumstances { event, position, .. } = circumstances;
    let (worker, ahead, more_ahead) = (worker.name.clone(), position.ahead, position.more_ahead);
    if let Some(published_at) = event.published_at {
        let (handlers, error) = (event.pending_handlers.clone(), event.last_error.clone());
        return Reason::Handlers { published_at, handlers, at: None, error };
    }
    match report.per_second {
        Some(per_second) if ahead > 0 => {
            let backend = event.publisher_backend.clone();
            Reason::RateLimited { backend, worker, per_second, ahead, more_ahead }
        }
        _ => {
            let since = event.retry_at.filter(|_| event.status == Status::Retry).unwrap_or(event.scheduled_at);
            Reason::Due { since, worker, shard: position.shard, ahead, more_ahead }
        }
    }
}

fn paused(backend: String, worker: &WorkerRow, report: &LaneHealth) -> Reason {
    if report.is_stuck() {
        return Reason::Stuck { backend, worker: worker.name.clone() };
    }
    Reason::Paused { backend, worker: worker.name.clone(), since: report.since, error: report.health.clone() }
}

fn names(workers: &[&WorkerRow]) -> Vec<String> {
    workers.iter().map(|worker| worker.name.clone()).collect()
}

#[cfg(test)]
mod tests;
