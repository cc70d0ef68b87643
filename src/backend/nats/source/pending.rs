//! The deliveries of this process that are not answered for.

use std::collections::HashMap;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::Subject;
use chrono::{DateTime, Utc};

use crate::backend::event_source::{EntryId, EntryRef};
use crate::clock::BootInstant;

/// How long an entry is known that is not renewed any more: its acknowledgement may still come.
const KNOWN_FOR: Duration = Duration::from_secs(3_600);

#[derive(Debug, Clone)]
pub(super) struct PendingEntry {
    /// Where it is answered for.
    pub(super) reply: Subject,
    /// The message in the stream of events that it was at first.
    pub(super) origin: EntryId,
    /// The tries that are recorded; `None`: there is no record.
    pub(super) recorded: Option<u32>,
    /// When the server's consumer was created that delivered it.
    pub(super) of: DateTime<Utc>,
    /// When a call began by which the server has noted that this process has it.
    pub(super) confirmed: BootInstant,
}

#[derive(Default)]
pub(super) struct Pending(Mutex<HashMap<EntryRef, PendingEntry>>);

impl Pending {
    fn entries(&self) -> MutexGuard<'_, HashMap<EntryRef, PendingEntry>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a delivery, and forgets entries that were not asked for in a long time.
    pub(super) fn add(&self, entry: EntryRef, pending: PendingEntry) {
        let mut entries = self.entries();
        if entries.len() == entries.capacity() {
            let now = pending.confirmed;
            entries.retain(|_, known| now.since(known.confirmed) < KNOWN_FOR);
        }
        entries.insert(entry, pending);
    }

    /// An entry that no other consumer can have.
    pub(super) fn get(&self, entry: EntryRef, now: BootInstant, reclaim_after: Duration) -> Option<PendingEntry> {
        self.any(entry).filter(|pending| now.since(pending.confirmed) < reclaim_after)
    }

    /// An entry, also if another consumer may have it now.
    pub(super) fn any(&self, entry: EntryRef) -> Option<PendingEntry> {
        self.entries().get(&entry).cloned()
    }

    pub(super) fn confirm(&self, entry: EntryRef, asked: BootInstant) {
        if let Some(pending) = self.entries().get_mut(&entry) {
            pending.confirmed = pending.confirmed.max(asked);
        }
    }

    pub(super) fn note_tries(&self, entry: EntryRef, tries: u32) {
        if let Some(pending) = self.entries().get_mut(&entry) {
            pending.recorded = Some(tries);
        }
    }

    pub(super) fn remove(&self, entry: EntryRef) {
        self.entries().remove(&entry);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ORIGIN: EntryId = EntryId { millis: 1, number: 7 };

    fn pending_entry(confirmed: BootInstant) -> PendingEntry {
        let reply = Subject::from("$JS.ACK.S.g.1.7.1.1.0");
        PendingEntry { reply, origin: ORIGIN, recorded: None, of: DateTime::UNIX_EPOCH, confirmed }
    }

    #[test]
    fn an_entry_that_was_not_renewed_in_time_may_be_another_consumers() {
        let (pending, now) = (Pending::default(), BootInstant::now());
        let entry = EntryRef { stream: 0, id: ORIGIN };
        pending.add(entry, pending_entry(now));
        let (term, second) = (Duration::from_secs(10), Duration::from_secs(1));
        assert!(pending.get(entry, now.after(9 * second), term).is_some());
        assert!(pending.get(entry, now.after(10 * second), term).is_none());
        pending.confirm(entry, now.after(5 * second));
        assert!(pending.get(entry, now.after(14 * second), term).is_some());
        assert!(pending.any(entry).is_some(), "its acknowledgement still counts");
        pending.remove(entry);
        assert!(pending.any(entry).is_none());
    }

    #[test]
    fn entries_that_are_not_asked_for_are_forgotten() {
        let (pending, now) = (Pending::default(), BootInstant::now());
        let mut most = 0;
        for number in 0..10_000_u64 {
            let entry = EntryRef { stream: 0, id: EntryId { millis: 1, number } };
            let confirmed = now.after(Duration::from_secs(60) * u32::try_from(number).unwrap());
            pending.add(entry, pending_entry(confirmed));
            most = most.max(pending.entries().len());
        }
        assert!(most < 1_000, "{most} entries");
    }
}
