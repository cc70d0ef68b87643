//! Mode `batch`: several events in one request.

use std::collections::HashMap;
use std::sync::Arc;

use futures_util::future::join_all;
use tokio::time::Instant;
use url::Url;

use super::Http;
use super::request::Message;
use super::sending::Failure;
use crate::backend::{BackendError, chains};
use crate::event::OutboxEvent;

/// The most events of one request.
const MOST_IN_REQUEST: usize = 100;

/// The outcome of an event, by its position.
type Outcome = (usize, Result<(), BackendError>);

impl Http {
    /// Sends the events of each address in requests of several, one request after the other.
    pub(super) async fn send_batches(&self, events: &[Arc<OutboxEvent>]) -> Vec<Option<Result<(), BackendError>>> {
        let mut results = vec![None; events.len()];
        let mut by_address: HashMap<Url, Vec<usize>> = HashMap::new();
        for chain in chains(events) {
            let mut first = None;
            for index in chain {
                match self.target(&events[index]) {
                    // Events of a key go to one address at a time, or a later one could arrive first.
                    Ok(url) if first.as_ref().is_none_or(|first| *first == url) => {
                        by_address.entry(url.clone()).or_default().push(index);
                        first = Some(url);
                    }
                    Ok(_) => break,
                    Err(error) => {
                        results[index] = Some(Err(error));
                        break;
                    }
                }
            }
        }
        let until = self.end_of_batch();
        let sent = by_address.iter().map(|(url, indexes)| self.send_to(url, indexes, events, until));
        for (index, result) in join_all(sent).await.into_iter().flatten() {
            results[index] = Some(result);
        }
        results
    }

    /// Stops at the first failure. What is refused for good is one of a request's events, so they are then sent alone.
    async fn send_to(&self, url: &Url, indexes: &[usize], events: &[Arc<OutboxEvent>], until: Instant) -> Vec<Outcome> {
        let mut results = Vec::with_capacity(indexes.len());
        for part in indexes.chunks(MOST_IN_REQUEST) {
            let together: Vec<&OutboxEvent> = part.iter().map(|index| &*events[*index]).collect();
            match self.post(url, Message::batch(&together), together[0], until).await {
                Ok(()) => results.extend(part.iter().map(|index| (*index, Ok(())))),
                Err(Failure::Other(BackendError::Invalid(_))) if part.len() > 1 => {
                    results.extend(self.send_alone(url, part, events, until).await);
                }
                Err(failure) => {
                    let error = |index: &usize| (*index, Err(self.error_of(&events[*index], failure.clone())));
                    results.extend(part.iter().map(error));
                    break;
                }
            }
        }
        results
    }

    /// Sends one event a request: those of a key one after the other, until the first failure.
    async fn send_alone(
        &self,
        url: &Url,
        indexes: &[usize],
        events: &[Arc<OutboxEvent>],
        until: Instant,
    ) -> Vec<Outcome> {
        let alone: Vec<Arc<OutboxEvent>> = indexes.iter().map(|index| Arc::clone(&events[*index])).collect();
        let sent = chains(&alone).into_iter().map(|chain| {
            let alone = &alone;
            async move {
                let mut results = Vec::with_capacity(chain.len());
                for place in chain {
                    let event = &*alone[place];
                    let result = self.post(url, Message::batch(&[event]), event, until).await;
                    let result = result.map_err(|failure| self.error_of(event, failure));
                    let failed = result.is_err();
                    results.push((indexes[place], result));
                    if failed {
                        break;
                    }
                }
                results
            }
        });
        join_all(sent).await.into_iter().flatten().collect()
    }
}
