//! Every figure by its name. Names stay the same from version to version.

/// A figure that a run may have.
#[derive(Debug)]
pub(super) struct Figure {
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    /// The description in the table.
    pub(super) description: &'static str,
    /// The figures of which its share is shown.
    pub(super) of: &'static [&'static str],
}

const fn figure(
    name: &'static str,
    unit: &'static str,
    description: &'static str,
    of: &'static [&'static str],
) -> Figure {
    Figure { name, unit, description, of }
}

/// The four latencies of one kind of wake-up at one rate.
macro_rules! latencies {
    ($kind:literal, $description:literal) => {
        [
            figure(concat!("latency.", $kind, ".p50"), "ms", concat!("commit to entry, ", $description), &[]),
            figure(concat!("latency.", $kind, ".p90"), "ms", "", &[]),
            figure(concat!("latency.", $kind, ".p99"), "ms", "", &[]),
            figure(concat!("latency.", $kind, ".max"), "ms", "", &[]),
        ]
    };
}

const RATE: &str = "events/s";

/// All figures in the order in which they are shown.
pub(super) fn all() -> impl Iterator<Item = &'static Figure> {
    THROUGHPUT.iter().chain(LATENCY.as_flattened()).chain(REST)
}

const THROUGHPUT: &[Figure] = &[
    figure("limit.one", RATE, "fetch and update alone, one connection", &[]),
    figure("limit.all", RATE, "the same on as many connections as the worker has", &["limit.one"]),
    figure("limit.connections", "connections", "the number of those connections", &[]),
    figure("xadd", RATE, "pipelined XADD alone", &[]),
    figure("drain", RATE, "a worker empties a backlog", &["limit.one", "limit.all", "drain.no_journal"]),
    figure("drain.wal", "bytes/event", "WAL that it writes", &[]),
    figure("drain.commits", "commits/event", "commits", &[]),
    figure("drain.dead", "rows/event", "dead rows", &[]),
    figure("drain.cpu.all", "µs/event", "the CPU time of database, Redis and worker", &[]),
    figure("drain.cpu.database", "µs/event", "the database's part", &[]),
    figure("drain.cpu.redis", "µs/event", "Redis' part", &[]),
    figure("drain.cpu.worker", "µs/event", "the worker's part", &[]),
    figure("drain.memory", "MiB", "the worker's peak memory", &[]),
    figure("limit.deleting", RATE, "fetch and delete alone, on all connections", &["limit.all"]),
    figure("drain.deleting", RATE, "a worker empties a backlog and deletes", &["limit.deleting", "drain"]),
    figure("drain.deleting.wal", "bytes/event", "WAL that it writes", &[]),
    figure("drain.deleting.cpu.all", "µs/event", "the CPU time of database, Redis and worker", &[]),
    figure("drain.deleting.cpu.database", "µs/event", "the database's part", &[]),
    figure("drain.deleting.cpu.redis", "µs/event", "Redis' part", &[]),
    figure("drain.deleting.cpu.worker", "µs/event", "the worker's part", &[]),
    figure("drain.keys", RATE, "with 1,000 keys", &["drain"]),
    figure("drain.keys.deleting", RATE, "the same, and it deletes", &["drain.deleting"]),
    figure("drain.backends", RATE, "with three backends mixed", &["drain"]),
    figure("drain.no_journal", RATE, "without the journal", &[]),
    figure("drain.unobserved", RATE, "events with traces", &[]),
    figure("drain.observed", RATE, "the same with metrics, traces and JSON logs", &["drain.unobserved"]),
    figure("limit.large", RATE, "fetch and update alone, 16 KiB of data each", &[]),
    figure("drain.large", RATE, "a worker empties a backlog of these", &["limit.large"]),
    figure("drain.large.memory", "MiB", "the worker's peak memory", &[]),
    figure("insert.one", RATE, "a raw INSERT for each event, one connection", &[]),
    figure("publish", RATE, "`publish` instead, in a transaction of its own", &["insert.one"]),
    figure("insert.minimal", RATE, "a raw INSERT of 1,000 rows into a minimal table", &[]),
    figure("insert.many", RATE, "a raw INSERT of 1,000 events", &["insert.minimal"]),
    figure("publish.many", RATE, "`publish_many` of as many", &["insert.many"]),
    figure("publish.64", RATE, "`publish` on 64 connections", &["publish"]),
    figure("send.1", RATE, "`PublishEvent` from one sender", &["publish"]),
    figure("send.8", RATE, "from 8 senders", &["publish"]),
    figure("send.64", RATE, "from 64 senders", &["publish", "publish.64"]),
    figure("consume.read", RATE, "XREADGROUP and XACK alone", &[]),
    figure("consume", RATE, "a consumer with a handler that does nothing", &["consume.read"]),
    figure("consume.keys", RATE, "with 1,000 keys", &["consume"]),
    figure("inbox.insert", RATE, "a raw INSERT of 500 notes", &[]),
    figure(
        "consume.inbox",
        RATE,
        "a consumer whose handler notes as many in a transaction",
        &["inbox.insert", "consume"],
    ),
];

const LATENCY: &[[Figure; 4]] = &[
    latencies!("same_process.200", "woken by the same process, 200 events/s"),
    latencies!("same_process.2000", "woken by the same process, 2,000 events/s"),
    latencies!("other_process.200", "woken by another process, 200 events/s"),
    latencies!("other_process.2000", "woken by another process, 2,000 events/s"),
    latencies!("polling.200", "polling alone, 200 events/s"),
    latencies!("polling.2000", "polling alone, 2,000 events/s"),
];

const REST: &[Figure] = &[
    figure("wakes.without", "commits/s", "32 writers, a worker that polls", &[]),
    figure("wakes.with", "commits/s", "32 writers that wake it", &["wakes.without"]),
    figure("idle.cpu", "% of a core", "an idle worker", &[]),
    figure("idle.statements", "statements/s", "its statements", &[]),
    figure("idle.many.cpu", "% of a core", "an idle worker with 200 publishers", &[]),
    figure("idle.many.statements", "statements/s", "its statements", &[]),
    figure("backlog.short", RATE, "the first 100,000 of as many", &[]),
    figure("backlog.long", RATE, "the first 100,000 of a long backlog", &["backlog.short"]),
    figure("backlog.events", "events", "the length of that backlog", &[]),
    figure("backlog.memory", "MiB", "the worker's peak memory", &[]),
    figure("pinned.without", RATE, "a worker empties a backlog", &[]),
    figure("pinned", RATE, "the same while vacuum is held back", &["pinned.without"]),
    figure("pinned.keys.without", RATE, "a worker empties a backlog of ten keys", &[]),
    figure("pinned.keys", RATE, "the same while vacuum is held back", &["pinned.keys.without"]),
    figure("backend.client", RATE, "the backend's client alone", &[]),
    figure("backend.drain", RATE, "a worker drains into the backend", &["limit.one", "backend.client"]),
    figure("sqlite.drain", RATE, "a worker drains SQLite into a file of lines", &[]),
    figure("sqlite.publish", RATE, "64 senders, each event in a transaction of its own", &[]),
    figure("sqlite.send.64", RATE, "`PublishEvent` from 64 senders", &["sqlite.publish"]),
    figure("mysql.limit.one", RATE, "fetch and update alone, one connection", &[]),
    figure("mysql.limit.all", RATE, "the same on as many connections as the worker has", &["mysql.limit.one"]),
    figure("mysql.limit.connections", "connections", "the number of those connections", &[]),
    figure("mysql.drain", RATE, "a worker empties a backlog", &["mysql.limit.one", "mysql.limit.all"]),
    figure("mysql.pinned", RATE, "the same while purge is held back", &["mysql.drain"]),
    figure("mysql.latency.polling.200.p50", "ms", "commit to entry, polling alone, 200 events/s", &[]),
    figure("mysql.latency.polling.200.p90", "ms", "", &[]),
    figure("mysql.latency.polling.200.p99", "ms", "", &[]),
    figure("mysql.latency.polling.200.max", "ms", "", &[]),
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_different_and_shares_are_of_figures() {
        let names: HashSet<_> = all().map(|figure| figure.name).collect();
        assert_eq!(names.len(), all().count());
        assert!(all().flat_map(|figure| figure.of).all(|of| names.contains(of)));
    }
}
