//! A worker's memory of what is on its way: `src/system/flight`, rules R1 to R3.

use crate::database::Fetched;
use crate::events::{Event, Publication};
use crate::redis::Token;
use crate::rules::Rules;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    Queued,
    Accepted,
    Rejected,
    /// Recorded, kept only until the fetch under way is over.
    Settled {
        blocks: bool,
    },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Entry {
    pub(crate) row: Fetched,
    /// Read under this open; `None`: found in a journal. An open is told by the token that it had.
    pub(crate) opening: Option<Token>,
    /// The lease's, for the settle.
    pub(crate) epoch: u8,
    pub(crate) stage: Stage,
    pub(crate) barred: bool,
}

impl Entry {
    /// Whether later events of its key have to wait.
    fn blocks(&self) -> bool {
        self.barred || matches!(self.stage, Stage::Rejected | Stage::Settled { blocks: true })
    }
}

/// What a fetch has brought, and what it found before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) struct Fetch {
    /// The shards as they were open when it began (R1).
    pub(crate) open: [Option<Token>; 2],
    pub(crate) rows: [Option<Fetched>; 3],
    /// Something unsettled stands before the later event of the key (R3).
    pub(crate) blocked: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Flight {
    pub(crate) open: [Option<Token>; 2],
    entries: [Option<Entry>; 3],
}

impl Flight {
    pub(crate) fn entry(&self, event: Event) -> Option<&Entry> {
        self.entries[event as usize].as_ref()
    }

    fn entry_mut(&mut self, event: Event) -> Option<&mut Entry> {
        self.entries[event as usize].as_mut()
    }

    pub(crate) fn in_stage(&self, stage: Stage) -> impl Iterator<Item = (Event, &Entry)> {
        let entries = Event::ALL.into_iter().filter_map(|event| Some((event, self.entry(event)?)));
        entries.filter(move |(_, entry)| entry.stage == stage)
    }

    /// Whether anything of a shard is still on its way.
    pub(crate) fn is_busy(&self, shard: usize) -> bool {
        let of_shard = Event::ALL.into_iter().filter(|event| event.shard() == shard);
        of_shard.filter_map(|event| self.entry(event)).any(|entry| !matches!(entry.stage, Stage::Settled { .. }))
    }

    /// For R3: events that are on their way do not count as standing before others.
    pub(crate) fn on_its_way(&self, event: Event) -> bool {
        self.entry(event).is_some_and(|entry| !entry.blocks())
    }

    /// Takes those rows into flight that may go; returns them in their order.
    pub(crate) fn admit(&mut self, fetch: &Fetch, rules: Rules) -> Vec<Event> {
        let mut admitted = Vec::new();
        for row in fetch.rows.iter().flatten() {
            let event = row.publication.event;
            let opening = self.open[event.shard()];
            let same = opening.is_some() && fetch.open[event.shard()] == opening;
            let Some(opening) = opening.filter(|_| same || !rules.r1) else { continue };
            if self.entry(event).is_some() || rules.r3 && self.waits(event, opening, fetch.blocked) {
                continue;
            }
            let entry =
                Entry { row: *row, opening: Some(opening), epoch: opening.epoch, stage: Stage::Queued, barred: false };
            self.entries[event as usize] = Some(entry);
            admitted.push(event);
        }
        admitted
    }

    fn waits(&self, event: Event, opening: Token, blocked: bool) -> bool {
        event.before().is_some_and(|before| {
            let behind_another_session =
                self.entry(before).is_some_and(|entry| entry.stage == Stage::Queued && entry.opening != Some(opening));
            blocked || self.is_blocked(event) || behind_another_session
        })
    }

    /// Whether a refused event stands, or stood a moment ago, before this one in its key's order.
    pub(crate) fn is_blocked(&self, event: Event) -> bool {
        self.entry(event).is_some_and(|entry| entry.barred)
            || event.before().and_then(|before| self.entry(before)).is_some_and(Entry::blocks)
    }

    /// What this row replays, where that is still in flight.
    pub(crate) fn replayed_by(&self, row: &Fetched) -> Option<Publication> {
        let entry = self.entry(row.publication.event)?;
        (entry.row.publication != row.publication).then_some(entry.row.publication)
    }

    pub(crate) fn has(&self, publication: Publication) -> bool {
        self.entry(publication.event).is_some_and(|entry| entry.row.publication == publication)
    }

    /// Takes what an open found in the journal into flight as accepted; what is in flight already stays as it is.
    pub(crate) fn adopt(&mut self, row: Fetched, epoch: u8) {
        let event = row.publication.event;
        match self.entry_mut(event) {
            Some(entry) if entry.stage == Stage::Queued => entry.stage = Stage::Accepted,
            Some(_) => {}
            None => {
                let entry = Entry { row, opening: None, epoch, stage: Stage::Accepted, barred: false };
                self.entries[event as usize] = Some(entry);
            }
        }
    }

    pub(crate) fn set_stage(&mut self, event: Event, stage: Stage) {
        if let Some(entry) = self.entry_mut(event) {
            entry.stage = stage;
        }
    }

    /// The database has it. `kept`: a fetch is under way, until whose end it stays (R2).
    pub(crate) fn settle(&mut self, event: Event, blocks: bool, kept: bool) {
        self.set_stage(event, Stage::Settled { blocks });
        if blocks
            && let Some(later) = event.after().and_then(|later| self.entry_mut(later))
            && matches!(later.stage, Stage::Queued | Stage::Accepted)
        {
            later.barred = true;
        }
        if !kept {
            self.entries[event as usize] = None;
        }
    }

    /// The fetch is over.
    pub(crate) fn release(&mut self) {
        for entry in &mut self.entries {
            *entry = entry.filter(|entry| !matches!(entry.stage, Stage::Settled { .. }));
        }
    }

    /// It was not sent, or its fate is not known and the next open will tell.
    pub(crate) fn give_back(&mut self, event: Event) {
        let Some(entry) = self.entries[event as usize].take() else { return };
        let overtaken = event.has_key() && !entry.barred && !self.is_blocked(event);
        if entry.stage == Stage::Accepted || overtaken {
            self.open[event.shard()] = None;
        }
    }
}
