//! The sending of a batch, in waves: the first events of all keys, then their second ones, and so on.
//!
//! A key's next event is sent when the broker has confirmed the one before it. If both were on their way, the broker could
//! return or refuse the first and accept the second, for example when a full queue gets space again between them.
//!
//! lapin hands a message that came back to one of the publishers whose confirms came together, which need not be its own. So a
//! wave is judged when all its confirms are there, by the ids of the messages that came back.

use std::collections::HashSet;
use std::sync::Arc;
use std::time::Duration;

use chrono::Utc;
use futures_util::FutureExt;
use lapin::options::BasicPublishOptions;
use lapin::{Confirmation, PublisherConfirm};
use tokio::time::{sleep, timeout};

use super::message::Message;
use super::session::Session;
use super::{RabbitMq, errors};
use crate::backend::{BackendError, chains};
use crate::event::OutboxEvent;

/// How long confirms are waited for when the broker blocks publishers.
const GRACE: Duration = Duration::from_secs(1);

/// How long an event of a queue that refuses it waits.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// `None`: not sent, or its outcome is unknown.
type Outcome = Option<Result<(), BackendError>>;

impl RabbitMq {
    pub(super) async fn send_batch(&self, events: &[Arc<OutboxEvent>]) -> Vec<Outcome> {
        let mut outcomes: Vec<Outcome> = vec![None; events.len()];
        let session = match self.session().await {
            Ok(session) => session,
            Err(error) => {
                outcomes.iter_mut().take(1).for_each(|first| *first = Some(Err(error.clone())));
                return outcomes;
            }
        };
        let mut chains: Vec<_> = chains(events).into_iter().map(Vec::into_iter).collect();
        loop {
            chains.retain(|chain| chain.len() > 0);
            let indexes: Vec<usize> = chains.iter_mut().filter_map(Iterator::next).collect();
            if indexes.is_empty() {
                return outcomes;
            }
            let of_wave: Vec<&OutboxEvent> = indexes.iter().map(|index| &*events[*index]).collect();
            let wave = Wave::send(&session, self, &of_wave).await;
            let goes_on = wave.goes_on;
            let results = wave.judge(self, &session, &of_wave);
            for (index, result) in indexes.iter().zip(results) {
                outcomes[*index] = result;
            }
            if !goes_on {
                if session.blocked().is_none() {
                    self.end(&session).await;
                }
                return outcomes;
            }
            // A key ends at its first failure.
            let mut indexes = indexes.into_iter();
            chains.retain(|_| indexes.next().is_some_and(|index| outcomes[index] == Some(Ok(()))));
        }
    }
}

/// What became known of one event of a wave.
enum Sent {
    /// No message can carry it.
    Invalid(String),
    Accepted,
    /// A queue has no place for it.
    Refused,
    /// The channel or the connection has failed; with the size of the message.
    Failed(lapin::Error, usize),
    Unknown,
}

struct Wave {
    sent: Vec<Sent>,
    /// The ids of the messages that came back.
    returned: HashSet<String>,
    /// No confirm came in time.
    stalled: Option<String>,
    /// The session can be used for the next wave.
    goes_on: bool,
}

impl Wave {
    async fn send(session: &Session, backend: &RabbitMq, events: &[&OutboxEvent]) -> Self {
        let mut wave = Self { sent: Vec::new(), returned: HashSet::new(), stalled: None, goes_on: true };
        if let Some(reason) = session.blocked() {
            wave.stall(reason);
            wave.sent.resize_with(events.len(), || Sent::Unknown);
            return wave;
        }
        let mut waiting = Vec::with_capacity(events.len());
        for event in events {
            waiting.push(wave.publish(session, backend, event).await);
        }
        for confirm in waiting {
            let sent = match confirm {
                Published::Not(sent) => sent,
                Published::Waiting(confirm, size) => wave.confirmed(session, backend, confirm, size).await,
            };
            wave.sent.push(sent);
        }
        wave
    }

    async fn publish(&mut self, session: &Session, backend: &RabbitMq, event: &OutboxEvent) -> Published {
        if !self.goes_on {
            return Published::Not(Sent::Unknown);
        }
        let message = match Message::new(backend.mode, &backend.routing_key, event) {
            Ok(message) if message.header_size <= session.frame_max() => message,
            Ok(_) => {
                return Published::Not(Sent::Invalid("its attributes are too large for a frame of AMQP".to_owned()));
            }
            Err(problem) => return Published::Not(Sent::Invalid(problem)),
        };
        let Message { routing_key, properties, body, .. } = message;
        let options = BasicPublishOptions { mandatory: true, ..BasicPublishOptions::default() };
        let published =
            session.channel().basic_publish(backend.exchange.clone(), routing_key, options, &body, properties);
        match timeout(backend.reply_timeout, published).await {
            Ok(Ok(confirm)) => Published::Waiting(confirm, body.len()),
            Ok(Err(error)) => {
                self.goes_on = false;
                Published::Not(Sent::Failed(error, body.len()))
            }
            Err(_) => {
                self.stall(format!("nothing could be written within {:?}", backend.reply_timeout));
                Published::Not(Sent::Unknown)
            }
        }
    }

    async fn confirmed(
        &mut self,
        session: &Session,
        backend: &RabbitMq,
        mut confirm: PublisherConfirm,
        size: usize,
    ) -> Sent {
        if self.stalled.is_some() {
            // It only matters which messages came back; the confirms of the others may still be on their way.
            if let Some(Ok(confirmation)) = confirm.now_or_never() {
                self.note_returned(confirmation);
            }
            return Sent::Unknown;
        }
        let confirmed = tokio::select! {
            biased;
            confirmed = &mut confirm => Some(confirmed),
            () = session.until_blocked() => timeout(GRACE, &mut confirm).await.ok(),
            () = sleep(backend.reply_timeout) => None,
        };
        match confirmed {
            Some(Ok(confirmation)) => {
                let is_accepted = confirmation.is_ack();
                self.note_returned(confirmation);
                if is_accepted { Sent::Accepted } else { Sent::Refused }
            }
            Some(Err(error)) => {
                self.goes_on = false;
                Sent::Failed(error, size)
            }
            None => {
                let late = || format!("no confirm within {:?}", backend.reply_timeout);
                self.stall(session.blocked().unwrap_or_else(late));
                Sent::Unknown
            }
        }
    }

    fn stall(&mut self, reason: String) {
        self.goes_on = false;
        self.stalled.get_or_insert(reason);
    }

    fn note_returned(&mut self, confirmation: Confirmation) {
        let message = confirmation.take_message();
        let id = message.as_ref().and_then(|message| message.delivery.properties.message_id().as_ref());
        self.returned.extend(id.map(ToString::to_string));
    }

    /// The outcome of each event.
    fn judge(mut self, backend: &RabbitMq, session: &Session, events: &[&OutboxEvent]) -> Vec<Outcome> {
        let mut stalled = self.stalled.take();
        let place = |event: &OutboxEvent| {
            let key = event.fill(&backend.routing_key);
            format!("{} for the routing key `{}`", session.target().exchange(), errors::printable(&key))
        };
        let judge = |(event, sent): (&&OutboxEvent, Sent)| match sent {
            Sent::Accepted | Sent::Refused if self.returned.contains(&event.id.to_string()) => {
                let reason = format!("returned: no queue is bound to {}", place(event));
                Some(Err(BackendError::Rejected(reason)))
            }
            Sent::Accepted => Some(Ok(())),
            Sent::Refused => {
                Some(Err(backend.refused(event, format!("refused by a queue of {}, perhaps full", place(event)))))
            }
            Sent::Invalid(problem) => Some(Err(BackendError::Invalid(problem))),
            Sent::Failed(error, size) => failed(session, &error, size),
            Sent::Unknown => stalled.take().map(|reason| Err(BackendError::Unavailable(reason))),
        };
        events.iter().zip(self.sent).map(judge).collect()
    }
}

/// A message that was handed over, or why it was not.
enum Published {
    Waiting(PublisherConfirm, usize),
    Not(Sent),
}

/// What a failed channel or connection means for one of its events. The broker names only the size of a message that is too
/// large; the other events are sent again without a pause.
fn failed(session: &Session, error: &lapin::Error, size: usize) -> Outcome {
    if errors::is_too_large(error, size) {
        return Some(Err(BackendError::Invalid(errors::text(error))));
    }
    if errors::is_some_too_large(error) {
        return None;
    }
    Some(Err(BackendError::Unavailable(session.target().explain(error))))
}

impl RabbitMq {
    /// A queue refuses an event: it waits, less often the longer it has waited, and is rejected after the limit.
    fn refused(&self, event: &OutboxEvent, reason: String) -> BackendError {
        let waited = (Utc::now() - event.scheduled_at.max(event.created_at)).to_std().unwrap_or_default();
        if waited >= self.unavailable_limit {
            return BackendError::Rejected(format!("{reason}; for {:?}", self.unavailable_limit));
        }
        let wait = (waited / 8).clamp(SHORTEST_WAIT, LONGEST_WAIT);
        BackendError::Deferred { reason, delay: wait.mul_f64(rand::random_range(1.0..=1.25)) }
    }
}
