//! Checks of an `http` publisher.

use std::time::Duration;

use super::{Check, Result};
use crate::settings::{ContentMode, PublisherSettings};

const SCHEMES: &[&str] = &["https://", "http://"];

impl Check<'_> {
    pub(super) fn http(&self, key: &str, publisher: &PublisherSettings) -> Result<()> {
        let key_of = |name: &str| format!("{key}.{name}");
        if let Some(url) = &publisher.url {
            self.url(&key_of("url"), url, SCHEMES)?;
        }
        self.time(&key_of("timeout"), publisher.timeout, Duration::from_millis(1))?;
        self.time(&key_of("unavailable_limit"), publisher.unavailable_limit, Duration::ZERO)?;
        self.at_least_one(&key_of("concurrency"), publisher.concurrency as u64)?;
        let is_signed_batch = publisher.mode == ContentMode::Batch && publisher.secrets_file.is_some();
        let problem = "signs one event by its id; use it with the mode \"structured\" or \"binary\"";
        self.that(!is_signed_batch, &key_of("secrets_file"), problem)?;
        self.tls_pair(key, publisher.tls.as_ref())
    }
}
