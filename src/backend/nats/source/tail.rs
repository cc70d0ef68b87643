//! Reading the stream without a group.

use std::time::Duration;

use async_nats::jetstream::stream::Stream;
use async_trait::async_trait;
use chrono::{DateTime, Utc};

use super::records::id_of;
use super::{EVENTS, NatsSource, Result, decoding};
use crate::backend::event_source::{Content, EntryRef, Positions, Received, TailSource};
use crate::backend::nats::subject::is_of_journals;
use crate::settings::StartAt;

/// The most messages of one read.
const PAGE: usize = 100;

/// How long to wait when there is nothing new.
const PAUSE: Duration = Duration::from_millis(200);

#[async_trait]
impl TailSource for NatsSource {
    async fn read_after(&self, positions: &mut Positions, start: StartAt) -> Result<Vec<Received>> {
        let link = self.link().await?;
        let stream = self.events(&link).await?;
        let mut next = match positions.get(&EVENTS).and_then(|position| position.parse().ok()) {
            // A stream that was created again begins again.
            Some(next) if next > stream.cached_info().state.last_sequence + 1 => 1,
            Some(next) => next,
            None => self.first_number(&stream, start).await?,
        };
        positions.insert(EVENTS, next.to_string());
        let mut all = Vec::new();
        while all.len() < PAGE {
            let Some(message) = self.next_message(&stream, ">", next).await? else { break };
            next = message.sequence + 1;
            if is_of_journals(&message.subject) {
                continue;
            }
            let id = id_of(&message);
            let Content { bytes, event } = decoding::content(&message.headers, &message.payload, id);
            let entry = EntryRef { stream: EVENTS, id };
            all.push(Received { entry, deliveries: 0, is_claimed: false, lease: None, bytes, event });
        }
        positions.insert(EVENTS, next.to_string());
        if all.is_empty() {
            tokio::time::sleep(PAUSE).await;
        }
        Ok(all)
    }
}

impl NatsSource {
    /// The number of the first message to read.
    async fn first_number(&self, stream: &Stream, start: StartAt) -> Result<u64> {
        let state = &stream.cached_info().state;
        match start {
            StartAt::First => Ok(state.first_sequence.max(1)),
            StartAt::Next => Ok(state.last_sequence + 1),
            StartAt::Time(time) => {
                self.first_since(stream, time, state.first_sequence.max(1), state.last_sequence + 1).await
            }
        }
    }

    /// The first message of this time or later, between these numbers. Later messages have later times.
    async fn first_since(&self, stream: &Stream, time: DateTime<Utc>, mut low: u64, mut high: u64) -> Result<u64> {
        while low < high {
            let middle = low + (high - low) / 2;
            match self.next_message(stream, ">", middle).await? {
                Some(message) if message.time < time => low = message.sequence + 1,
                _ => high = middle,
            }
        }
        Ok(low)
    }
}
