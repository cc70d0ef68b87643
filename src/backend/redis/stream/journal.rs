//! This session's part of the meta key, and which of its events the database has by now.

use std::collections::HashMap;
use std::collections::hash_map::Entry::{Occupied, Vacant};

use foldhash::fast::RandomState;
use uuid::Uuid;

use crate::backend::journal::{ENTRY, SentEvent, parse, push};
use crate::fault_injection::{self, ProtocolRule};
use crate::store::Shard;

/// A shard in the names of fields.
pub(super) fn place(shard: &Shard) -> String {
    format!("{}/{}", shard.lane, shard.number)
}

/// The journal of the shards that this session has open.
#[derive(Default)]
pub(super) struct Journal {
    sessions: HashMap<Shard, Session>,
    /// Fields with events that the database does not have yet, by a number that is cheaper to look up than their names.
    fields: HashMap<u64, Field, RandomState>,
    numbered: u64,
    /// Those events, each with the field that names it.
    unsettled: HashMap<SentEvent, u64, RandomState>,
    /// Further fields of events that several fields name, as fields of earlier sessions may.
    named_twice: Vec<(SentEvent, u64)>,
    /// Fields whose events are all settled.
    settled: Vec<String>,
}

struct Session {
    owner: String,
    token: String,
    /// The names of this session's fields up to their number.
    prefix: String,
    next: u64,
}

struct Field {
    name: String,
    shard: Shard,
    /// Number of its events that the database does not have yet.
    left: usize,
}

/// The part of a batch in one shard.
pub(super) struct JournalField {
    pub(super) owner: String,
    pub(super) token: String,
    pub(super) field: String,
    pub(super) value: Vec<u8>,
    shard: Shard,
}

impl Journal {
    /// Notes that the session has opened a shard; the content of Redis replaces what was known of it.
    pub(super) fn open(&mut self, outbox: Uuid, shard: &Shard, epoch: i64, counter: i64) {
        self.forget(shard);
        let place = place(shard);
        let session = Session {
            owner: format!("owner/{outbox}/{place}"),
            token: format!("{epoch}:{counter}"),
            prefix: format!("sent/{outbox}/{place}/{epoch}.{counter}/"),
            next: 0,
        };
        self.sessions.insert(shard.clone(), session);
    }

    fn forget(&mut self, shard: &Shard) {
        let Self { fields, unsettled, named_twice, .. } = self;
        let before = fields.len();
        fields.retain(|_, field| field.shard != *shard);
        if fields.len() < before {
            named_twice.retain(|(_, field)| fields.contains_key(field));
            unsettled.retain(|_, field| fields.contains_key(field));
        }
    }

    /// Adds a field of an earlier session; returns what that sent.
    pub(super) fn inherit(&mut self, field: &str, value: &[u8]) -> Vec<(Shard, Uuid, i64)> {
        let Some(shard) = self.sessions.keys().find(|shard| belongs_to(field, shard)).cloned() else {
            return Vec::new();
        };
        let events = parse(value);
        self.remember(field.to_owned(), shard.clone(), &events);
        events.into_iter().map(|(id, seq)| (shard.clone(), id, seq)).collect()
    }

    pub(super) fn close(&mut self, shards: &[Shard]) {
        for shard in shards {
            self.sessions.remove(shard);
        }
    }

    pub(super) fn close_all(&mut self) {
        self.sessions.clear();
    }

    /// The journal entries of a batch; `None` if one of its shards is not open.
    pub(super) fn entries(
        &mut self,
        shards: &[&Shard],
        events: impl Iterator<Item = (usize, Uuid, i64)>,
    ) -> Option<Vec<JournalField>> {
        if !shards.iter().all(|shard| self.sessions.contains_key(*shard)) {
            return None;
        }
        let mut entries: Vec<JournalField> = shards
            .iter()
            .filter_map(|shard| {
                let session = self.sessions.get_mut(*shard)?;
                session.next += 1;
                Some(JournalField {
                    owner: session.owner.clone(),
                    token: session.token.clone(),
                    field: format!("{}{}", session.prefix, session.next),
                    value: Vec::new(),
                    shard: (*shard).clone(),
                })
            })
            .collect();
        for (shard, id, seq) in events.filter(|_| !fault_injection::is_off(ProtocolRule::Journal)) {
            push(&mut entries[shard].value, (id, seq));
        }
        Some(entries)
    }

    /// Notes that a batch was sent.
    pub(super) fn record(&mut self, entries: Vec<JournalField>) {
        for entry in entries {
            let events = parse(&entry.value);
            self.remember(entry.field, entry.shard, &events);
        }
    }

    /// Notes that only the first few events of each shard were sent.
    pub(super) fn record_first(&mut self, mut entries: Vec<JournalField>, counts: &[usize]) {
        for (entry, count) in entries.iter_mut().zip(counts) {
            entry.value.truncate(count * ENTRY);
        }
        entries.retain(|entry| !entry.value.is_empty());
        self.record(entries);
    }

    fn remember(&mut self, name: String, shard: Shard, events: &[SentEvent]) {
        if events.is_empty() {
            return self.settled.push(name);
        }
        self.numbered += 1;
        let number = self.numbered;
        for event in events {
            match self.unsettled.entry(*event) {
                Vacant(place) => {
                    place.insert(number);
                }
                Occupied(_) => self.named_twice.push((*event, number)),
            }
        }
        self.fields.insert(number, Field { name, shard, left: events.len() });
    }

    /// Notes that the database has these events.
    pub(super) fn settle(&mut self, events: &[SentEvent]) {
        for event in events {
            if let Some(number) = self.unsettled.remove(event) {
                self.settle_one_of(number);
            }
            let again = self.named_twice.extract_if(.., |(other, _)| other == event).map(|(_, number)| number);
            let again: Vec<u64> = again.collect();
            again.into_iter().for_each(|number| self.settle_one_of(number));
        }
    }

    fn settle_one_of(&mut self, number: u64) {
        let Some(field) = self.fields.get_mut(&number) else { return };
        field.left = field.left.saturating_sub(1);
        if field.left == 0
            && let Some(field) = self.fields.remove(&number)
        {
            self.settled.push(field.name);
        }
    }

    /// The fields to remove from Redis.
    pub(super) fn take_settled(&mut self) -> Vec<String> {
        std::mem::take(&mut self.settled)
    }

    /// Puts fields back because removing them failed, or may have failed: removing them again does no harm.
    pub(super) fn put_back_settled(&mut self, fields: Vec<String>) {
        self.settled.extend(fields);
    }
}

/// Whether a field is `sent/<outbox>/<lane>/<shard>/…`.
fn belongs_to(field: &str, shard: &Shard) -> bool {
    let mut parts = field.split('/').skip(2);
    parts.next() == Some(shard.lane.as_ref()) && parts.next().and_then(|n| n.parse().ok()) == Some(shard.number)
}
