//! The streams of a publisher: one, or by template one for each name, which the meta key lists.

use std::collections::{HashMap, HashSet};

use redis::Cmd;

use super::{REGISTER, RedisStream, errors};
use crate::backend::session::{OutgoingEvent, Unavailable};
use crate::settings::PublisherSettings;
use crate::settings::name_template::NameTemplate;

/// What the names of the meta key's fields begin with, for each stream.
pub(super) const FIELD: &str = "stream/";

/// Where the events of a publisher go.
pub(super) enum Streams {
    One(String),
    Several {
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
    /// Of each event, the index of its stream or why it has none.
    places: Vec<Result<usize, String>>,
}

impl Streams {
    pub(super) fn new(settings: &PublisherSettings) -> Self {
        let template = NameTemplate::new(&settings.stream_name);
        if template.is_fixed() {
            return Self::One(template.pattern());
        }
        Self::Several { template, most: settings.max_streams, listed: HashSet::new() }
    }

    /// The one stream; empty if there are several.
    pub(super) fn only(&self) -> &str {
        match self {
            Self::One(stream) => stream,
            Self::Several { .. } => "",
        }
    }

    /// Forgets what an earlier session knew.
    pub(super) fn forget(&mut self) {
        if let Self::Several { listed, .. } = self {
            listed.clear();
        }
    }

    /// Adds the keys of a script that does not write to streams: the one stream is named for its rights and its slot.
    pub(super) fn add_keys(&self, meta: &str, request: &mut Cmd) {
        match self {
            Self::One(stream) => request.arg(2).arg(meta).arg(stream),
            Self::Several { .. } => request.arg(1).arg(meta),
        };
    }
}

impl BatchStreams {
    /// The index of an event's stream.
    pub(super) fn place(&self, event: usize) -> Result<usize, &str> {
        match self.places.get(event) {
            Some(place) => place.as_ref().copied().map_err(String::as_str),
            None => Ok(0),
        }
    }

    fn new(named: Vec<Option<String>>, refused: &HashSet<String>, most: u64) -> Self {
        let (mut streams, mut places) = (Self::default(), HashMap::new());
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
        let Streams::Several { template, most, listed } = &mut self.streams else {
            return Ok(BatchStreams::default());
        };
        let named: Vec<Option<String>> = outgoing.iter().map(|outgoing| template.name(&outgoing.event)).collect();
        let new: HashSet<&String> = named.iter().flatten().filter(|name| !listed.contains(*name)).collect();
        if new.is_empty() {
            return Ok(BatchStreams::new(named, &HashSet::new(), *most));
        }
        let mut request = REGISTER.request();
        request.arg(1).arg(&self.meta).arg(*most).arg(&new);
        let answer = self.client.call(&REGISTER, &request).await?;
        let refused: HashSet<String> =
            redis::from_redis_value(answer).map_err(|error| errors::unavailable_for_events(&error.into()))?;
        listed.extend(new.into_iter().filter(|name| !refused.contains(*name)).cloned());
        Ok(BatchStreams::new(named, &refused, *most))
    }
}
