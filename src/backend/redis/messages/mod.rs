//! `redis_list` and `redis_pubsub`: each event as a CloudEvent in JSON, appended to a list or published to a channel.
//!
//! At least once: no journal says what was sent when an answer was lost. One script sends a batch and stops at the first event
//! that Redis refuses, so that no event of a key overtakes another.

use std::collections::{BTreeSet, HashSet};

use async_trait::async_trait;
use redis::Cmd;
use uuid::Uuid;

use super::{Client, Reply, Script, errors};
use crate::backend::BackendError;
use crate::backend::inspection::BackendFacts;
use crate::backend::session::{BackendSession, BatchResult, OutgoingEvent, SendResult, ShardsOpened, Unavailable};
use crate::cloud_event;
use crate::settings::PublisherSettings;
use crate::settings::name_template::NameTemplate;
use crate::store::Shard;

static SEND: Script = Script::new(include_str!("messages.lua"));

/// Where messages go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MessageKind {
    List,
    Channel,
}

/// A list or a channel, or several by template, as one worker sends to them.
pub(crate) struct RedisMessages {
    client: Client,
    kind: MessageKind,
    name: NameTemplate,
}

/// An event of a batch, by its index.
struct Message {
    index: usize,
    name: String,
    cloud_event: String,
}

impl RedisMessages {
    /// Reads the address; nothing is connected.
    pub(crate) fn new(kind: MessageKind, settings: &PublisherSettings) -> Result<Self, String> {
        Ok(Self { client: Client::new(settings)?, kind, name: NameTemplate::new(&settings.stream_name) })
    }

    /// The messages of a batch, without those of events that have no name, and of later ones of their keys.
    fn encode(&self, outgoing: &[OutgoingEvent], answers: &mut [SendResult]) -> Vec<Message> {
        let mut messages = Vec::with_capacity(outgoing.len());
        let mut blocked: HashSet<&str> = HashSet::new();
        for (index, OutgoingEvent { event, .. }) in outgoing.iter().enumerate() {
            if blocked.contains(event.partition_key.as_str()) {
                continue;
            }
            match self.name.name(event) {
                Some(name) => messages.push(Message { index, name, cloud_event: cloud_event::to_json(event) }),
                None => {
                    answers[index] = SendResult::Invalid("its list or channel would have an empty name".to_owned());
                    blocked.extend(Some(event.partition_key.as_str()).filter(|key| !key.is_empty()));
                }
            }
        }
        messages
    }

    fn request(&self, messages: &[Message]) -> Cmd {
        let bytes: usize = messages.iter().map(|message| message.name.len() + message.cloud_event.len()).sum();
        let mut request = SEND.large_request(bytes);
        match self.kind {
            MessageKind::List => {
                let lists: BTreeSet<&str> = messages.iter().map(|message| message.name.as_str()).collect();
                request.arg(lists.len()).arg(lists).arg("RPUSH");
            }
            MessageKind::Channel => {
                request.arg(0).arg("PUBLISH");
            }
        }
        for message in messages {
            request.arg(&message.name).arg(&message.cloud_event);
        }
        request
    }

    /// Sends messages until Redis refuses one: how many it accepted, and why no more.
    async fn send_some(&mut self, messages: &[Message]) -> (usize, Option<Refusal>) {
        let answer = match self.client.call(&SEND, &self.request(messages)).await {
            Ok(answer) => answer,
            Err(unavailable) => {
                self.client.end();
                return (0, Some(Refusal::OfAll(unavailable)));
            }
        };
        match Reply::read(answer) {
            Some(Reply::Sent) => (messages.len(), None),
            // One of many lists is something else, and the others are not.
            Some(Reply::Stopped { sent, error }) if !self.name.is_fixed() && errors::is_about_the_key(&error) => {
                (sent, Some(Refusal::OfTheEvent(format!("Redis: {error}"))))
            }
            Some(Reply::Stopped { sent, error }) => {
                let mut unavailable = errors::of_a_script(&error);
                if let Some(message) = messages.get(sent).filter(|_| errors::is_out_of_memory(&error)) {
                    unavailable.is_its_state = !self.client.is_too_small_for(message.cloud_event.len()).await;
                }
                (sent, Some(Refusal::OfAll(unavailable)))
            }
            Some(Reply::Closed) | None => {
                self.client.end();
                let reason = "the script returned an unknown answer".to_owned();
                (0, Some(Refusal::OfAll(Unavailable { reason, is_its_state: true })))
            }
        }
    }
}

enum Refusal {
    OfTheEvent(String),
    OfAll(Unavailable),
}

#[async_trait]
impl BackendSession for RedisMessages {
    async fn open(&mut self, _shards: &[(Shard, i64)]) -> Result<ShardsOpened, BackendError> {
        self.health_check().await.map(|()| ShardsOpened::default())
    }

    async fn send(&mut self, outgoing: &[OutgoingEvent]) -> BatchResult {
        let mut answers = vec![SendResult::NotSent; outgoing.len()];
        let mut messages = self.encode(outgoing, &mut answers);
        let mut unavailable = None;
        while !messages.is_empty() && unavailable.is_none() {
            let (sent, refusal) = self.send_some(&messages).await;
            for message in messages.drain(..sent) {
                answers[message.index] = SendResult::Accepted;
            }
            match refusal {
                None => {}
                Some(Refusal::OfTheEvent(reason)) => {
                    let index = messages.remove(0).index;
                    answers[index] = SendResult::Rejected(reason);
                    let key = &outgoing[index].event.partition_key;
                    messages.retain(|later| key.is_empty() || outgoing[later.index].event.partition_key != *key);
                }
                Some(Refusal::OfAll(reason)) => unavailable = Some(reason),
            }
        }
        BatchResult { answers, unavailable, closed: Vec::new() }
    }

    fn settled(&mut self, _events: &[(Uuid, i64)]) {}

    async fn flush(&mut self) -> Result<(), BackendError> {
        Ok(())
    }

    async fn health_check(&mut self) -> Result<(), BackendError> {
        self.client.ping().await.inspect_err(|_| self.client.end())
    }

    async fn inspect(&mut self) -> Result<BackendFacts, BackendError> {
        self.client.read_facts().await.inspect_err(|_| self.client.end())
    }
}

#[cfg(test)]
mod tests;
