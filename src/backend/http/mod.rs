//! `http`: posts each event to a receiver's address, as a webhook.

mod answer;
mod client;
mod guard;
mod hosts;
mod request;
mod signature;
mod target;

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use async_trait::async_trait;
use chrono::Utc;
use futures_util::future::join_all;
use hyper::header::{HeaderName, HeaderValue, USER_AGENT};
use hyper::{HeaderMap, Uri};
use tokio::time::Instant;
use url::Url;

use self::answer::Answer;
use self::client::{Client, NoAnswer};
use self::guard::AddressGuard;
use self::hosts::{Closed, Hosts};
use self::request::Message;
use self::signature::Signer;
use self::target::Template;
use super::{BackendError, PublisherBackend, chains};
use crate::cloud_event::object_pairs;
use crate::event::OutboxEvent;
use crate::settings::{HttpMode, PublisherSettings, Secret};

/// The pair of `publisher_config` with an event's own address, where the settings have none.
const OWN_ADDRESS: &str = "url";

/// The most events of one request in mode `batch`.
const MOST_IN_REQUEST: usize = 100;

/// The longest that an event waits for its host before it is tried again, unless the host asked for more.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// How long an event of a paused host waits, at least.
const PAUSE: Duration = Duration::from_secs(15);

/// How long the secrets are used before they are read again.
const SECRETS_LIMIT: Duration = Duration::from_secs(10);

/// Posts events to receivers.
pub(crate) struct Http {
    /// `None`: each event brings its own address.
    template: Option<Template>,
    mode: HttpMode,
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

/// The secrets with which requests are signed, read again from time to time.
struct Secrets {
    source: Secret,
    read: Mutex<Option<(Instant, Signer)>>,
}

impl Secrets {
    fn signer(&self) -> Result<Signer, String> {
        let mut read = self.read.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((at, signer)) = &*read
            && at.elapsed() < SECRETS_LIMIT
        {
            return Ok(signer.clone());
        }
        let text = self.source.read().map_err(|error| error.to_string())?;
        let signer = Signer::new(&text).map_err(|problem| format!("secrets_file {problem}"))?;
        *read = Some((Instant::now(), signer.clone()));
        Ok(signer)
    }
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
        let client = Client::new(&guard, settings.tls.as_ref(), settings.connect_timeout)?;
        let secrets = settings.secrets_file.clone().map(|source| Secrets { source, read: Mutex::default() });
        if let Some(secrets) = &secrets {
            secrets.signer()?;
        }
        Ok(Self {
            template,
            mode: settings.mode,
            headers: headers(settings)?,
            secrets,
            guard,
            client,
            hosts: Hosts::new(settings.concurrency),
            paused: Mutex::default(),
            timeout: settings.timeout,
            concurrency: settings.concurrency,
            unavailable_limit: settings.unavailable_limit,
        })
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

    /// Sends one event, when its host has a place for it.
    async fn send(&self, event: &OutboxEvent) -> Result<(), BackendError> {
        let url = self.target(event)?;
        let message = Message::new(self.mode, event).map_err(BackendError::Invalid)?;
        self.post(&url, message, &[event]).await
    }

    /// Posts a message for these events.
    async fn post(&self, url: &Url, mut message: Message, events: &[&OutboxEvent]) -> Result<(), BackendError> {
        let unusable = |_| BackendError::Invalid("its address cannot be requested".to_owned());
        let uri: Uri = url.as_str().parse().map_err(unusable)?;
        for (name, value) in &self.headers {
            message.headers.entry(name).or_insert_with(|| value.clone());
        }
        if let Some(secrets) = &self.secrets {
            let signer = secrets.signer().map_err(BackendError::Unavailable)?;
            sign(&signer, &mut message, events);
        }
        let name = url.host_str().unwrap_or_default();
        if self.paused().contains(name) {
            let closed =
                Closed { wait: PAUSE, reason: format!("{name} is paused; `outbox backends resume` ends that") };
            return Err(self.defer(&closed, age(events)));
        }
        let host = self.hosts.get(&format!("{name}:{}", url.port_or_known_default().unwrap_or_default()));
        let turn = host.turn().await.map_err(|closed| self.wait(&closed, events))?;
        let answer = match self.client.post(uri, message, self.timeout).await {
            Ok((status, headers)) => answer::of(status, &headers, SystemTime::now()),
            Err(NoAnswer::Forbidden(error)) => Answer::Rejected(error.to_string()),
            Err(error) => Answer::Unavailable { reason: error.to_string(), retry_after: None },
        };
        let result = match answer {
            Answer::Unavailable { reason, retry_after } => {
                let closed = host.failed(&format!("{name}: {reason}"), retry_after);
                Err(self.wait(&closed, events))
            }
            answer => {
                host.succeeded();
                match answer {
                    Answer::Rejected(reason) => Err(BackendError::Rejected(format!("{name}: {reason}"))),
                    Answer::Refused(reason) => Err(BackendError::Invalid(format!("{name}: {reason}"))),
                    Answer::Gone(reason) => {
                        self.paused().insert(name.to_owned());
                        Err(BackendError::Gone { host: name.to_owned(), reason: format!("{name}: {reason}") })
                    }
                    _ => Ok(()),
                }
            }
        };
        drop(turn);
        result
    }

    /// How long events wait for their host: as long as it is left alone, or longer after they have waited for long, since each
    /// wait is written. Beyond the limit they are rejected.
    fn wait(&self, closed: &Closed, events: &[&OutboxEvent]) -> BackendError {
        let age = age(events);
        if age > self.unavailable_limit {
            return BackendError::Rejected(format!("{}; unavailable for {:?}", closed.reason, self.unavailable_limit));
        }
        self.defer(closed, age)
    }

    fn defer(&self, closed: &Closed, age: Duration) -> BackendError {
        let wait = closed.wait.max((age / 8).min(LONGEST_WAIT));
        BackendError::Deferred { reason: closed.reason.clone(), delay: wait.mul_f64(rand::random_range(1.0..=1.25)) }
    }

    fn paused(&self) -> MutexGuard<'_, HashSet<String>> {
        self.paused.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Sends the events of each address in requests of several, one request after the other.
    async fn send_batches(&self, events: &[Arc<OutboxEvent>]) -> Vec<Option<Result<(), BackendError>>> {
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
        let sent = by_address.iter().map(|(url, indexes)| self.send_to(url, indexes, events));
        for (index, result) in join_all(sent).await.into_iter().flatten() {
            results[index] = Some(result);
        }
        results
    }

    /// Stops at the first failure. What refuses a request for good is one of its events, so they are then sent one by one.
    async fn send_to(
        &self,
        url: &Url,
        indexes: &[usize],
        events: &[Arc<OutboxEvent>],
    ) -> Vec<(usize, Result<(), BackendError>)> {
        let mut results = Vec::with_capacity(indexes.len());
        for part in indexes.chunks(MOST_IN_REQUEST) {
            let together: Vec<&OutboxEvent> = part.iter().map(|index| &*events[*index]).collect();
            match self.post(url, Message::batch(&together), &together).await {
                Err(BackendError::Invalid(_)) if part.len() > 1 => {
                    results.extend(self.send_alone(url, part, events).await);
                }
                result => {
                    let failed = result.is_err();
                    results.extend(part.iter().map(|index| (*index, result.clone())));
                    if failed {
                        break;
                    }
                }
            }
        }
        results
    }

    async fn send_alone(
        &self,
        url: &Url,
        indexes: &[usize],
        events: &[Arc<OutboxEvent>],
    ) -> Vec<(usize, Result<(), BackendError>)> {
        let mut results = Vec::with_capacity(indexes.len());
        let mut failed_keys: Vec<&str> = Vec::new();
        for index in indexes {
            let event = &*events[*index];
            if failed_keys.contains(&event.partition_key.as_str()) {
                continue;
            }
            let result = self.post(url, Message::batch(&[event]), &[event]).await;
            if result.is_err() && !event.partition_key.is_empty() {
                failed_keys.push(&event.partition_key);
            }
            results.push((*index, result));
        }
        results
    }
}

/// For how long the oldest of these events has been due.
fn age(events: &[&OutboxEvent]) -> Duration {
    let since = events.iter().map(|event| event.scheduled_at.max(event.created_at)).min().unwrap_or_else(Utc::now);
    (Utc::now() - since).to_std().unwrap_or_default()
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

/// Signs a message. The id is the event's own at every try, by which the receiver tells a repetition.
fn sign(signer: &Signer, message: &mut Message, events: &[&OutboxEvent]) {
    let Some(event) = events.first() else { return };
    let id = match event.cloud_event_id.as_str() {
        // Part of the signed text, in which dots separate, and of a header.
        id if !id.is_empty() && id.bytes().all(|byte| byte.is_ascii_graphic() && byte != b'.') => id.to_owned(),
        _ => event.id.to_string(),
    };
    let timestamp = Utc::now().timestamp();
    let signature = signer.sign(&id, timestamp, &message.body);
    for (name, value) in
        [("webhook-id", id), ("webhook-timestamp", timestamp.to_string()), ("webhook-signature", signature)]
    {
        if let Ok(value) = HeaderValue::try_from(value) {
            message.headers.insert(name, value);
        }
    }
}

#[async_trait]
impl PublisherBackend for Http {
    async fn publish(&self, event: &OutboxEvent) -> Result<(), BackendError> {
        self.send(event).await
    }

    async fn publish_batch(&self, events: &[Arc<OutboxEvent>]) -> Vec<Option<Result<(), BackendError>>> {
        if self.mode == HttpMode::Batch {
            return self.send_batches(events).await;
        }
        // The hosts limit how many requests are on their way.
        let sent = chains(events).into_iter().map(|chain| async move {
            let mut results = Vec::with_capacity(chain.len());
            for index in chain {
                let result = self.send(&events[index]).await;
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
        *self.paused() = hosts.iter().cloned().collect();
    }

    fn timeout(&self) -> Duration {
        self.timeout
    }

    fn concurrency(&self) -> usize {
        self.concurrency
    }
}
