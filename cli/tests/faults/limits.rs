//! Limits for the cost of a phase of faults. A figure above its limit fails the run.

use std::time::Duration;

use crate::deployment::{GUESTS, LEASE, LEASES, Pace, WORKERS};
use crate::figures::Figures;
use crate::kinds::Kind;

/// Connections of one worker: the ten that docs/postgres.md promises, and one that checks whether a silent server responds
/// again.
const CONNECTIONS: i64 = 11;

/// Memory of one worker with small events: an unoptimised program with its threads has 40 MiB.
const MEMORY: u64 = 96 << 20;

/// Additional memory with large events. The worker's limit for them is 16 MiB; but the row, the event, its JSON and the
/// command to Redis are copies of each other, and each thread's allocator keeps freed memory. 145 MiB were measured.
const MEMORY_FOR_LARGE: u64 = 192 << 20;

/// Heartbeats that a worker records within a lease, each one row version; one more is for repeated ones.
const BEATS_PER_LEASE: f64 = 4.0;

/// By the rules of an older version every heartbeat renews every lease.
const RENEWALS: f64 = LEASES as f64 * 3.0 * 60.0 / LEASE.as_secs() as f64;

/// Row versions of leases for each fault: every lease moves to another worker and back, each time released and acquired, and
/// twice that if the fault ends only after the other workers have noticed it.
const VERSIONS_PER_FAULT: f64 = 8.0 * LEASES as f64;

/// Row versions of one event: its insert, its settle, and a repeated settle after an unknown outcome. One transaction in
/// seven is rolled back, and its rows count.
const VERSIONS_PER_EVENT: f64 = 3.5;

/// How long an event may be due after the longest fault has ended: the expiry of a lease, the longest pause between two
/// attempts to connect, the longest pause between sweeps, and the backlog.
const AFTER_A_FAULT: Duration = Duration::from_secs(20);

/// The additional time if faults run together: several faults may stop successive owners of a shard from delivering.
const TOGETHER: Duration = Duration::from_secs(90);

#[derive(Debug, Clone)]
pub(crate) struct Limits {
    pub(crate) connections: i64,
    pub(crate) memory: u64,
    pub(crate) ownership_per_minute: f64,
    pub(crate) versions_per_event: f64,
    pub(crate) oldest_due: Duration,
}

impl Limits {
    /// The limits for this many faults of these kinds, alone or together.
    pub(crate) fn of(kinds: &[Kind], pace: Pace, together: bool, faults: u32, span: Duration) -> Self {
        let minutes = span.as_secs_f64() / 60.0;
        let beats = (WORKERS + GUESTS) as f64 * BEATS_PER_LEASE * 60.0 / LEASE.as_secs_f64();
        let renewals = if kinds.contains(&Kind::Upgrade) { RENEWALS } else { 0.0 };
        let longest = kinds.iter().map(|kind| kind.longest(pace)).max().unwrap_or_default();
        Self {
            connections: CONNECTIONS,
            memory: MEMORY,
            ownership_per_minute: beats + renewals + f64::from(faults) * VERSIONS_PER_FAULT / minutes,
            versions_per_event: VERSIONS_PER_EVENT,
            oldest_due: longest + AFTER_A_FAULT + if together { TOGETHER } else { Duration::ZERO },
        }
    }

    /// The limits for events of up to 300 KiB.
    pub(crate) fn of_large_events(self) -> Self {
        Self { memory: self.memory + MEMORY_FOR_LARGE, ..self }
    }

    /// The figures above their limits, in words.
    pub(crate) fn excesses(&self, figures: &Figures, events: usize) -> Vec<String> {
        let (ownership, versions) = (figures.ownership_per_minute(), figures.versions_per_event(events));
        let all = [
            (figures.connections > self.connections, format!("{} connections of a worker", figures.connections)),
            (figures.memory > self.memory, format!("{} MiB in a worker", figures.memory >> 20)),
            (ownership > self.ownership_per_minute, format!("{ownership:.0} row versions a minute to own shards")),
            (versions > self.versions_per_event, format!("{versions:.2} row versions an event")),
            (figures.oldest_due > self.oldest_due, format!("an event due for {:.1?}", figures.oldest_due)),
        ];
        all.into_iter().filter_map(|(above, what)| above.then(|| format!("{what}; limits: {self:?}"))).collect()
    }
}

#[test]
fn each_figure_above_its_limit_is_named() {
    let figures = Figures {
        connections: CONNECTIONS + 1,
        memory: MEMORY + (1 << 20),
        ownership: 1_000_000,
        events: 500,
        oldest_due: Duration::from_secs(3_600),
        span: Duration::from_secs(60),
    };
    let limits = Limits::of(&Kind::ALL, Pace::Long, true, 10, figures.span);
    assert_eq!(limits.excesses(&figures, 100).len(), 5);
    assert_eq!(limits.excesses(&Figures { span: figures.span, ..Figures::default() }, 100).len(), 0);
}
