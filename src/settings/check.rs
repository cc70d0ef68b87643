//! Range checks, for settings that were loaded and for settings that were made in code.

use std::time::Duration;

mod consumers;
mod http;
#[cfg(feature = "nats")]
mod nats;
mod rabbitmq;
mod redis;

use super::units::LONGEST;
use super::{
    PublisherSettings, RetentionSettings, RetryBackoff, Secret, Settings, TlsSettings, WebSettings, WorkerSettings,
};
use crate::error::SettingsError;

/// Descriptions of valid values, for messages.
pub(super) mod expected {
    pub(in crate::settings) const FROM_ZERO: &str = "a whole number, at least 0";
    pub(in crate::settings) const FROM_ONE: &str = "a whole number, at least 1";
    pub(in crate::settings) const PORT: &str = "a port, 1 to 65535";
    pub(in crate::settings) const PARTITIONS: &str = "a whole number, 1 to 32";
    pub(in crate::settings) const DAYS: &str = "a whole number of days, 0 to 36500";
    pub(in crate::settings) const FACTOR: &str = "a number, at least 1";
    pub(in crate::settings) const JITTER: &str = "a number from 0 to 1";
}

type Result<T, E = SettingsError> = std::result::Result<T, E>;

const DATABASE_SCHEMES: &[&str] = &["postgres://", "postgresql://", "mysql://", "mariadb://", "sqlite://"];

/// Kinds of backend that come with the library.
pub(crate) const BUILT_IN: &[&str] = &[
    "redis_stream",
    "redis_list",
    "redis_pubsub",
    #[cfg(feature = "nats")]
    "nats",
    #[cfg(feature = "http-backend")]
    "http",
    #[cfg(feature = "rabbitmq")]
    "rabbitmq",
    "jsonl",
    "local",
];

const MAX_NAME: usize = 100;
const MAX_DAYS: u32 = 36_500;

/// What PostgreSQL keeps of a name.
const MAX_SCHEMA: usize = 63;

/// Whether the hash tag alone determines a Redis key's cluster slot: the text between the first `{` and the next `}`,
/// unless it is empty. Otherwise the whole key determines the slot.
pub(crate) fn has_hash_tag(key: &str) -> bool {
    let inside = key.split_once('{').and_then(|(_, rest)| rest.split_once('}'));
    inside.is_some_and(|(tag, _)| !tag.is_empty())
}

impl Settings {
    /// Checks that every value is in range. Results of [`load`](Self::load) and [`from_toml`](Self::from_toml) have
    /// passed this check; settings made in code are checked when the system starts.
    ///
    /// # Errors
    /// The first value that is out of range, by name.
    pub fn check(&self) -> Result<()> {
        self.check_from(&|_| "the settings".to_owned())
    }

    /// Checks all values; `origin` returns where a key's value came from.
    pub(super) fn check_from(&self, origin: &dyn Fn(&str) -> String) -> Result<()> {
        let check = Check { origin };
        if !self.database.url.is_empty() {
            check.url("database.url", &self.database.url, DATABASE_SCHEMES)?;
        }
        if let Some(listen) = &self.database.listen_url {
            check.listen_url(listen, &self.database.url)?;
        }
        if let Some(schema) = &self.database.schema {
            check.schema(schema, &self.database.url)?;
        }
        if let Some(connections) = self.database.connections {
            check.at_least_one("database.connections", connections as u64)?;
        }
        for (name, publisher) in &self.publishers {
            check.publisher(&format!("publishers.{name}"), name, publisher)?;
        }
        check.routes(self)?;
        for (name, consumer) in &self.consumers {
            check.consumer(&format!("consumers.{name}"), name, consumer, self)?;
        }
        check.worker(&self.worker)?;
        check.backoff("worker", &self.worker.retry_backoff)?;
        check.retention(&self.retention)?;
        check.deleting(self)?;
        check.web(&self.web)?;
        self.check_backends(&(check.origin)("worker.backends"))
    }

    /// Checks that the backends to serve are among the publishers.
    ///
    /// # Errors
    /// [`SettingsError::Invalid`] with `origin` as the place that names them.
    pub fn check_backends(&self, origin: &str) -> Result<()> {
        let Some(backends) = &self.worker.backends else { return Ok(()) };
        let invalid =
            |problem| SettingsError::Invalid { key: "worker.backends".to_owned(), origin: origin.to_owned(), problem };
        if backends.is_empty() {
            return Err(invalid("must name a publisher; leave it out to serve all of them".to_owned()));
        }
        match backends.iter().find(|name| !self.publishers.contains_key(*name)) {
            Some(name) => Err(invalid(format!("no publisher is named `{name}`; there {}", self.publisher_names()))),
            None => Ok(()),
        }
    }
}

impl super::DatabaseSettings {
    /// The database's address.
    ///
    /// # Errors
    /// If none was given.
    pub fn require_url(&self) -> Result<&Secret> {
        if self.url.is_empty() {
            return Err(SettingsError::Missing {
                key: "database.url".to_owned(),
                remedy: "give --database-url, OUTBOX__DATABASE__URL, DATABASE_URL, or `url` under [database] in a \
                         settings file, such as postgres://localhost/app or sqlite://outbox.db"
                    .to_owned(),
            });
        }
        Ok(&self.url)
    }
}

struct Check<'a> {
    origin: &'a dyn Fn(&str) -> String,
}

impl Check<'_> {
    fn that(&self, holds: bool, key: &str, problem: impl Into<String>) -> Result<()> {
        if holds {
            return Ok(());
        }
        Err(SettingsError::Invalid { key: key.to_owned(), origin: (self.origin)(key), problem: problem.into() })
    }

    fn at_least_one(&self, key: &str, value: u64) -> Result<()> {
        self.that(value >= 1, key, format!("must be {}, not {value}", expected::FROM_ONE))
    }

    fn time(&self, key: &str, value: Duration, least: Duration) -> Result<()> {
        let problem = format!("must be at least {least:?} and at most ten years, not {value:?}");
        self.that(value >= least && value <= LONGEST, key, problem)
    }

    /// Checks an address without showing it: it may contain a password in an unexpected place.
    fn url(&self, key: &str, url: &Secret, schemes: &[&str]) -> Result<()> {
        let is_address =
            |url: &str| schemes.iter().any(|scheme| url.strip_prefix(scheme).is_some_and(|rest| !rest.is_empty()));
        // What is read later is checked when it is used.
        let fits = url.as_text().is_none_or(is_address);
        self.that(fits, key, format!("must be an address that begins with {}", schemes.join(" or ")))
    }

    fn publisher(&self, key: &str, name: &str, publisher: &PublisherSettings) -> Result<()> {
        let key_of = |name: &str| format!("{key}.{name}");
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.-".contains(c);
        let named = !name.is_empty() && name.len() <= MAX_NAME && name.chars().all(plain);
        self.that(named, key, "a publisher's name is 1 to 100 of the characters a-z, 0-9, `_`, `.` and `-`")?;
        self.that(!publisher.backend.is_empty(), &key_of("backend"), "must name a kind, such as \"redis_stream\"")?;
        self.time(&key_of("connect_timeout"), publisher.connect_timeout, Duration::from_millis(1))?;
        self.time(&key_of("socket_timeout"), publisher.socket_timeout, Duration::from_millis(1))?;
        self.that(!publisher.stream_name.is_empty(), &key_of("stream_name"), "must not be empty")?;
        self.that(publisher.port != Some(0), &key_of("port"), format!("must be {}, not 0", expected::PORT))?;
        self.partitions(&key_of("partitions"), publisher)?;
        let db = publisher.db.unwrap_or(0);
        self.that(db >= 0, &key_of("db"), format!("must be {}, not {db}", expected::FROM_ZERO))?;
        if let Some(limit) = publisher.rate_limit {
            self.at_least_one(&key_of("rate_limit.per_second"), limit.per_second.into())?;
            self.at_least_one(&key_of("rate_limit.burst"), limit.burst.into())?;
        }
        self.built_in(key, publisher)
    }

    fn routes(&self, settings: &Settings) -> Result<()> {
        for (n, route) in settings.routes.iter().enumerate() {
            let key = |name: &str| format!("routes.{n}.{name}");
            self.that(!route.publisher.is_empty(), &key("publisher"), "must name the publisher")?;
            let problem = format!("no publisher is named `{}`; there {}", route.publisher, settings.publisher_names());
            self.that(settings.publishers.contains_key(&route.publisher), &key("publisher"), problem)?;
            for (name, pattern) in [("type", &route.event_type), ("source", &route.source)] {
                let is_given = pattern.as_ref().is_none_or(|pattern| !pattern.is_empty());
                self.that(is_given, &key(name), "must not be empty; leave it out for any")?;
            }
        }
        Ok(())
    }

    fn built_in(&self, key: &str, publisher: &PublisherSettings) -> Result<()> {
        if !BUILT_IN.contains(&publisher.backend.as_str()) {
            return Ok(());
        }
        let problem = format!("is only for an application's own backends; {} has no options", publisher.backend);
        self.that(publisher.options.is_empty(), &format!("{key}.options"), problem)?;
        match publisher.backend.as_str() {
            "redis_stream" | "redis_list" | "redis_pubsub" => self.redis(key, publisher),
            "http" => self.http(key, publisher),
            #[cfg(feature = "nats")]
            "nats" => self.nats(key, publisher),
            "rabbitmq" => self.rabbitmq(key, publisher),
            _ => Ok(()),
        }
    }

    /// Checks that a publisher has none of these settings, which are for another kind.
    fn defaults(&self, key: &str, all: &[(&str, bool)], problem: &str) -> Result<()> {
        all.iter().try_for_each(|(name, is_default)| self.that(*is_default, &format!("{key}.{name}"), problem))
    }

    fn tls_pair(&self, key: &str, tls: Option<&TlsSettings>) -> Result<()> {
        let both = tls.is_none_or(|tls| tls.cert_file.is_some() == tls.key_file.is_some());
        let problem = "has one of `cert_file` and `key_file`; a client's certificate needs both";
        self.that(both, &format!("{key}.tls"), problem)
    }

    fn worker(&self, worker: &WorkerSettings) -> Result<()> {
        let instant = Duration::from_millis(1);
        let named = worker.name.as_ref().is_none_or(|name| !name.is_empty());
        self.that(named, "worker.name", "must not be empty; leave it out for the host's name")?;
        self.at_least_one("worker.batch_size", worker.batch_size as u64)?;
        self.at_least_one("worker.max_in_flight", worker.max_in_flight as u64)?;
        self.at_least_one("worker.max_in_flight_bytes", worker.max_in_flight_bytes as u64)?;
        self.at_least_one("worker.max_event_bytes", worker.max_event_bytes as u64)?;
        let problem = format!("must be {}, not {}", expected::FROM_ZERO, worker.max_retries);
        self.that(worker.max_retries >= 0, "worker.max_retries", problem)?;
        self.time("worker.poll_interval", worker.poll_interval, instant)?;
        self.time("worker.lease", worker.lease, Duration::from_secs(1))?;
        self.time("worker.handler_timeout", worker.handler_timeout, instant)?;
        self.time("worker.handlers_owed", worker.handlers_owed, instant)?;
        self.time("worker.shutdown_timeout", worker.shutdown_timeout, Duration::ZERO)
    }

    fn listen_url(&self, listen: &Secret, url: &Secret) -> Result<()> {
        const KEY: &str = "database.listen_url";
        let is_postgres = |url: &str| url.is_empty() || url.starts_with("postgres");
        let problem = "is for PostgreSQL, and `database.url` is of another database".to_owned();
        self.that(url.as_text().is_none_or(is_postgres), KEY, problem)?;
        self.url(KEY, listen, &["postgres://", "postgresql://"])
    }

    fn schema(&self, schema: &str, url: &Secret) -> Result<()> {
        const KEY: &str = "database.schema";
        let is_name = (1..=MAX_SCHEMA).contains(&schema.len()) && !schema.contains(char::is_control);
        let problem = format!("must be a schema's name of 1 to {MAX_SCHEMA} bytes, without control characters");
        self.that(is_name, KEY, problem)?;
        let is_sqlite = url.as_text().is_some_and(|url| url.starts_with("sqlite:"));
        self.that(!is_sqlite, KEY, "is for PostgreSQL; a SQLite database has no schemas".to_owned())
    }

    fn backoff(&self, table: &str, backoff: &RetryBackoff) -> Result<()> {
        let key = |name: &str| format!("{table}.retry_backoff.{name}");
        let RetryBackoff { base, factor, max, jitter } = *backoff;
        self.time(&key("base"), base, Duration::ZERO)?;
        self.time(&key("max"), max, Duration::ZERO)?;
        let problem = format!("must be at least `{}`, which is {base:?}, not {max:?}", key("base"));
        self.that(max >= base, &key("max"), problem)?;
        let problem = format!("must be {}, not {factor}", expected::FACTOR);
        self.that(factor >= 1.0 && factor.is_finite(), &key("factor"), problem)?;
        let problem = format!("must be {}, not {jitter}", expected::JITTER);
        self.that((0.0..=1.0).contains(&jitter), &key("jitter"), problem)
    }

    fn web(&self, web: &WebSettings) -> Result<()> {
        let plain = |c: char| c.is_ascii_alphanumeric() || "-_.~".contains(c);
        let is_name = |name: &str| name.chars().all(plain) && name.chars().any(|c| c != '.');
        let names = web.path.strip_prefix('/');
        let is_path = names.is_some_and(|names| names.is_empty() || names.split('/').all(is_name));
        self.that(is_path, "web.path", "must be a path such as \"/outbox\", without a slash at its end")?;
        let is_link =
            |url: &String| (url.starts_with("https://") || url.starts_with("http://")) && url.contains("{trace_id}");
        self.that(
            web.trace_url.as_ref().is_none_or(is_link),
            "web.trace_url",
            "must be an http or https address with {trace_id} in it, such as \"https://jaeger.example/trace/{trace_id}\"",
        )?;
        for (key, users) in [("web.operators", &web.operators), ("web.readers", &web.readers)] {
            for (n, user) in users.iter().enumerate() {
                let key = |name: &str| format!("{key}.{n}.{name}");
                let named = (1..=MAX_NAME).contains(&user.name.len()) && !user.name.chars().any(char::is_control);
                self.that(named, &key("name"), "must be a name of 1 to 100 bytes without control characters")?;
                self.that(
                    !user.secret.is_empty(),
                    &key("secret"),
                    "must be given, or `secret_file` or `secret_command`",
                )?;
            }
        }
        Ok(())
    }

    /// Events that are kept for no day are deleted, and nothing else deletes those of one publisher.
    fn deleting(&self, settings: &Settings) -> Result<()> {
        const EITHER: &str =
            "deletes events that are done, and retention.cleanup_published = false keeps them: choose one";
        let RetentionSettings { cleanup_published, published_retention_days, .. } = settings.retention;
        self.that(cleanup_published || published_retention_days > 0, "retention.published_retention_days", EITHER)?;
        for (name, publisher) in &settings.publishers {
            let Some(days) = publisher.published_retention_days else { continue };
            let key = format!("publishers.{name}.published_retention_days");
            self.that(
                days == 0,
                &key,
                format!("must be 0 or left out, not {days}: retention is the same for all others"),
            )?;
            self.that(cleanup_published, &key, EITHER)?;
        }
        Ok(())
    }

    fn retention(&self, retention: &RetentionSettings) -> Result<()> {
        for (key, days) in [
            ("retention.published_retention_days", retention.published_retention_days),
            ("retention.failed_retention_days", retention.failed_retention_days),
            ("retention.inbox_retention_days", retention.inbox_retention_days),
        ] {
            self.that(days <= MAX_DAYS, key, format!("must be {}, not {days}", expected::DAYS))?;
        }
        Ok(())
    }
}
