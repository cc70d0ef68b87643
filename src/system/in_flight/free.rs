//! Keys that were free a moment ago: no unsettled event of the key was in the database, except those in flight. Most queries
//! for blockers would find the same again.
//!
//! A free key's event needs no query if its row was visible, and due, when the key was found to be free. What could precede it
//! is then one of three:
//!
//! - an event that was visible too, behind the cursor: the query covered it, so it was in flight. If it is released or rejected,
//!   the key is forgotten, and with its shard's session all keys are;
//! - an event that was visible too, in front of the cursor: fetches return it in order, because the cursor is never beyond an
//!   event that a fetch left out. They do not return retries and failed events so: while the lane has any, no key counts as
//!   free;
//! - an event that was not: it was written, moved or retried after this one was committed, and within the moment. A faster
//!   worker would have sent this one before.

use std::collections::HashMap;
use std::time::Duration;

use crate::clock::BootInstant;
use crate::store::{FetchedRow, Snapshot};

/// How long a key counts as free.
const MOMENT: Duration = Duration::from_millis(250);

/// When more keys are free, all of them are forgotten.
const MOST_KEYS: usize = 10_000;

#[derive(Debug, Clone, Copy)]
struct Free {
    snapshot: Snapshot,
    until: BootInstant,
}

#[derive(Debug, Default)]
pub(super) struct FreeKeys {
    known: HashMap<String, Free>,
    /// How often one or all of them were forgotten.
    forgotten: u64,
}

impl FreeKeys {
    /// Whether nothing can precede the row in its key's order, other than events that are in flight or in the same fetch.
    pub(super) fn has(&self, row: &FetchedRow, now: BootInstant) -> bool {
        let is_old = |Free { snapshot, .. }: &Free| {
            let was_due = row.position.scheduled_at <= snapshot.at;
            was_due && row.version.is_some_and(|version| version.is_before(snapshot.shows_before))
        };
        row.in_range && self.known.get(&row.partition_key).is_some_and(|free| now < free.until && is_old(free))
    }

    /// Notes keys that a query found free. `forgotten`: the number when the query began; a change means that it may be wrong.
    pub(super) fn note(
        &mut self,
        keys: impl Iterator<Item = String>,
        snapshot: Snapshot,
        forgotten: u64,
        now: BootInstant,
    ) {
        if forgotten != self.forgotten {
            return;
        }
        for key in keys {
            if self.known.len() >= MOST_KEYS {
                self.known.clear();
            }
            self.known.insert(key, Free { snapshot, until: now.after(MOMENT) });
        }
    }

    /// Forgets a key: an event of it may be unsettled in the database and not in flight.
    pub(super) fn forget_key(&mut self, key: &str) {
        self.known.remove(key);
        self.forgotten += 1;
    }

    /// Forgets all keys.
    pub(super) fn forget(&mut self) {
        self.known.clear();
        self.forgotten += 1;
    }

    pub(super) fn forgotten(&self) -> u64 {
        self.forgotten
    }
}
