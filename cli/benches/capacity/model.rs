//! The computation: what a deployment reaches, and what ends it.

use std::fmt;
use std::time::Duration;

use super::run::Measured;

/// The share of the processors that several pipelines keep busy together; some time is lost to waiting.
pub(crate) const MOST_BUSY: f64 = 0.95;

/// The most events that a worker has in memory: `max_in_flight`.
const IN_FLIGHT: f64 = 5_000.0;

/// The events of one fetch while there are enough: counted in a server's log.
const FETCHED: f64 = 1_000.0;

/// The events of one batch: `batch_size`. A backend gets one at a time.
const BATCH: f64 = 500.0;

/// What fetching has of the database's cost; recording has the rest.
const OF_FETCHING: f64 = 0.45;

/// What an event costs: processor time in seconds, and bytes of WAL.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Costs {
    pub(crate) database: f64,
    pub(crate) worker: f64,
    pub(crate) broker: f64,
    pub(crate) wal: f64,
    /// The rate of one worker alone.
    pub(crate) alone: f64,
}

impl Costs {
    pub(crate) fn of(measured: &Measured) -> Self {
        let each = |time: Duration| time.as_secs_f64() / measured.events;
        Self {
            database: each(measured.times.database),
            worker: each(measured.times.worker),
            broker: each(measured.times.broker),
            wal: measured.wal / measured.events,
            alone: measured.rate,
        }
    }

    pub(crate) fn all(&self) -> f64 {
        self.database + self.worker + self.broker
    }

    /// The rate of one worker whose database is this far away: fetches follow one another, and an event is in memory from
    /// its fetch, over its delivery, to the answer that it is recorded.
    pub(crate) fn at_distance(&self, round_trip: Duration) -> f64 {
        let away = round_trip.as_secs_f64();
        let fetch = FETCHED * self.database * OF_FETCHING;
        let record = FETCHED * self.database * (1.0 - OF_FETCHING);
        let fetching = FETCHED / (away + fetch);
        let in_memory = IN_FLIGHT / (2.0 * away + fetch + BATCH * self.broker + record);
        fetching.min(in_memory)
    }

    /// The rate of one worker whose Redis is this far away: batches follow one another.
    fn in_batches(&self, round_trip: Duration) -> f64 {
        BATCH / (round_trip.as_secs_f64() + BATCH * self.broker)
    }
}

/// This machine, which all parts share.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Here {
    pub(crate) processors: usize,
    pub(crate) busy: f64,
}

impl Default for Here {
    fn default() -> Self {
        let processors = std::thread::available_parallelism().map_or(1, usize::from);
        Self { processors, busy: MOST_BUSY }
    }
}

impl Here {
    pub(crate) fn of(measured: &Measured) -> Self {
        Self { busy: measured.busy(), ..Self::default() }
    }

    /// The rate of a worker for each of several databases: each as fast as one alone, until the processors are busy.
    pub(crate) fn rate(&self, costs: &Costs, workers: usize) -> f64 {
        let processors = self.processors as f64 * self.busy.max(MOST_BUSY) / costs.all();
        processors.min(workers as f64 * costs.alone)
    }
}

/// A deployment whose parts have machines of their own.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Site {
    pub(crate) name: &'static str,
    databases: f64,
    /// For each database.
    processors: f64,
    /// For each database. A worker counts as one processor.
    workers: f64,
    /// Nodes among which the streams are divided evenly; Redis uses one processor of a node.
    brokers: f64,
    /// From a worker to its database and back.
    round_trip: Duration,
}

/// What a deployment has too little of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Limit {
    Databases,
    Workers,
    Brokers,
    RoundTrips,
    Batches,
    Wal,
}

impl fmt::Display for Limit {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Databases => "the databases' processors",
            Self::Workers => "the workers' processors",
            Self::Brokers => "the processor of a stream's node",
            Self::RoundTrips => "the round trips to the database",
            Self::Batches => "each worker waits for its last batch",
            Self::Wal => "a database's WAL",
        })
    }
}

/// What a disk of a database writes each second: 200 MB.
const WAL_A_SECOND: f64 = 200e6;

/// What inserting adds to the database's cost: docs/PERFORMANCE.md, "Inserting".
const INSERT: f64 = 6.5e-6;
const INSERT_WAL: f64 = 547.0;

/// From a worker to its broker and back.
const TO_BROKER: Duration = Duration::from_micros(500);

impl Site {
    const ONE: Self = Self {
        name: "1 database of 4 processors, 1 worker, 1 stream",
        databases: 1.0,
        processors: 4.0,
        workers: 1.0,
        brokers: 1.0,
        round_trip: Duration::from_micros(500),
    };

    pub(crate) fn examples() -> [Self; 8] {
        let far = Duration::from_millis(10);
        let one = Self::ONE;
        [
            one,
            Self { name: "the same, 10 ms from the worker", round_trip: far, ..one },
            Self { name: "the same, 10 ms away, 4 workers", round_trip: far, workers: 4.0, ..one },
            Self { name: "1 database of 16 processors, 4 workers, 1 stream", processors: 16.0, workers: 4.0, ..one },
            Self { name: "1 database of 32 processors, 8 workers, 1 stream", processors: 32.0, workers: 8.0, ..one },
            Self { name: "4 databases of 4 processors, a worker each, 1 stream", databases: 4.0, ..one },
            Self { name: "the same, the streams on 4 nodes", databases: 4.0, brokers: 4.0, ..one },
            Self { name: "16 databases of 4 processors, a worker each, 8 nodes", databases: 16.0, brokers: 8.0, ..one },
        ]
    }

    /// The events that it publishes each second, and what is used up at that rate.
    pub(crate) fn reach(&self, costs: &Costs) -> (f64, Limit) {
        let workers = self.databases * self.workers;
        let bounds = [
            (self.databases * self.processors / (costs.database + INSERT), Limit::Databases),
            (workers / costs.worker, Limit::Workers),
            (self.databases * WAL_A_SECOND / (costs.wal + INSERT_WAL), Limit::Wal),
            (workers * costs.at_distance(self.round_trip), Limit::RoundTrips),
            (self.brokers / costs.broker, Limit::Brokers),
            (workers * costs.in_batches(TO_BROKER), Limit::Batches),
        ];
        bounds.into_iter().min_by(|(one, _), (other, _)| one.total_cmp(other)).expect("there are bounds")
    }
}
