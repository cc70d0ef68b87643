//! A worker's memory of deliveries in flight: `src/system/in_flight`, rules R1 to R3.

use crate::database::FetchedRow;
use crate::events::{Event, Publication};
use crate::redis::Token;
use crate::rules::Rules;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum DeliveryState {
    Queued,
    Accepted,
    Rejected,
    /// Accepted, and the database refuses to record it.
    Unrecorded,
    /// Recorded, and kept only until the reads that were under way have ended.
    Settled {
        blocks: bool,
        until: Reading,
    },
}

/// Reads under way (R2).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Reading {
    pub(crate) fetch: bool,
    /// Rows of events that an open found in the journal.
    pub(crate) look_up: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Entry {
    pub(crate) row: FetchedRow,
    /// The open under which it was read; `None`: found in a journal. An open is identified by its token.
    pub(crate) session: Option<Token>,
    /// The lease's epoch, for the settle.
    pub(crate) epoch: u8,
    pub(crate) state: DeliveryState,
    pub(crate) blocked: bool,
}

impl Entry {
    /// Whether later events of its key must wait.
    fn blocks(&self) -> bool {
        self.blocked || matches!(self.state, DeliveryState::Rejected | DeliveryState::Settled { blocks: true, .. })
    }
}

/// The rows of a fetch, and what it found before them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Fetch {
    /// The shards as they were open when it began (R1).
    pub(crate) open: [Option<Token>; 2],
    pub(crate) rows: [Option<FetchedRow>; 3],
    /// `None`: the rows are read, and their key must still be queried.
    pub(crate) asked: Option<Asked>,
}

/// The database's answer for the rows' key, from a later snapshot than theirs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Asked {
    /// The last event that was queried.
    pub(crate) up_to: Option<Event>,
    /// An unsettled event precedes it (R3).
    pub(crate) blocked: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct InFlight {
    pub(crate) open: [Option<Token>; 2],
    entries: [Option<Entry>; 3],
}

impl InFlight {
    pub(crate) fn entry(&self, event: Event) -> Option<&Entry> {
        self.entries[event as usize].as_ref()
    }

    fn entry_mut(&mut self, event: Event) -> Option<&mut Entry> {
        self.entries[event as usize].as_mut()
    }

    pub(crate) fn in_stage(&self, state: DeliveryState) -> impl Iterator<Item = (Event, &Entry)> {
        let entries = Event::ALL.into_iter().filter_map(|event| Some((event, self.entry(event)?)));
        entries.filter(move |(_, entry)| entry.state == state)
    }

    /// Whether any delivery of a shard is unfinished.
    pub(crate) fn is_busy(&self, shard: usize, rules: Rules) -> bool {
        let of_shard = Event::ALL.into_iter().filter(|event| event.shard() == shard);
        of_shard.filter_map(|event| self.entry(event)).any(|entry| match entry.state {
            DeliveryState::Settled { .. } => false,
            DeliveryState::Unrecorded => !rules.unrecorded_is_idle,
            _ => true,
        })
    }

    /// For R3: events in flight do not count as preceding others.
    pub(crate) fn on_its_way(&self, event: Event) -> bool {
        self.entry(event).is_some_and(|entry| !entry.blocks())
    }

    /// Admits rows that can be sent; returns them in order.
    pub(crate) fn admit(&mut self, fetch: &Fetch, rules: Rules) -> Vec<Event> {
        let mut admitted = Vec::new();
        let Some(asked) = fetch.asked else { return admitted };
        for row in fetch.rows.iter().flatten() {
            let event = row.publication.event;
            let session = self.open[event.shard()];
            let same = session.is_some() && fetch.open[event.shard()] == session;
            let Some(session) = session.filter(|_| same || !rules.r1) else { continue };
            if self.entry(event).is_some() || rules.r3 && self.waits(event, session, asked) {
                continue;
            }
            let entry = Entry {
                row: *row,
                session: Some(session),
                epoch: session.epoch,
                state: DeliveryState::Queued,
                blocked: false,
            };
            self.entries[event as usize] = Some(entry);
            admitted.push(event);
        }
        admitted
    }

    fn waits(&self, event: Event, session: Token, Asked { up_to, blocked }: Asked) -> bool {
        // In flight when the query was made, and released since.
        if event.has_key() && up_to.is_none_or(|last| last < event) {
            return true;
        }
        event.before().is_some_and(|before| {
            let behind_another_session = self
                .entry(before)
                .is_some_and(|entry| entry.state == DeliveryState::Queued && entry.session != Some(session));
            blocked || self.is_blocked(event) || behind_another_session
        })
    }

    /// Whether a rejected event precedes this one in its key's order, or did until a moment ago.
    pub(crate) fn is_blocked(&self, event: Event) -> bool {
        self.entry(event).is_some_and(|entry| entry.blocked)
            || event.before().and_then(|before| self.entry(before)).is_some_and(Entry::blocks)
    }

    /// What blocks this row of a journal: the event that it replays, or its own settle, which another worker has overtaken.
    pub(crate) fn obstacle_to(&self, row: &FetchedRow, rules: Rules) -> Option<Publication> {
        let entry = self.entry(row.publication.event)?;
        let replayed = entry.row.publication != row.publication && rules.replays_wait;
        let settled = matches!(entry.state, DeliveryState::Settled { .. }) && rules.settled_waits;
        (replayed || settled).then_some(entry.row.publication)
    }

    pub(crate) fn has(&self, publication: Publication) -> bool {
        self.entry(publication.event).is_some_and(|entry| entry.row.publication == publication)
    }

    /// Admits an event that an open found in the journal, as accepted; an event that is in flight already stays as it is.
    pub(crate) fn adopt(&mut self, row: FetchedRow, epoch: u8) {
        let event = row.publication.event;
        match self.entry_mut(event) {
            Some(entry) if entry.state == DeliveryState::Queued => entry.state = DeliveryState::Accepted,
            Some(_) => {}
            None => {
                let entry = Entry { row, session: None, epoch, state: DeliveryState::Accepted, blocked: false };
                self.entries[event as usize] = Some(entry);
            }
        }
    }

    pub(crate) fn set_stage(&mut self, event: Event, state: DeliveryState) {
        if let Some(entry) = self.entry_mut(event) {
            entry.state = state;
        }
    }

    /// Notes that the database has it. It stays until these reads are over (R2).
    pub(crate) fn settle(&mut self, event: Event, blocks: bool, until: Reading) {
        self.set_stage(event, DeliveryState::Settled { blocks, until });
        if blocks
            && let Some(later) = event.after().and_then(|later| self.entry_mut(later))
            && matches!(later.state, DeliveryState::Queued | DeliveryState::Accepted)
        {
            later.blocked = true;
        }
        self.end_reading(Reading { fetch: false, look_up: false });
    }

    /// Notes that these reads are over.
    pub(crate) fn end_reading(&mut self, over: Reading) {
        for entry in &mut self.entries {
            if let Some(Entry { state: DeliveryState::Settled { until, .. }, .. }) = entry {
                until.fetch &= !over.fetch;
                until.look_up &= !over.look_up;
                if *until == Reading::default() {
                    *entry = None;
                }
            }
        }
    }

    /// Releases an event that was not sent, or whose outcome is unknown until the next open.
    pub(crate) fn release(&mut self, event: Event, rules: Rules) {
        let Some(entry) = self.entries[event as usize].take() else { return };
        let overtaken = event.has_key() && !entry.blocked && !self.is_blocked(event);
        let refused = entry.state == DeliveryState::Rejected && rules.refused_closes;
        if entry.state == DeliveryState::Accepted || refused || overtaken {
            self.open[event.shard()] = None;
        }
    }
}
