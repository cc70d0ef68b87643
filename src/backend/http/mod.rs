//! `http`: posts each event to a receiver's address, as a webhook.

mod answer;
mod batches;
mod client;
mod guard;
mod hosts;
mod request;
mod sending;
mod signature;
mod target;
#[cfg(test)]
mod tests;

use std::collections::HashSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use async_trait::async_trait;
use futures_util::future::join_all;
use hyper::HeaderMap;
use hyper::header::{HeaderName, HeaderValue, USER_AGENT};
use tokio::time::Instant;
use url::Url;

use self::client::Client;
use self::guard::AddressGuard;
use self::hosts::Hosts;
#[cfg(feature = "consumer")]
pub(crate) use self::sending::NotAccepted;
use self::signature::Secrets;
use self::target::Template;
use super::{BackendError, PublisherBackend, chains};
use crate::cloud_event::object_pairs;
use crate::event::OutboxEvent;
use crate::settings::{ContentMode, PublisherSettings};

/// The pair of `publisher_config` with an event's own address, where the settings have none.
const OWN_ADDRESS: &str = "url";

/// The longest that a host is left alone, whatever it says.
const LONGEST_PAUSE: Duration = Duration::from_secs(24 * 3600);

/// Posts events to receivers.
pub(crate) struct Http {
    /// `None`: each event brings its own address.
    template: Option<Template>,
    mode: ContentMode,
    headers: HeaderMap,
    secrets: Option<Secrets>,
    guard: AddressGuard,
    client: Client,
    hosts: Hosts,
    /// By operators, or gone.
    paused: Mutex<HashSet<String>>,
    timeout: Duration,
    concurrency: usize,
    unavailable_limit: Duration,
}

impl Http {
    /// # Errors
    /// The setting that cannot be used.
    pub(crate) fn new(settings: &PublisherSettings) -> Result<Self, String> {
        let template = match &settings.url {
            None => None,
            Some(url) => {
                let text = url.read().map_err(|error| error.to_string())?;
                Some(Template::new(&text).map_err(|problem| format!("url {problem}"))?)
            }
        };
        let guard = AddressGuard::allowing(&settings.allow_addresses)
            .map_err(|text| format!("allow_addresses: {text:?} is not a network such as 10.0.0.0/8"))?;
        if let Some(template) = &template {
            template.check_host(&guard).map_err(|problem| format!("url: {problem}"))?;
        }
        let client = Client::new(&guard, settings.tls.as_ref(), settings.connect_timeout)?;
        let secrets = settings.secrets_file.clone().map(Secrets::new).transpose()?;
        Ok(Self {
            template,
            mode: settings.mode,
            headers: headers(settings)?,
            secrets,
            guard,
            client,
            hosts: Hosts::new(settings.concurrency, settings.unavailable_limit.min(LONGEST_PAUSE)),
            paused: Mutex::default(),
            timeout: settings.timeout,
            concurrency: settings.concurrency,
            unavailable_limit: settings.unavailable_limit,
        })
    }

    /// The last moment at which a batch that begins now sends a request: a slow host holds up the others until then at most.
    fn end_of_batch(&self) -> Instant {
        Instant::now() + self.timeout
    }

    fn is_paused(&self, host: &str) -> bool {
        self.paused.lock().unwrap_or_else(PoisonError::into_inner).contains(host)
    }

    /// Until the list of paused hosts comes again, before the next batch.
    fn pause(&self, host: &str) {
        self.paused.lock().unwrap_or_else(PoisonError::into_inner).insert(host.to_owned());
    }

    fn target(&self, event: &OutboxEvent) -> Result<Url, BackendError> {
        let found = match &self.template {
            Some(template) => template.target(event, &self.guard),
            None => match own_address(event) {
                Some(address) => target::check(&address, &self.guard),
                None => {
                    let reason = "no address: neither the setting `url` nor a pair `url` in publisher_config";
                    return Err(BackendError::Invalid(reason.to_owned()));
                }
            },
        };
        found.map_err(|problem| BackendError::Invalid(problem.to_string()))
    }
}

/// The headers of the settings, and the name of this program.
fn headers(settings: &PublisherSettings) -> Result<HeaderMap, String> {
    let mut headers = HeaderMap::new();
    headers.insert(USER_AGENT, HeaderValue::from_static(concat!("actix-outbox/", env!("CARGO_PKG_VERSION"))));
    for (name, value) in &settings.headers {
        let header = HeaderName::try_from(name).map_err(|_| format!("headers: {name:?} is not a header's name"))?;
        let text = value.read().map_err(|error| error.to_string())?;
        let mut value = HeaderValue::try_from(&*text).map_err(|_| format!("headers: {name}'s value cannot be sent"))?;
        value.set_sensitive(true);
        headers.insert(header, value);
    }
    Ok(headers)
}

/// An event's own address.
fn own_address(event: &OutboxEvent) -> Option<String> {
    let pairs = object_pairs(event.publisher_config.as_str()).ok()?;
    let (_, value) = pairs.into_iter().rev().find(|(name, _)| name == OWN_ADDRESS)?;
    serde_json::from_str(value.get()).ok()
}

#[async_trait]
impl PublisherBackend for Http {
    async fn publish(&self, event: &OutboxEvent) -> Result<(), BackendError> {
        self.send(event, self.end_of_batch()).await
    }

    async fn publish_batch(&self, events: &[Arc<OutboxEvent>]) -> Vec<Option<Result<(), BackendError>>> {
        if self.mode == ContentMode::Batch {
            return self.send_batches(events).await;
        }
        let until = self.end_of_batch();
        // The hosts limit how many requests are on their way.
        let sent = chains(events).into_iter().map(|chain| async move {
            let mut results = Vec::with_capacity(chain.len());
            for index in chain {
                let result = self.send(&events[index], until).await;
                let failed = result.is_err();
                results.push((index, result));
                if failed {
                    break;
                }
            }
            results
        });
        let mut results = vec![None; events.len()];
        for (index, result) in join_all(sent).await.into_iter().flatten() {
            results[index] = Some(result);
        }
        results
    }

    /// There are many receivers, and each is judged by its own answers.
    async fn health_check(&self) -> Result<(), BackendError> {
        self.secrets.as_ref().map_or(Ok(()), |secrets| secrets.signer().map(drop).map_err(BackendError::Unavailable))
    }

    fn set_paused_hosts(&self, hosts: &[String]) {
        let mut paused = self.paused.lock().unwrap_or_else(PoisonError::into_inner);
        *paused = hosts.iter().cloned().collect();
    }

    /// For the whole of a batch: a host's events are sent in turns, and in mode `batch` perhaps once together and once alone.
    fn timeout(&self) -> Duration {
        self.timeout.saturating_mul(2)
    }

    fn concurrency(&self) -> usize {
        self.concurrency
    }
}
