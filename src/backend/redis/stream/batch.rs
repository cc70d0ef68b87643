//! A batch of events as the publish script receives it, and the outcome of each.

use std::collections::{HashMap, HashSet};

use redis::Cmd;
use uuid::Uuid;

use super::entry::{self, EntryFields};
use super::errors;
use super::streams::BatchStreams;
use crate::backend::session::{BatchResult, OutgoingEvent, SendResult, Unavailable};
use crate::store::Shard;

pub(crate) struct EncodedBatch<'a> {
    outgoing: &'a [OutgoingEvent],
    answers: Vec<SendResult>,
    /// The events that could be encoded: index, index of the shard, fields.
    entries: Vec<Entry<'a>>,
    shards: Vec<&'a Shard>,
    streams: &'a BatchStreams,
    /// The indices of events with a pair of `publisher_config` that the entry leaves out.
    ignoring_seq: Vec<usize>,
}

struct Entry<'a> {
    index: usize,
    shard: usize,
    stream: usize,
    fields: Vec<entry::Field<'a>>,
}

impl<'a> EncodedBatch<'a> {
    /// Encodes the events; one that cannot be encoded holds back the later ones of its key.
    pub(crate) fn encode(outgoing: &'a [OutgoingEvent], streams: &'a BatchStreams) -> Self {
        let (answers, entries) = (vec![SendResult::NotSent; outgoing.len()], Vec::with_capacity(outgoing.len()));
        let mut batch = Self { outgoing, answers, entries, shards: Vec::new(), streams, ignoring_seq: Vec::new() };
        let mut blocked: HashSet<&str> = HashSet::new();
        let mut indices: HashMap<(&str, i16), usize> = HashMap::new();
        for (index, outgoing_event) in outgoing.iter().enumerate() {
            let key = outgoing_event.event.partition_key.as_str();
            if !key.is_empty() && blocked.contains(key) {
                continue;
            }
            let stream = streams.place(index).map_err(str::to_owned);
            match stream.and_then(|stream| Ok((stream, entry::entry_fields(&outgoing_event.event)?))) {
                Ok((stream, EntryFields { fields, ignores_seq })) => {
                    batch.ignoring_seq.extend(ignores_seq.then_some(index));
                    let place = (&*outgoing_event.shard.lane, outgoing_event.shard.number);
                    let shard = *indices.entry(place).or_insert_with(|| {
                        batch.shards.push(&outgoing_event.shard);
                        batch.shards.len() - 1
                    });
                    batch.entries.push(Entry { index, shard, stream, fields });
                }
                Err(reason) => {
                    batch.answers[index] = SendResult::Invalid(reason);
                    blocked.insert(key);
                }
            }
        }
        batch
    }

    /// The events whose pair named `seq` is left out.
    pub(super) fn ignoring_seq(&self) -> impl Iterator<Item = &'a OutgoingEvent> {
        self.ignoring_seq.iter().map(|index| &self.outgoing[*index])
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn shards(&self) -> &[&'a Shard] {
        &self.shards
    }

    /// Each event's shard and identity, in order.
    pub(super) fn events(&self) -> impl Iterator<Item = (usize, Uuid, i64)> {
        self.entries.iter().map(|entry| {
            let event = &self.outgoing[entry.index].event;
            (entry.shard, event.id, event.seq)
        })
    }

    /// The approximate number of bytes that it writes.
    pub(super) fn bytes(&self) -> usize {
        let fields = self.entries.iter().flat_map(|entry| &entry.fields);
        fields.map(|(name, value)| name.len() + value.len()).sum::<usize>() + 8 * self.entries.len()
    }

    /// Adds the keys: the stream, the meta key, and further streams.
    pub(super) fn write_keys(&self, stream: &str, meta: &str, request: &mut Cmd) {
        let further = self.streams.names.get(1..).unwrap_or_default();
        let first = self.streams.names.first().map_or(stream, String::as_str);
        request.arg(2 + further.len()).arg(first).arg(meta).arg(further);
    }

    pub(crate) fn write_to(&self, request: &mut Cmd) {
        let has_further_streams = self.streams.names.len() > 1;
        for entry in &self.entries {
            request.arg(entry.shard + 1).arg(entry.fields.len() * 2);
            if has_further_streams {
                // The second key is the meta key.
                request.arg(if entry.stream == 0 { 1 } else { entry.stream + 2 });
            }
            for (name, value) in &entry.fields {
                request.arg(name.as_bytes()).arg(value.as_bytes());
            }
        }
    }

    /// How many of the first `count` events each shard has.
    pub(super) fn first_of_each_shard(&self, count: usize) -> Vec<usize> {
        let mut counts = vec![0; self.shards.len()];
        for entry in self.entries.iter().take(count) {
            counts[entry.shard] += 1;
        }
        counts
    }

    /// Notes that the first `count` events are in the stream.
    pub(super) fn accept(&mut self, count: usize) {
        for entry in self.entries.iter().take(count) {
            self.answers[entry.index] = SendResult::Accepted;
        }
    }

    /// Notes that the event after the first `count` met an error; returns it if it is about Redis, not about the event.
    pub(super) fn fail(&mut self, count: usize, error: &str) -> Option<Unavailable> {
        let is_about_its_stream = self.streams.are_independent && errors::is_about_the_key(error);
        if (errors::is_about_the_event(error) || is_about_its_stream)
            && let Some(entry) = self.entries.get(count)
        {
            self.answers[entry.index] = SendResult::Rejected(format!("Redis: {error}"));
            return None;
        }
        Some(errors::of_a_script(error))
    }

    pub(super) fn into_sent(self, unavailable: Option<Unavailable>, closed: Vec<Shard>) -> BatchResult {
        BatchResult { answers: self.answers, unavailable, closed }
    }
}
