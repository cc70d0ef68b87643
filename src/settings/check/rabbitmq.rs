//! Checks of a `rabbitmq` publisher.

use std::time::Duration;

use super::{Check, Result};
use crate::error::SettingsError;
use crate::settings::{ContentMode, PublisherSettings};

const SCHEMES: &[&str] = &["amqp://", "amqps://"];
const SCHEME_OF_TLS: &str = "amqps://";

/// What AMQP 0-9-1 allows for a name.
const MAX_NAME: usize = 255;

impl Check<'_> {
    pub(super) fn rabbitmq(&self, key: &str, publisher: &PublisherSettings) -> Result<()> {
        let key_of = |name: &str| format!("{key}.{name}");
        let Some(url) = &publisher.url else {
            let remedy = "rabbitmq needs `url`, such as amqp://user:password@localhost:5672/%2f".to_owned();
            return Err(SettingsError::Missing { key: key_of("url"), remedy });
        };
        self.url(&key_of("url"), url, SCHEMES)?;
        let is_short = publisher.exchange.len() <= MAX_NAME;
        self.that(is_short, &key_of("exchange"), format!("must have at most {MAX_NAME} bytes"))?;
        let is_for_one = publisher.mode != ContentMode::Batch;
        self.that(is_for_one, &key_of("mode"), "must be \"structured\" or \"binary\": a message has one event")?;
        let is_encrypted = url.as_text().is_none_or(|url| url.starts_with(SCHEME_OF_TLS));
        let fits = publisher.tls.is_none() || is_encrypted;
        self.that(fits, &key_of("tls"), format!("is for {SCHEME_OF_TLS} addresses"))?;
        self.time(&key_of("unavailable_limit"), publisher.unavailable_limit, Duration::ZERO)?;
        self.tls_pair(key, publisher.tls.as_ref())
    }
}
