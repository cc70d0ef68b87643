//! Checks of a `nats` publisher.

use super::{Check, Result};
use crate::settings::{ContentMode, PublisherSettings};

const SCHEMES: &[&str] = &["nats://", "tls://"];

/// What a stream's name cannot contain.
const FORBIDDEN: &[char] = &['.', '*', '>', '/', '\\'];

impl Check<'_> {
    pub(super) fn nats(&self, key: &str, publisher: &PublisherSettings) -> Result<()> {
        let key_of = |name: &str| format!("{key}.{name}");
        let problem = "needs one of `url` and `servers`";
        self.that(publisher.url.is_some() == publisher.servers.is_empty(), key, problem)?;
        let default = PublisherSettings::default();
        let of_redis =
            [("stream_name", publisher.stream_name == default.stream_name), ("host", publisher.host.is_none())];
        self.defaults(key, &of_redis, "is for Redis; `nats` has `stream`, and `url` or `servers`")?;
        if let Some(url) = &publisher.url {
            self.url(&key_of("url"), url, SCHEMES)?;
        }
        for (n, server) in publisher.servers.iter().enumerate() {
            self.url(&key_of(&format!("servers.{n}")), server, SCHEMES)?;
        }
        let is_name = |c: char| !c.is_whitespace() && !c.is_control() && !FORBIDDEN.contains(&c);
        let named = !publisher.stream.is_empty() && publisher.stream.chars().all(is_name);
        self.that(
            named,
            &key_of("stream"),
            "must be a stream's name, without white space, `.`, `*`, `>`, `/` and `\\`",
        )?;
        self.that((1..=5).contains(&publisher.replicas), &key_of("replicas"), "must be 1 to 5")?;
        let problem = "is for `http`; a message of NATS is one event, \"structured\" or \"binary\"";
        self.that(publisher.mode != ContentMode::Batch, &key_of("mode"), problem)?;
        let users = [publisher.username.is_some(), publisher.credentials_file.is_some(), publisher.nkey_file.is_some()];
        let problem = "has more than one of `username`, `credentials_file` and `nkey_file`";
        self.that(users.into_iter().filter(|is_set| *is_set).count() <= 1, key, problem)?;
        self.tls_pair(key, publisher.tls.as_ref())
    }
}
