//! `outbox status --history`

use std::time::Duration;

use actix_outbox::StoreError;
use actix_outbox::admin::{HistoryBucket, OutboxAdmin, Resolution};
use serde::Serialize;

use crate::output::{self, time};

const HOUR: Duration = Duration::from_secs(60 * 60);

/// The whole stored history.
#[derive(Debug, PartialEq, Serialize)]
pub(super) struct History {
    by_minute: Vec<HistoryRow>,
    by_hour: Vec<HistoryRow>,
}

#[derive(Debug, PartialEq, Serialize)]
struct HistoryRow {
    began_at: String,
    backend: String,
    published: u64,
    rejected: u64,
    failed: u64,
    #[serde(skip)]
    age: Duration,
}

impl History {
    pub(super) async fn read(admin: &OutboxAdmin) -> Result<Self, StoreError> {
        let (minutes, hours) = tokio::try_join!(
            admin.history(Resolution::Minute, Resolution::Minute.kept_for()),
            admin.history(Resolution::Hour, Resolution::Hour.kept_for())
        )?;
        Ok(Self { by_minute: lines(minutes), by_hour: lines(hours) })
    }

    /// The last hour by minute, and the last day by hour.
    pub(super) fn print(&self) -> std::io::Result<()> {
        for (title, lines, span) in [("MINUTE", &self.by_minute, HOUR), ("HOUR", &self.by_hour, 24 * HOUR)] {
            output::line("")?;
            let shown = lines.iter().filter(|line| line.age <= span);
            output::table(&[title, "BACKEND", "PUBLISHED", "REJECTED", "FAILED"], shown.map(HistoryRow::row))?;
        }
        Ok(())
    }
}

fn lines(buckets: Vec<HistoryBucket>) -> Vec<HistoryRow> {
    let now = chrono::Utc::now();
    let line = |HistoryBucket { began_at, backend, outcomes }| HistoryRow {
        began_at: time(began_at),
        backend,
        published: outcomes.published,
        rejected: outcomes.rejected,
        failed: outcomes.failed,
        age: (now - began_at).to_std().unwrap_or_default(),
    };
    buckets.into_iter().map(line).collect()
}

impl HistoryRow {
    fn row(&self) -> Vec<String> {
        let counts = [self.published, self.rejected, self.failed].map(|count| count.to_string());
        [self.began_at.clone(), output::printable(&self.backend)].into_iter().chain(counts).collect()
    }
}
