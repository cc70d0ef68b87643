//! Judges workers, backends and handlers by what the tables say.

use std::time::Duration;

use super::Findings;
use crate::admin::{HandlerStatus, OutboxStatus};
use crate::store::WorkerRow;

/// Due events that have waited for longer than this many lease times are a finding.
const LATE: f64 = 6.0;

pub(super) fn judge(
    status: &OutboxStatus,
    handlers: &[HandlerStatus],
    workers: &[WorkerRow],
    lease: Duration,
    findings: &mut Findings,
) {
    let alive = workers.iter().filter(|worker| worker.is_alive(lease)).count();
    let late = |seconds: Option<f64>| seconds.is_some_and(|seconds| seconds > lease.as_secs_f64() * LATE);
    for backend in status.backends.iter().filter(|backend| backend.due > 0) {
        let (name, due) = (if backend.name.is_empty() { "(default)" } else { &backend.name }, backend.due);
        let problem = format!("events of {name} are due ({due}): ");
        if backend.paused {
            findings.advice(
                "paused",
                format!("{problem}the backend is paused"),
                format!("outbox backends resume {name}"),
            );
        } else if alive == 0 {
            findings.danger("no_worker", format!("{problem}no worker is alive"), "start `outbox worker`");
        } else if !backend.is_ok() {
            findings.danger("unserved", problem + &backend.health, "`outbox events explain ID` says more");
        } else if late(backend.oldest_due_seconds) {
            let seconds = backend.oldest_due_seconds.unwrap_or_default();
            findings.advice(
                "late",
                format!("{problem}the oldest for {seconds:.0} s"),
                "`outbox events explain ID` says why; more workers or a higher rate limit may help",
            );
        }
    }
    for handler in handlers.iter().filter(|handler| handler.owed > 0 && !handler.alive) {
        findings.advice(
            "handlers",
            format!("events wait for handler {}, which no live process has ({})", handler.name, handler.owed),
            format!("start its service, or `outbox handlers drop {}`", handler.name),
        );
    }
    for handler in handlers.iter().filter(|handler| handler.expired && !handler.alive) {
        findings.danger(
            "handlers_expired",
            format!(
                "new events pass by handler {}: no live process has had it for the handlers_owed of its service",
                handler.name
            ),
            format!("start its service, or `outbox handlers drop {}`", handler.name),
        );
    }
    if let Some(failed) = status.counts.get("failed").filter(|failed| **failed > 0) {
        findings.advice(
            "failed",
            format!("events have failed ({failed}); they hold their keys where on_failed = \"hold\""),
            "`outbox events list --status failed`, then retry, fail or delete them",
        );
    }
}
