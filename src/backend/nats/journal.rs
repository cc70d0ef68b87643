//! The journals of the shards that a session has open, each the last message on a subject of its own.

use std::collections::{HashMap, HashSet};

use async_nats::HeaderMap;
use async_nats::header::NATS_EXPECTED_LAST_SUBJECT_SEQUENCE;
use bytes::Bytes;
use foldhash::fast::RandomState;
use uuid::Uuid;

use super::message::Message;
use super::subject;
use crate::backend::journal::{self, SentEvent};
use crate::fault_injection::{self, ProtocolRule};
use crate::store::Shard;

/// The token of the session that wrote a journal.
pub(super) const TOKEN: &str = "Outbox-Token";

/// Removes the earlier messages of the same subject.
const ROLLUP: &str = "Nats-Rollup";

/// The lease epoch, then the number of the open.
pub(super) type Token = (i64, i64);

/// What a shard's subject holds.
#[derive(Debug, Default)]
pub(super) struct Standing {
    /// The message's sequence; 0: there is none.
    pub(super) sequence: u64,
    pub(super) token: Option<Token>,
    pub(super) sent: Vec<SentEvent>,
}

#[derive(Default)]
pub(super) struct Journal {
    shards: HashMap<Shard, OpenShard>,
    /// The shard of each event that the database may not have.
    shard_of: HashMap<SentEvent, Shard, RandomState>,
}

struct OpenShard {
    subject: String,
    token: Token,
    /// The sequence of the last message; only a session that knows it can write the next.
    last: u64,
    unsettled: HashSet<SentEvent, RandomState>,
    /// The stream still names events that are settled.
    is_stale: bool,
}

impl Journal {
    /// Notes that a shard is open, by a message with this sequence that names these events.
    pub(super) fn open(
        &mut self,
        stream: &str,
        outbox: Uuid,
        shard: &Shard,
        token: Token,
        last: u64,
        sent: &[SentEvent],
    ) {
        self.forget(shard);
        self.shard_of.extend(sent.iter().map(|event| (*event, shard.clone())));
        let subject = subject::of_journal(stream, outbox, shard);
        let unsettled = sent.iter().copied().collect();
        self.shards.insert(shard.clone(), OpenShard { subject, token, last, unsettled, is_stale: false });
    }

    fn forget(&mut self, shard: &Shard) {
        let Some(open) = self.shards.remove(shard) else { return };
        for event in open.unsettled {
            self.shard_of.remove(&event);
        }
    }

    pub(super) fn close_all(&mut self) {
        self.shards.clear();
        self.shard_of.clear();
    }

    pub(super) fn close<'s>(&mut self, shards: impl IntoIterator<Item = &'s Shard>) {
        shards.into_iter().for_each(|shard| self.forget(shard));
    }

    pub(super) fn is_open(&self, shard: &Shard) -> bool {
        self.shards.contains_key(shard)
    }

    /// The message that names what a shard has sent, and these events.
    pub(super) fn message(&self, shard: &Shard, also: impl Iterator<Item = SentEvent>) -> Option<Message> {
        let open = self.shards.get(shard)?;
        let also = also.filter(|_| !fault_injection::is_off(ProtocolRule::Journal));
        let mut value = Vec::with_capacity((open.unsettled.len() + 16) * journal::ENTRY);
        open.unsettled.iter().copied().chain(also).for_each(|event| journal::push(&mut value, event));
        Some(message(open.subject.clone(), open.token, open.last, value))
    }

    /// Notes that a shard's message was stored with this sequence, naming these events too.
    pub(super) fn record(&mut self, shard: &Shard, sequence: u64, also: impl Iterator<Item = SentEvent>) {
        let Some(open) = self.shards.get_mut(shard) else { return };
        open.last = sequence;
        open.is_stale = false;
        for event in also {
            open.unsettled.insert(event);
            self.shard_of.insert(event, shard.clone());
        }
    }

    /// Notes that the database has these events.
    pub(super) fn settle(&mut self, events: &[SentEvent]) {
        for event in events {
            let Some(open) = self.shard_of.remove(event).and_then(|shard| self.shards.get_mut(&shard)) else {
                continue;
            };
            open.is_stale |= open.unsettled.remove(event);
        }
    }

    /// The open shards whose message names events that are settled.
    pub(super) fn stale(&self) -> Vec<Shard> {
        self.shards.iter().filter(|(_, open)| open.is_stale).map(|(shard, _)| shard.clone()).collect()
    }
}

/// A journal's message behind the one with this sequence, which it replaces.
pub(super) fn message(subject: String, (epoch, counter): Token, last: u64, value: Vec<u8>) -> Message {
    let mut headers = HeaderMap::new();
    if !fault_injection::is_off(ProtocolRule::Fencing) {
        headers.insert(NATS_EXPECTED_LAST_SUBJECT_SEQUENCE, last.to_string());
    }
    headers.insert(ROLLUP, "sub");
    headers.insert(TOKEN, format!("{epoch}:{counter}"));
    Message { subject, headers, payload: Bytes::from(value) }
}

/// Reads a token; `None` if it is none.
pub(super) fn token(text: &str) -> Option<Token> {
    let (epoch, counter) = text.split_once(':')?;
    Some((epoch.parse().ok()?, counter.parse().ok()?))
}
