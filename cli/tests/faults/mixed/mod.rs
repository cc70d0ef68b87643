//! A mixed load: events with different outcomes, published in different ways, under the same faults.

mod account;
pub(crate) mod handlers;
mod operator;
mod plan;
pub(crate) mod program;
mod writers;

use std::collections::HashMap;
use std::path::Path;

use tokio::sync::watch;
use uuid::Uuid;

use account::{Account, Rows};
use handlers::Handled;
use operator::Operator;
use plan::{ACCEPTED, LINES, MAX_EVENT_BYTES, Target};
use writers::Writers;

use crate::deployment::Deployment;
use crate::fault_phase::{FaultPhase, Found, Outcome};
use crate::figures::Meter;
use crate::support::redis;

/// Further publishers and settings; `[worker]` is last.
pub(crate) fn settings(slot: usize, redis_url: &str, stream: &str, folder: &Path) -> String {
    let held = format!(
        "[publishers.held]\nbackend = \"redis_stream\"\nurl = \"{redis_url}\"\nstream_name = \"{stream}_held\"\nmax_len = 0\n\
         connect_timeout = 1\nsocket_timeout = 1\non_failed = \"hold\"\n"
    );
    let lines = folder.join(LINES);
    // Workers with different settings, as during a deployment.
    let (batch, in_flight, poll) = [(50, 500, "20ms"), (7, 40, "100ms"), (500, 5_000, "5ms")][slot % 3];
    format!(
        "{held}[publishers.lines]\nbackend = \"jsonl\"\npath = \"{}\"\n[publishers.mine]\nbackend = \"moody\"\n\
         [retention]\npublished_retention_days = 7\n[worker]\npoll_interval = \"{poll}\"\nbatch_size = {batch}\n\
         max_in_flight = {in_flight}\nmax_event_bytes = {MAX_EVENT_BYTES}\nhandler_timeout = \"1s\"\n\
         retry_backoff = {{ base = \"50ms\", factor = 1, max = \"100ms\", jitter = 0.5 }}\n",
        lines.display()
    )
}

impl FaultPhase {
    /// The faults of this phase under a mixed load.
    pub(crate) async fn run_mixed(self, seed: u64) -> Outcome {
        let deployment = Deployment::mixed(self.pace()).await;
        deployment.start_workers().await;
        handlers::wait_until_announced(&deployment.sql().await).await;
        let meter = Meter::start(deployment.url(), deployment.processes.clone());
        let writers = Writers::start(deployment.url(), seed).await;
        let (stop, mut operator) = (watch::Sender::new(false), Operator::new(&deployment, seed));
        let breaking = async {
            let faults = self.inflict_all(&deployment, seed).await;
            stop.send_replace(true);
            (faults, writers.finish().await)
        };
        let ((faults, written), ()) = tokio::join!(breaking, operator.work_until(stop.subscribe()));
        let stuck = operator.drain().await;
        let figures = meter.finish().await;
        let (deeds, rows, found) = (operator.deeds, rows(&deployment).await, found(&deployment).await);
        let handled = handled(&deployment);
        let account = Account { written: &written, deeds: &deeds, rows: &rows, found: &found, handled: &handled };
        println!("{}: {}", self.name(), account.summary());
        deployment.notes().findings.extend(account.findings());
        let reconciliation = account.reconciliation();
        self.conclude(&deployment, seed, faults, Found { reconciliation, stuck, retries: 0, figures }).await
    }
}

async fn rows(deployment: &Deployment) -> Rows {
    let rows = deployment.sql().await.query("SELECT id, status, retry_count FROM outbox_events", &[]).await.unwrap();
    rows.iter().map(|row| (row.get(0), (row.get(1), row.get(2)))).collect()
}

async fn found(deployment: &Deployment) -> HashMap<Target, Vec<Uuid>> {
    let held = redis::event_ids(deployment.redis_url(), &format!("{}_held", deployment.stream_name())).await;
    HashMap::from([
        (Target::Stream, deployment.stream().await),
        (Target::Held, held.iter().map(|id| id.parse().unwrap()).collect()),
        (Target::Accepted, ids(deployment, ACCEPTED)),
        (Target::Lines, lines(deployment)),
    ])
}

pub(crate) fn handled(deployment: &Deployment) -> Handled {
    handlers::ALL.iter().map(|kind| (kind.name, ids(deployment, &kind.notes()))).collect()
}

/// Ignores a line that a kill cut off.
fn ids(deployment: &Deployment, file: &str) -> Vec<Uuid> {
    let text = std::fs::read_to_string(deployment.folder().join(file)).unwrap_or_default();
    text.lines().filter_map(|line| line.parse().ok()).collect()
}

fn lines(deployment: &Deployment) -> Vec<Uuid> {
    let text = std::fs::read_to_string(deployment.folder().join(LINES)).unwrap_or_default();
    let id = |line: &str| serde_json::from_str::<serde_json::Value>(line).ok()?.get("id")?.as_str()?.parse().ok();
    text.lines().filter_map(id).collect()
}

/// The expected events of each target, to investigate a failure.
pub(crate) fn dump(deployment: &Deployment) -> String {
    let handled = handlers::ALL.iter().map(|kind| (kind.notes(), ids(deployment, &kind.notes())));
    let others = [(ACCEPTED.to_owned(), ids(deployment, ACCEPTED)), (LINES.to_owned(), lines(deployment))];
    let mut text = String::new();
    for (name, ids) in others.into_iter().chain(handled) {
        text += &format!("=== {name}\n");
        text.extend(ids.iter().map(|id| format!("{id}\n")));
    }
    text
}
