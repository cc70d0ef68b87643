//! Every figure by its name, which stays what it is from version to version.

/// A figure that a run may have.
#[derive(Debug)]
pub(super) struct Figure {
    pub(super) name: &'static str,
    pub(super) unit: &'static str,
    /// For people.
    pub(super) says: &'static str,
    /// The figures that it is shown as a share of.
    pub(super) of: &'static [&'static str],
}

const fn figure(name: &'static str, unit: &'static str, says: &'static str, of: &'static [&'static str]) -> Figure {
    Figure { name, unit, says, of }
}

const RATE: &str = "events/s";

pub(super) const FIGURES: &[Figure] = &[
    figure("limit.one", RATE, "fetch and update alone, one connection", &[]),
    figure("limit.all", RATE, "the same on as many connections as the worker has", &["limit.one"]),
    figure("limit.connections", "connections", "how many those are", &[]),
    figure("xadd", RATE, "pipelined XADD alone", &[]),
    figure("drain", RATE, "a worker empties a backlog", &["limit.one", "limit.all", "drain.no_journal"]),
    figure("drain.wal", "bytes/event", "WAL that it writes", &[]),
    figure("drain.commits", "commits/event", "commits", &[]),
    figure("drain.dead", "rows/event", "dead rows", &[]),
    figure("drain.cpu", "µs/event", "the worker's CPU time", &[]),
    figure("drain.memory", "MiB", "the worker's memory at its peak", &[]),
    figure("drain.keys", RATE, "with 1,000 keys", &["drain"]),
    figure("drain.backends", RATE, "with three backends mixed", &["drain"]),
    figure("drain.no_journal", RATE, "without the journal", &[]),
    figure("limit.large", RATE, "fetch and update alone, 16 KiB of data each", &[]),
    figure("drain.large", RATE, "a worker empties a backlog of these", &["limit.large"]),
    figure("drain.large.memory", "MiB", "the worker's memory at its peak", &[]),
];

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn names_are_different_and_shares_are_of_figures() {
        let names: HashSet<_> = FIGURES.iter().map(|figure| figure.name).collect();
        assert_eq!(names.len(), FIGURES.len());
        assert!(FIGURES.iter().flat_map(|figure| figure.of).all(|of| names.contains(of)));
    }
}
