//! How far keys are known to be clear. Where an open transaction keeps many dead rows of a key, walking over them from the key's
//! start takes long, and every fetch that meets the key would have to.
//!
//! That nothing unsettled of a key stood before a place stays true, but for what is committed later with an earlier place (by a
//! transaction that overlapped with others, or with a `scheduled_at` of its own) and for what an operator sends again. The shard's
//! sweep finds those; and keys are looked at from their start again, in a twentieth of the time.

use std::collections::HashMap;
use std::time::Duration;

use super::fetch::Asked;
use crate::store::{Blocker, Position};
use crate::system::clock::BootInstant;
use crate::system::lane::{MOST_PARTS, SHORT, part};

/// Looking at a key from its start takes long: twice running it is dead rows, and not a server that stalls.
const SLOW: Duration = Duration::from_millis(50);

/// Looking from the start takes one of so many parts of the time.
const SHARE: u32 = 20;

/// The same where it did not end within a statement's limit: the whole lane waits meanwhile.
const SHARE_OF_LATE: u32 = 60;

/// More are looked at from their start.
const MOST_KEYS: usize = 10_000;

#[derive(Debug, Clone, Copy)]
struct Cleared {
    /// Nothing unsettled stood before it.
    place: Position,
    /// Looking from the start took long so often, running.
    slow: u32,
    /// Looking from the place took long so often, running.
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
    /// From then on slow keys are looked at from their start again.
    whole_at: Option<BootInstant>,
    /// What is left of a key is divided into so many parts, of which one is asked about; 0: all of it is.
    parts: i64,
}

impl ClearedKeys {
    /// From where a slow key is to be read.
    pub(super) fn place(&self, key: &str) -> Position {
        self.known.get(key).filter(|cleared| cleared.is_slow()).map_or(Position::START, |cleared| cleared.place)
    }

    /// What is to be asked about a key whose events go up to a place.
    pub(super) fn range(&self, key: &str, before: Position, now: BootInstant) -> (Position, Position) {
        let whole = self.parts == 0 && self.whole_at.is_none_or(|at| now >= at);
        let from = if whole { Position::START } else { self.place(key) };
        let end = if self.parts == 0 { None } else { part(from, before.scheduled_at, self.parts) };
        (from, end.map_or(before, |end| end.min(before)))
    }

    /// What was asked in one statement has been answered.
    pub(super) fn note(
        &mut self,
        asked: &HashMap<String, Asked>,
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
                // The walk is not what is slow.
                (false, false) if slow && self.known.get(key).is_some_and(|known| known.doubts > 0) => {
                    self.known.remove(key);
                }
                (false, false) => self.update(key, |known| (known.place, known.doubts) = (place, u32::from(slow))),
                (true, _) => self.update(key, |known| *known = Cleared { place, slow: known.slow.max(2), doubts: 0 }),
            }
        }
    }

    /// What was asked was not answered in time.
    pub(super) fn note_late(&mut self, asked: &HashMap<String, Asked>, took: Duration, now: BootInstant) {
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
                return;
            }
        }
        change(self.known.entry(key.to_owned()).or_insert(Cleared { place: Position::START, slow: 0, doubts: 0 }));
    }
}
