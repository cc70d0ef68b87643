//! What a stretch of faults may cost at most. Above one of these, the run fails.

use std::time::Duration;

use crate::deployment::{GUESTS, LEASE, LEASES, Pace, WORKERS};
use crate::figures::Figures;
use crate::kinds::Kind;

/// Connections of one worker: the ten that docs/operations.md promises, and the one that asks whether a silent server
/// answers again.
const CONNECTIONS: i64 = 11;

/// Memory of one worker with small events: an unoptimised program with its threads has 40 MiB.
const MEMORY: u64 = 96 << 20;

/// What it has beside that with large events. Its bound for them is 16 MiB; a row as it is read, the event, its JSON and the
/// command to Redis are copies of each other, and the allocator of each thread keeps what it had. 145 MiB were seen.
const MEMORY_FOR_LARGE: u64 = 192 << 20;

/// Beats that a worker records within a lease, each one row version; one more leaves room for those that are repeated.
const BEATS_PER_LEASE: f64 = 4.0;

/// By the rules of an older version every lease is renewed with each beat.
const RENEWALS: f64 = LEASES as f64 * 3.0 * 60.0 / LEASE.as_secs() as f64;

/// What a fault may move: every lease is taken from one worker and given back to it, each time released and acquired, and
/// as often again where the fault ends only after the others have noticed it.
const VERSIONS_PER_FAULT: f64 = 8.0 * LEASES as f64;

/// Row versions of one event: its insert, its settle, and a settle that is repeated after a doubt. One transaction in seven
/// is rolled back, and its rows count.
const VERSIONS_PER_EVENT: f64 = 3.5;

/// How long an event may be due after the longest fault has ended: a lease that has to run out, the longest pause between
/// two tries of a connection, the longest rest of a sweep, and the backlog.
const AFTER_A_FAULT: Duration = Duration::from_secs(20);

/// How much longer it may be where faults come together: there may be one after the other that keeps the owners of a shard,
/// each in its turn, from delivering.
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
    /// For so many faults of these kinds, alone or together.
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

    /// The same for events of up to 300 KiB.
    pub(crate) fn of_large_events(self) -> Self {
        Self { memory: self.memory + MEMORY_FOR_LARGE, ..self }
    }

    /// What is above its limit, in words.
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
