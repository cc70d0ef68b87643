//! A shard that one statement cannot read: it has more dead rows, kept by an open transaction, than a statement can scan in
//! its time. It is read in parts of the time up to now, each from where the last one ended.

use std::time::Duration;

use crate::store::Position;

/// Older events are one part, in microseconds: 64 days.
const OLDEST: i64 = 64 * 24 * 3_600 * 1_000_000;

/// The shortest part, in microseconds: a second.
const REST: i64 = 1_000_000;

pub(in crate::system) const MOST: i64 = 1_024;

/// Parts grow again after one that took no longer: a quarter of a statement's limit.
pub(in crate::system) const SHORT: Duration = Duration::from_millis(2_500);

/// The division of a shard's start.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct ShardParts {
    /// The rest is divided into this many parts; 0: it is read with one statement.
    count: i64,
    /// The clock at the last division. Events behind it are read with one statement in the end.
    until: Option<i64>,
}

impl ShardParts {
    pub(super) fn is_divided(self) -> bool {
        self.count > 0
    }

    /// Divides further after a read that took too long.
    pub(super) fn divide(&mut self) {
        *self = Self { count: (self.count * 2).clamp(2, MOST), until: None };
    }

    /// Notes that a part was read in this time.
    pub(super) fn passed(&mut self, took: Duration) {
        if took < SHORT {
            self.count = (self.count / 2).max(2);
        }
    }

    /// The end of the next part behind a position; `None`: it includes all the rest.
    pub(super) fn end(&mut self, from: Position, clock: i64) -> Option<Position> {
        let until = *self.until.get_or_insert(clock);
        self.is_divided().then(|| part(from, until, self.count)).flatten()
    }
}

/// The end of the first of this many parts between two positions; `None`: there is only one.
pub(in crate::system) fn part(from: Position, until: i64, count: i64) -> Option<Position> {
    let begin = from.scheduled_at.max(until.saturating_sub(OLDEST));
    let left = until.saturating_sub(begin);
    (left > REST).then(|| Position { scheduled_at: begin + (left / count).max(REST), seq: i64::MIN })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Number of statements until a shard is read whose dead rows of some time, up to now, take ten seconds.
    fn statements(dead: i64, too_long: i64) -> usize {
        let (clock, mut parts, mut from) = (10 * OLDEST, ShardParts::default(), Position::START);
        for statement in 1..10_000 {
            let end = parts.end(from, clock);
            let walked = end.map_or(clock, |end| end.scheduled_at) - from.scheduled_at.max(clock - dead);
            match end {
                _ if walked > too_long => parts.divide(),
                None => return statement,
                Some(end) => {
                    from = end;
                    parts.passed(Duration::from_millis(u64::try_from(walked.max(0) * 10_000 / too_long).unwrap()));
                }
            }
        }
        panic!("the shard is never read");
    }

    #[test]
    fn every_shard_is_read_in_the_end_and_in_few_statements() {
        const HOUR: i64 = 3_600 * 1_000_000;
        assert_eq!(statements(HOUR, HOUR), 1);
        for (dead, too_long) in [(2 * HOUR, HOUR), (24 * HOUR, 8 * HOUR), (24 * HOUR, HOUR / 4), (OLDEST, 24 * HOUR)] {
            let count = statements(dead, too_long);
            assert!(count <= 400, "{dead} µs of dead rows, {too_long} of them in ten seconds: {count} statements");
        }
    }

    #[test]
    fn after_an_outage_that_looked_the_same_few_statements_are_lost() {
        let mut parts = ShardParts::default();
        for _ in 0..100 {
            parts.divide();
        }
        let (mut from, mut count) = (Position::START, 0);
        while let Some(end) = parts.end(from, 10 * OLDEST) {
            (from, count) = (end, count + 1);
            parts.passed(Duration::ZERO);
        }
        assert!(count < 60, "{count}");
    }
}
