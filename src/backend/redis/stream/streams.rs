//! The streams of a publisher: one, its partitions, or by template one for each name, which the meta key lists.

use std::collections::{HashMap, HashSet};

use redis::Cmd;

use super::{REGISTER, RedisStream, errors};
use crate::backend::session::{OutgoingEvent, Unavailable};
use crate::event::OutboxEvent;
use crate::settings::PublisherSettings;
use crate::settings::name_template::NameTemplate;
use crate::settings::partitions::partition_name;
use crate::store::shard_of;

/// What the names of the meta key's fields begin with, for each stream.
pub(super) const FIELD: &str = "stream/";

/// Where the events of a publisher go.
pub(super) enum Streams {
    One(String),
    /// Events are spread among these by their keys.
    Partitions(Vec<String>),
    ByTemplate {
        template: NameTemplate,
        /// The most that all workers together may write to; 0: no limit.
        most: u64,
        /// Those that the meta key lists, as far as this session knows.
        listed: HashSet<String>,
    },
}

/// The streams of one batch.
#[derive(Default)]
pub(crate) struct BatchStreams {
    /// Empty: all events go to the publisher's one stream.
    pub(super) names: Vec<String>,
    /// Whether a key that is not a stream concerns the events of that stream alone.
    pub(super) are_independent: bool,
    /// Of each event, the index of its stream or why it has none.
    places: Vec<Result<usize, String>>,
}

impl Streams {
    pub(super) fn new(settings: &PublisherSettings) -> Self {
        let template = NameTemplate::new(&settings.stream_name);
        if !template.is_fixed() {
            return Self::ByTemplate { template, most: settings.max_streams, listed: HashSet::new() };
        }
        match (template.pattern(), settings.partitions) {
            (name, ..2) => Self::One(name),
            (name, partitions) => Self::Partitions((0..partitions).map(|n| partition_name(&name, n)).collect()),
        }
    }

    /// The streams that the settings alone determine; none if they are by template.
    pub(super) fn fixed(&self) -> &[String] {
        match self {
            Self::One(stream) => std::slice::from_ref(stream),
            Self::Partitions(partitions) => partitions,
            Self::ByTemplate { .. } => &[],
        }
    }

    /// The one stream; empty if there are several.
    pub(super) fn only(&self) -> &str {
        match self {
            Self::One(stream) => stream,
            Self::Partitions(_) | Self::ByTemplate { .. } => "",
        }
    }

    /// Forgets what an earlier session knew.
    pub(super) fn forget(&mut self) {
        if let Self::ByTemplate { listed, .. } = self {
            listed.clear();
        }
    }

    /// Adds the keys of a script that does not write to streams: fixed streams are named for their rights and their slot.
    pub(super) fn add_keys(&self, meta: &str, request: &mut Cmd) {
        request.arg(1 + self.fixed().len()).arg(meta).arg(self.fixed());
    }
}

/// The stream that a publisher's settings name for an event; `None` if the name would be empty.
#[cfg(feature = "consumer")]
pub(crate) fn stream_of(settings: &PublisherSettings, event: &OutboxEvent) -> Option<String> {
    match Streams::new(settings) {
        Streams::One(stream) => Some(stream),
        Streams::Partitions(partitions) => partitions.get(partition(event, partitions.len())).cloned(),
        Streams::ByTemplate { template, .. } => template.name(event),
    }
}

/// The index of an event's partition.
pub(super) fn partition(event: &OutboxEvent, partitions: usize) -> usize {
    shard_of(&event.partition_key, event.id) as usize % partitions
}

impl BatchStreams {
    /// The index of an event's stream.
    pub(super) fn place(&self, event: usize) -> Result<usize, &str> {
        match self.places.get(event) {
            Some(place) => place.as_ref().copied().map_err(String::as_str),
            None => Ok(0),
        }
    }

    fn of_partitions(partitions: &[String], outgoing: &[OutgoingEvent]) -> Self {
        let (mut streams, mut places) = (Self::default(), vec![None; partitions.len()]);
        for outgoing in outgoing {
            let n = partition(&outgoing.event, partitions.len());
            let place = *places[n].get_or_insert_with(|| {
                streams.names.push(partitions[n].clone());
                streams.names.len() - 1
            });
            streams.places.push(Ok(place));
        }
        streams
    }

    fn by_template(named: Vec<Option<String>>, refused: &HashSet<String>, most: u64) -> Self {
        let (mut streams, mut places) = (Self { are_independent: true, ..Self::default() }, HashMap::new());
        for name in named {
            let place = match name {
                None => Err("its stream would have an empty name".to_owned()),
                Some(name) if refused.contains(&name) => {
                    Err(format!("its stream {name:?} would be one more than `max_streams`, {most}"))
                }
                Some(name) => Ok(*places.entry(name).or_insert_with_key(|name| {
                    streams.names.push(name.clone());
                    streams.names.len() - 1
                })),
            };
            streams.places.push(place);
        }
        streams
    }
}

impl RedisStream {
    /// Names the streams of a batch, and lists those that are new in the meta key.
    pub(super) async fn streams_of(&mut self, outgoing: &[OutgoingEvent]) -> Result<BatchStreams, Unavailable> {
        let (template, most, listed) = match &mut self.streams {
            Streams::One(_) => return Ok(BatchStreams::default()),
            Streams::Partitions(partitions) => return Ok(BatchStreams::of_partitions(partitions, outgoing)),
            Streams::ByTemplate { template, most, listed } => (template, most, listed),
        };
        let named: Vec<Option<String>> = outgoing.iter().map(|outgoing| template.name(&outgoing.event)).collect();
        let new: HashSet<&String> = named.iter().flatten().filter(|name| !listed.contains(*name)).collect();
        if new.is_empty() {
            return Ok(BatchStreams::by_template(named, &HashSet::new(), *most));
        }
        let mut request = REGISTER.request();
        request.arg(1).arg(&self.meta).arg(*most).arg(&new);
        let answer = self.client.call(&REGISTER, &request).await?;
        let refused: HashSet<String> =
            redis::from_redis_value(answer).map_err(|error| errors::unavailable_for_events(&error.into()))?;
        listed.extend(new.into_iter().filter(|name| !refused.contains(*name)).cloned());
        Ok(BatchStreams::by_template(named, &refused, *most))
    }
}
