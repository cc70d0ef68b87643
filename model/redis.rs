//! Redis: the stream and the meta key, as `open.lua` and `publish.lua` change them. A script is one step.
//!
//! The journal is a set of publications for each shard, which settled events leave one by one. In Redis they leave field by
//! field, so later: the model's journal protects less.

use crate::database::Database;
use crate::events::{Event, Publication, Publications};
use crate::rules::Rules;

/// A session's name in one shard; a newer one is greater.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Token {
    pub(crate) epoch: u8,
    pub(crate) counter: u8,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Place {
    pub(crate) owner: Option<Token>,
    /// A batch failed halfway under the token.
    pub(crate) closed: bool,
    pub(crate) sent: Publications,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Stream {
    pub(crate) entries: Publications,
    /// A publication is in it twice.
    pub(crate) twice: bool,
    /// An event is behind a later one of its key.
    pub(crate) overtaken: bool,
}

/// One batch as `publish.lua` receives it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Batch {
    pub(crate) events: Publications,
    /// The token of each shard that the batch has.
    pub(crate) tokens: [Option<Token>; 2],
}

/// A fault in the middle of a batch, before this event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum PublishFault {
    /// An error about the event.
    Refused(Event),
    /// An error about Redis.
    Stopped(Event),
}

impl PublishFault {
    pub(crate) fn at(self) -> Event {
        match self {
            Self::Refused(event) | Self::Stopped(event) => event,
        }
    }
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Reply {
    Sent,
    Closed,
    Stopped { sent: Publications },
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub(crate) struct Redis {
    pub(crate) places: [Place; 2],
    pub(crate) stream: Stream,
}

impl Redis {
    /// Sets the token of a shard if it is newer, and returns its journal; `Err`: the epoch that Redis has.
    pub(crate) fn open(&mut self, shard: usize, token: Token, rules: Rules) -> Result<Publications, u8> {
        let place = &mut self.places[shard];
        match place.owner {
            Some(standing) if standing >= token => Err(standing.epoch),
            _ => {
                (place.owner, place.closed) = (Some(token), false);
                Ok(if rules.journal { place.sent } else { Publications::default() })
            }
        }
    }

    /// Whether the tokens that a batch names are the present ones.
    pub(crate) fn knows(&self, batch: &Batch) -> bool {
        self.places
            .iter()
            .zip(batch.tokens)
            .all(|(place, token)| token.is_none_or(|token| place.owner == Some(token) && !place.closed))
    }

    /// Sends a batch under its tokens, and removes settled events from the journal. The database is read only to check the
    /// order.
    pub(crate) fn publish(
        &mut self,
        batch: &Batch,
        settled: Publications,
        fault: Option<PublishFault>,
        rules: Rules,
        database: &Database,
    ) -> Reply {
        if rules.fencing && !self.knows(batch) {
            return Reply::Closed;
        }
        let mut sent = Publications::default();
        for publication in batch.events.iter() {
            if fault.is_some_and(|fault| fault.at() == publication.event) {
                let places = self.places.iter_mut().zip(batch.tokens);
                places.filter(|(_, token)| token.is_some()).for_each(|(place, _)| place.closed = true);
                return Reply::Stopped { sent };
            }
            self.add(publication, database.row(publication.event).was_failed);
            sent.insert(publication);
        }
        self.drop_settled(settled);
        Reply::Sent
    }

    /// Writes the journal and the entry. A key continues without an event that was failed, which may then come late.
    fn add(&mut self, publication: Publication, may_come_late: bool) {
        self.places[publication.event.shard()].sent.insert(publication);
        let stream = &mut self.stream;
        stream.twice |= stream.entries.contains(publication);
        let later = publication.event.after().map(|event| Publication { event, replay: false });
        let overtaken = later.is_some_and(|later| stream.entries.contains(later));
        stream.overtaken |= overtaken && !publication.replay && !may_come_late;
        stream.entries.insert(publication);
    }

    /// Removes settled events from the journal.
    pub(crate) fn drop_settled(&mut self, settled: Publications) {
        self.places.iter_mut().for_each(|place| place.sent = place.sent.without(settled));
    }
}
