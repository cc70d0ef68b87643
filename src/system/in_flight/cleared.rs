//! How far keys are known to be clear of unsettled events. An open transaction can keep so many dead rows of a key that a query from
//! the key's start is slow, and each fetch that meets the key would repeat it.
//!
//! A key that was clear up to a position stays clear, with two exceptions: events that are committed later with an earlier position
//! (by an overlapping transaction, or with a `scheduled_at` of the writer's own), and failed events that an operator retries. The
//! shard's sweep finds both, and keys are queried from their start again, for a twentieth of the time.

use std::collections::HashMap;
use std::time::Duration;

use super::fetch::AskedRange;
use crate::clock::BootInstant;
use crate::store::{Blocker, Position};
use crate::system::lane_reader::{MOST_PARTS, SHORT, part};

/// A query that takes longer is slow. If two in a row are, dead rows are the likely cause, and not a server that stalls.
const SLOW: Duration = Duration::from_millis(50);

/// Queries from the start take at most one part in 20 of the time.
const SHARE: u32 = 20;

/// The share of queries that exceed a statement's limit: smaller, because the whole lane waits for them.
const SHARE_OF_LATE: u32 = 60;

/// When more keys are slow, all of them are forgotten and queried from their start.
const MOST_KEYS: usize = 10_000;

#[derive(Debug, Clone, Copy)]
struct Cleared {
    /// The position up to which the key was clear.
    place: Position,
    /// Slow queries from the start, in a row.
    slow: u32,
    /// Slow queries from that position, in a row.
    doubts: u32,
}

impl Cleared {
    fn is_slow(self) -> bool {
        self.slow >= 2
    }
}

#[derive(Debug, Default)]
pub(super) struct ClearedKeys {
    known: HashMap<String, Cleared>,
    /// When slow keys may be queried from their start again.
    whole_at: Option<BootInstant>,
    /// The rest of a key is divided into this many parts, and a query covers one of them; 0: it covers the whole rest.
    parts: i64,
}

impl ClearedKeys {
    /// The position from which a slow key is read.
    pub(super) fn place(&self, key: &str) -> Position {
        self.known.get(key).filter(|cleared| cleared.is_slow()).map_or(Position::START, |cleared| cleared.place)
    }

    /// The range of a key to query for events up to a position.
    pub(super) fn range(&self, key: &str, before: Position, now: BootInstant) -> (Position, Position) {
        let whole = self.parts == 0 && self.whole_at.is_none_or(|at| now >= at);
        let from = if whole { Position::START } else { self.place(key) };
        let end = if self.parts == 0 { None } else { part(from, before.scheduled_at, self.parts) };
        (from, end.map_or(before, |end| end.min(before)))
    }

    /// Records the answer to one statement.
    pub(super) fn note(
        &mut self,
        asked: &HashMap<String, AskedRange>,
        blockers: &HashMap<String, Blocker>,
        took: Duration,
        now: BootInstant,
    ) {
        if took < SHORT {
            self.parts = if self.parts > 2 { self.parts / 2 } else { 0 };
        }
        let slow = took >= SLOW;
        if slow && asked.values().any(|asked| asked.from == Position::START && !asked.is_cut()) {
            self.postpone(took * SHARE, now);
        }
        for (key, asked) in asked {
            let place = blockers.get(key).map_or(asked.clear, |blocker| asked.clear.min(blocker.position));
            match (asked.is_cut(), asked.from == Position::START) {
                (false, true) if !slow => drop(self.known.remove(key)),
                (false, true) => {
                    self.update(key, |known| *known = Cleared { place, slow: known.slow.saturating_add(1), doubts: 0 })
                }
                // Dead rows are not the cause.
                (false, false) if slow && self.known.get(key).is_some_and(|known| known.doubts > 0) => {
                    self.known.remove(key);
                }
                (false, false) => self.update(key, |known| (known.place, known.doubts) = (place, u32::from(slow))),
                (true, _) => self.update(key, |known| *known = Cleared { place, slow: known.slow.max(2), doubts: 0 }),
            }
        }
    }

    /// Records a statement that was not answered in time.
    pub(super) fn note_late(&mut self, asked: &HashMap<String, AskedRange>, took: Duration, now: BootInstant) {
        let mut is_another_look = false;
        let mut is_the_second = false;
        for (key, asked) in asked {
            is_another_look |= asked.from == Position::START && self.place(key) > Position::START;
            self.update(key, |known| known.slow = known.slow.saturating_add(1));
            is_the_second |= self.known.get(key).is_some_and(|known| known.is_slow());
        }
        if is_the_second {
            self.postpone(took * SHARE_OF_LATE, now);
        }
        if is_the_second && !is_another_look {
            self.parts = (self.parts * 2).clamp(2, MOST_PARTS);
        }
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.known.len()
    }

    fn postpone(&mut self, pause: Duration, now: BootInstant) {
        self.whole_at = self.whole_at.max(Some(now.after(pause)));
    }

    fn update(&mut self, key: &str, change: impl FnOnce(&mut Cleared)) {
        if !self.known.contains_key(key) && self.known.len() >= MOST_KEYS {
            self.known.retain(|_, known| known.is_slow());
            if self.known.len() >= MOST_KEYS {
                self.known.clear();
            }
        }
        change(self.known.entry(key.to_owned()).or_insert(Cleared { place: Position::START, slow: 0, doubts: 0 }));
    }
}
