//! One request: signed, sent when its host has a place for it, and judged by its answer.

use std::time::{Duration, SystemTime};

use chrono::Utc;
use hyper::Uri;
use hyper::header::HeaderValue;
use tokio::time::{Instant, timeout_at};
use url::Url;

#[cfg(feature = "consumer")]
use super::LONGEST_PAUSE;
use super::answer::{self, Answer};
use super::client::NoAnswer;
use super::hosts::Closed;
use super::request::Message;
use super::signature::Signer;
use super::{Http, target};
use crate::backend::BackendError;
use crate::event::OutboxEvent;

/// The longest that an event waits for its host before it is tried again, unless the host asked for more.
const LONGEST_WAIT: Duration = Duration::from_secs(600);

/// How long an event of a paused host waits, at least.
const PAUSE: Duration = Duration::from_secs(15);

/// How long an event waits whose batch has ended before it was sent.
const NEXT_BATCH: Duration = Duration::from_secs(1);

/// Why a request was not accepted.
#[derive(Debug, Clone)]
pub(super) enum Failure {
    /// Its host is busy with other requests of the batch.
    Busy {
        host: String,
    },
    /// Its host is unavailable.
    Closed(Closed),
    /// Its host is paused.
    Paused {
        host: String,
    },
    Other(BackendError),
}

/// Why a receiver does not have an event, and the time after which it asks for it again.
#[cfg(feature = "consumer")]
pub(crate) struct NotAccepted {
    pub(crate) reason: String,
    pub(crate) retry_after: Option<Duration>,
}

impl From<BackendError> for Failure {
    fn from(error: BackendError) -> Self {
        Self::Other(error)
    }
}

impl Http {
    /// Sends one event, if its host has a turn for it until then.
    pub(super) async fn send(&self, event: &OutboxEvent, until: Instant) -> Result<(), BackendError> {
        let url = self.target(event)?;
        let message = Message::new(self.mode, event).map_err(BackendError::Invalid)?;
        self.post(&url, message, event, until).await.map_err(|failure| self.error_of(event, failure))
    }

    /// Posts one event, whatever its host has answered to others.
    #[cfg(feature = "consumer")]
    pub(crate) async fn send_anyway(&self, event: &OutboxEvent) -> Result<(), NotAccepted> {
        let rejected = |error: BackendError| NotAccepted { reason: error.to_string(), retry_after: None };
        let url = self.target(event).map_err(rejected)?;
        let message = Message::new(self.mode, event).map_err(BackendError::Invalid).map_err(rejected)?;
        let (reason, retry_after) = match self.request(&url, message, event).await.map_err(rejected)? {
            Answer::Accepted => return Ok(()),
            Answer::Unavailable { reason, retry_after } => (reason, retry_after),
            Answer::Rejected(reason) | Answer::Refused(reason) | Answer::Gone(reason) => (reason, None),
        };
        let retry_after = retry_after.map(|time| time.min(LONGEST_PAUSE));
        Err(NotAccepted { reason: format!("{}: {reason}", target::host(&url)), retry_after })
    }

    /// Posts a message, which `event` or the events after it are in.
    pub(super) async fn post(
        &self,
        url: &Url,
        message: Message,
        event: &OutboxEvent,
        until: Instant,
    ) -> Result<(), Failure> {
        let name = target::host(url);
        let host = self.hosts.get(&format!("{name}:{}", url.port_or_known_default().unwrap_or_default()));
        let busy = || Failure::Busy { host: name.to_owned() };
        if Instant::now() >= until {
            return Err(busy());
        }
        let turn = timeout_at(until, host.turn()).await.map_err(|_| busy())?.map_err(Failure::Closed)?;
        // Perhaps since an answer to a request before it.
        if self.is_paused(name) {
            return Err(Failure::Paused { host: name.to_owned() });
        }
        let answer = self.request(url, message, event).await?;
        if let Answer::Unavailable { reason, retry_after } = answer {
            return Err(Failure::Closed(host.failed(&format!("{name}: {reason}"), retry_after)));
        }
        host.succeeded();
        let result = match answer {
            Answer::Rejected(reason) => Err(BackendError::Rejected(format!("{name}: {reason}"))),
            Answer::Refused(reason) => Err(BackendError::Invalid(format!("{name}: {reason}"))),
            Answer::Gone(reason) => {
                self.pause(name);
                Err(BackendError::Gone { host: name.to_owned(), reason: format!("{name}: {reason}") })
            }
            Answer::Accepted | Answer::Unavailable { .. } => Ok(()),
        };
        drop(turn);
        Ok(result?)
    }

    /// Signs a message, sends it, and reads its answer.
    async fn request(&self, url: &Url, mut message: Message, event: &OutboxEvent) -> Result<Answer, BackendError> {
        let unusable = |_| BackendError::Invalid("its address cannot be requested".to_owned());
        let uri: Uri = url.as_str().parse().map_err(unusable)?;
        for (name, value) in &self.headers {
            message.headers.entry(name).or_insert_with(|| value.clone());
        }
        if let Some(secrets) = &self.secrets {
            sign(&secrets.signer().map_err(BackendError::Unavailable)?, &mut message, event);
        }
        Ok(match self.client.post(uri, message, self.timeout).await {
            Ok((status, headers)) => answer::of(status, &headers, SystemTime::now()),
            Err(NoAnswer::Forbidden(error)) => Answer::Rejected(error.to_string()),
            Err(error) => Answer::Unavailable { reason: error.to_string(), retry_after: None },
        })
    }

    /// What a failed request means for one of its events. It waits as long as its host is left alone, or longer after it has
    /// waited for long, since each wait is written. When event and host have waited for the limit, it is rejected.
    pub(super) fn error_of(&self, event: &OutboxEvent, failure: Failure) -> BackendError {
        let age = (Utc::now() - event.scheduled_at.max(event.created_at)).to_std().unwrap_or_default();
        let (wait, waited, reason) = match failure {
            Failure::Other(error) => return error,
            Failure::Busy { host } => return defer(format!("{host} is busy with earlier events"), NEXT_BATCH),
            Failure::Closed(Closed { wait, lasts, reason }) => (wait, age.min(lasts), reason),
            Failure::Paused { host } => {
                let reason = format!("{host} is paused; `outbox backends resume` ends that");
                return defer(reason, PAUSE.max((age / 8).min(LONGEST_WAIT)));
            }
        };
        if waited >= self.unavailable_limit {
            return BackendError::Rejected(format!("{reason}; unavailable for {:?}", self.unavailable_limit));
        }
        defer(reason, wait.max((waited / 8).min(LONGEST_WAIT)))
    }
}

/// Not all at the same moment.
fn defer(reason: String, wait: Duration) -> BackendError {
    BackendError::Deferred { reason, delay: wait.mul_f64(rand::random_range(1.0..=1.25)) }
}

/// Signs a message. The id is the row's, at every try: CloudEvents' ids are unique only with their sources.
fn sign(signer: &Signer, message: &mut Message, event: &OutboxEvent) {
    let (id, timestamp) = (event.id.to_string(), Utc::now().timestamp());
    let signature = signer.sign(&id, timestamp, &message.body);
    for (name, value) in
        [("webhook-id", id), ("webhook-timestamp", timestamp.to_string()), ("webhook-signature", signature)]
    {
        if let Ok(value) = HeaderValue::try_from(value) {
            message.headers.insert(name, value);
        }
    }
}

#[cfg(test)]
mod tests {
    use chrono::TimeDelta;

    use super::*;
    use crate::fixtures;
    use crate::settings::PublisherSettings;

    const MINUTE: Duration = Duration::from_secs(60);
    const HOUR: Duration = Duration::from_secs(3600);

    fn error(age: Duration, lasts: Duration) -> BackendError {
        let settings = PublisherSettings { unavailable_limit: HOUR, ..PublisherSettings::default() };
        let since = Utc::now() - TimeDelta::from_std(age).unwrap();
        let event = OutboxEvent { created_at: since, scheduled_at: since, ..fixtures::event(1, "") };
        let closed = Closed { wait: Duration::from_secs(1), lasts, reason: "503".to_owned() };
        Http::new(&settings).unwrap().error_of(&event, Failure::Closed(closed))
    }

    #[test]
    fn an_event_is_rejected_when_it_and_its_host_have_waited_for_the_limit() {
        assert!(matches!(error(2 * HOUR, 2 * HOUR), BackendError::Rejected(_)));
        // A fresh event, also in one request with an old one; and an old one, such as a replay, in a new outage.
        for (age, lasts) in [(MINUTE, 2 * HOUR), (2 * HOUR, MINUTE)] {
            let BackendError::Deferred { delay, .. } = error(age, lasts) else { panic!("{age:?} {lasts:?}") };
            assert!((7..10).contains(&delay.as_secs()), "about an eighth of what it has waited: {delay:?}");
        }
    }
}
