//! The sending of a batch, in waves: the first events of all keys, then their second ones, and so on.
//!
//! A key's next event is sent when the one before it is delivered. If both were on their way, the first could fail for good,
//! as one that is too large, and the second be written.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use actix_outbox::{BackendError, OutboxEvent};
use chrono::Utc;
use futures_util::future::join_all;
use rdkafka::error::KafkaError;
use rdkafka::producer::{DeliveryFuture, Producer};

use crate::Kafka;
use crate::config::Client;
use crate::errors::{self, Scope};
use crate::record::Record;

/// How long an event for a topic that cannot be used waits.
const SHORTEST_WAIT: Duration = Duration::from_secs(1);
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// `None`: not sent.
type Outcome = Option<Result<(), BackendError>>;

impl Kafka {
    pub(crate) async fn send_batch(&self, events: &[Arc<OutboxEvent>]) -> Vec<Outcome> {
        let mut outcomes: Vec<Outcome> = vec![None; events.len()];
        let client = match self.client().await {
            Ok(client) => client,
            Err(error) => {
                outcomes.iter_mut().take(1).for_each(|first| *first = Some(Err(error.clone())));
                return outcomes;
            }
        };
        let mut chains: Vec<_> = chains(events).into_iter().map(Vec::into_iter).collect();
        loop {
            let wave: Vec<usize> = chains.iter_mut().filter_map(Iterator::next).collect();
            if wave.is_empty() {
                break;
            }
            let results = self.send_wave(&client, wave.iter().map(|index| &*events[*index]).collect()).await;
            for (index, result) in wave.iter().zip(results) {
                outcomes[*index] = Some(result);
            }
            // A key ends at its first failure.
            let mut wave = wave.into_iter();
            chains.retain(|chain| wave.next().is_some_and(|index| outcomes[index] == Some(Ok(()))) && chain.len() > 0);
            if outcomes.iter().flatten().any(|outcome| matches!(outcome, Err(BackendError::Unavailable(_)))) {
                break;
            }
        }
        if client.producer.client().fatal_error().is_some() {
            self.discard(client).await;
        } else if outcomes.iter().all(|outcome| *outcome == Some(Ok(()))) {
            client.context.clear();
        }
        outcomes
    }

    async fn send_wave(&self, client: &Client, events: Vec<&OutboxEvent>) -> Vec<Result<(), BackendError>> {
        let records: Vec<_> =
            events.iter().map(|event| Record::new(self.config.mode, self.config.topic(), event)).collect();
        let sent: Vec<_> =
            records.iter().map(|record| record.as_ref().ok().map(|record| send(client, record))).collect();
        let reports = join_all(sent.into_iter().map(async |sent| match sent {
            Some(sent) => Some(report(sent).await),
            None => None,
        }))
        .await;
        let mut results = Vec::with_capacity(events.len());
        for ((event, record), report) in events.into_iter().zip(records).zip(reports) {
            results.push(match (record, report) {
                (Ok(record), Some(report)) => self.judge(client, event, &record, report).await,
                (Err(problem), _) => Err(BackendError::Invalid(problem)),
                (Ok(_), None) => Err(BackendError::Unavailable("it was not sent".to_owned())),
            });
        }
        results
    }

    async fn judge(
        &self,
        client: &Client,
        event: &OutboxEvent,
        record: &Record,
        mut report: Result<(), KafkaError>,
    ) -> Result<(), BackendError> {
        // The brokers refuse all records of a request because of one.
        if report.as_ref().is_err_and(|error| errors::scope(error) == Scope::Size) {
            report = self::report(send(client, record)).await;
        }
        let Err(error) = report else { return Ok(()) };
        match errors::scope(&error) {
            Scope::Size | Scope::Record => Err(BackendError::Invalid(errors::explain(&error, None))),
            Scope::Topic => Err(self.unusable_topic(event, record, &error)),
            Scope::Cluster => Err(BackendError::Unavailable(match client.producer.client().fatal_error() {
                Some((code, reason)) => format!("{code}: {reason}"),
                None => errors::explain(&error, client.context.last_error()),
            })),
        }
    }

    /// If each event has its own topic, events of other topics continue.
    fn unusable_topic(&self, event: &OutboxEvent, record: &Record, error: &KafkaError) -> BackendError {
        let code = error.rdkafka_error_code().unwrap_or(rdkafka::error::RDKafkaErrorCode::UnknownTopic);
        let reason = errors::of_topic(code, &record.topic);
        if self.config.fixed_topic().is_some() {
            return BackendError::Unavailable(reason);
        }
        let waited = (Utc::now() - event.scheduled_at.max(event.created_at)).to_std().unwrap_or_default();
        if waited >= self.config.unavailable_limit {
            return BackendError::Rejected(format!("{reason}; for {:?}", self.config.unavailable_limit));
        }
        let wait = (waited / 8).clamp(SHORTEST_WAIT, LONGEST_WAIT);
        BackendError::Deferred { reason, delay: wait.mul_f64(rand::random_range(1.0..=1.25)) }
    }
}

/// Hands a record to the client, which keeps the order of the calls.
fn send(client: &Client, record: &Record) -> Result<DeliveryFuture, KafkaError> {
    client.producer.send_result(record.future_record()).map_err(|(error, _)| error)
}

/// Waits for the delivery report, which comes within `message.timeout.ms`.
async fn report(sent: Result<DeliveryFuture, KafkaError>) -> Result<(), KafkaError> {
    match sent?.await {
        Ok(Ok(_)) => Ok(()),
        Ok(Err((error, _))) => Err(error),
        Err(_) => Err(KafkaError::Canceled),
    }
}

/// The positions of each key's events, in order; an event without a key is a chain of its own.
fn chains(events: &[Arc<OutboxEvent>]) -> Vec<Vec<usize>> {
    let (mut by_key, mut chains): (HashMap<&str, usize>, Vec<Vec<usize>>) = Default::default();
    for (index, event) in events.iter().enumerate() {
        match event.partition_key.as_str() {
            "" => chains.push(vec![index]),
            key => {
                let chain = *by_key.entry(key).or_insert(chains.len());
                if chain == chains.len() {
                    chains.push(Vec::new());
                }
                chains[chain].push(index);
            }
        }
    }
    chains
}
