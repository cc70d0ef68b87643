//! A batch of events as JetStream receives it: atomic batches, each with the journals of its shards first.

use std::collections::HashSet;

use async_nats::client::Request;
use async_nats::jetstream::publish::PublishAck;
use async_nats::jetstream::response::Response;
use async_nats::{Client, Message as Answer};
use uuid::Uuid;

use super::errors::Refusal;
use super::message::Message;
use super::stream::Stream;
use super::subject::SubjectTemplate;
use crate::backend::journal::SentEvent;
use crate::backend::session::{OutgoingEvent, SendResult, Unavailable};
use crate::settings::ContentMode;
use crate::store::Shard;

/// The most messages in an atomic batch, as servers limit it unless they are configured otherwise.
const MOST_MESSAGES: usize = 1_000;

/// An event of a batch that can be sent.
pub(super) struct Encoded<'a> {
    pub(super) index: usize,
    pub(super) shard: &'a Shard,
    pub(super) event: SentEvent,
    pub(super) message: Message,
}

/// Encodes events. One that cannot be sent holds back the later ones of its key.
pub(super) fn encode<'a>(
    outgoing: &'a [OutgoingEvent],
    mode: ContentMode,
    subject: &SubjectTemplate,
    stream: &Stream,
) -> (Vec<SendResult>, Vec<Encoded<'a>>) {
    let mut answers = vec![SendResult::NotSent; outgoing.len()];
    let mut encoded = Vec::with_capacity(outgoing.len());
    let mut blocked: HashSet<&str> = HashSet::new();
    for (index, OutgoingEvent { shard, event }) in outgoing.iter().enumerate() {
        let key = event.partition_key.as_str();
        if !key.is_empty() && blocked.contains(key) {
            continue;
        }
        let message = Message::new(mode, subject, event).and_then(|message| {
            let objection = stream.objection(&message.subject, message.size());
            objection.map_or(Ok(message), Err)
        });
        match message {
            Ok(message) => encoded.push(Encoded { index, shard, event: (event.id, event.seq), message }),
            Err(problem) => {
                answers[index] = SendResult::Invalid(problem);
                blocked.insert(key);
            }
        }
    }
    (answers, encoded)
}

/// Divides events into parts that fit, in order.
pub(super) fn parts<'e, 'a>(mut events: &'e [Encoded<'a>]) -> impl Iterator<Item = &'e [Encoded<'a>]> {
    std::iter::from_fn(move || {
        let (part, rest) = events.split_at(fitting(events));
        events = rest;
        (!part.is_empty()).then_some(part)
    })
}

/// How many of the first events fit into a batch, with a journal for each of their shards.
fn fitting(events: &[Encoded<'_>]) -> usize {
    let mut shards: HashSet<&Shard> = HashSet::new();
    for (before, event) in events.iter().enumerate() {
        shards.insert(event.shard);
        if before + 1 + shards.len() > MOST_MESSAGES {
            return before;
        }
    }
    events.len()
}

/// Stores all messages or none; returns the sequence of the first.
pub(super) async fn store(client: &Client, messages: Vec<Message>) -> Result<u64, Refusal> {
    let id = Uuid::new_v4().simple().to_string();
    let count = messages.len();
    for (index, mut message) in messages.into_iter().enumerate() {
        message.headers.insert("Nats-Batch-Id", id.as_str());
        message.headers.insert("Nats-Batch-Sequence", (index + 1).to_string());
        if index + 1 == count {
            message.headers.insert("Nats-Batch-Commit", "1");
            let request = Request::new().headers(message.headers).payload(message.payload);
            let answer = client.send_request(message.subject, request).await?;
            return Ok(read(&answer)?.sequence + 1 - count as u64);
        }
        let published = client.publish_with_headers(message.subject, message.headers, message.payload).await;
        published.map_err(|error| Refusal::Unavailable(Unavailable::perhaps_by_an_event(format!("NATS: {error}"))))?;
    }
    Err(Refusal::Unavailable(Unavailable::perhaps_by_an_event("an empty batch".to_owned())))
}

/// Stores one message; returns its acknowledgement.
pub(super) async fn store_one(client: &Client, message: Message) -> Result<PublishAck, Refusal> {
    let request = Request::new().headers(message.headers).payload(message.payload);
    read(&client.send_request(message.subject, request).await?)
}

fn read(answer: &Answer) -> Result<PublishAck, Refusal> {
    match serde_json::from_slice(&answer.payload) {
        Ok(Response::Ok(stored)) => Ok(stored),
        Ok(Response::Err { error }) => Err(error.into()),
        Err(_) => {
            let reason = "NATS: the answer is none of JetStream's: another program takes the subject".to_owned();
            Err(Refusal::Unavailable(Unavailable { reason, is_its_state: true }))
        }
    }
}
