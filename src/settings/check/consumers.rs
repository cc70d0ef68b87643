//! Checks of a consumer's settings.

use std::time::Duration;

use super::{Check, Result};
use crate::error::SettingsError;
use crate::settings::{ConsumerSettings, Settings};

/// As long as the name of a handler may be, which `outbox consume` takes from it.
const MAX_NAME: usize = 92;

/// Where dead letters go needs to differ from stream to stream and from group to group.
const OF_STREAM: &str = "{stream}";
const OF_GROUP: &str = "{group}";

impl Check<'_> {
    pub(super) fn consumer(
        &self,
        key: &str,
        name: &str,
        consumer: &ConsumerSettings,
        settings: &Settings,
    ) -> Result<()> {
        let key_of = |name: &str| format!("{key}.{name}");
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || "_.-".contains(c);
        let named = !name.is_empty() && name.len() <= MAX_NAME && name.chars().all(plain);
        self.that(named, key, "a consumer's name is 1 to 92 of the characters a-z, 0-9, `_`, `.` and `-`")?;
        self.consumer_server(key, consumer, settings)?;
        for (name, value) in [("group", &consumer.group), ("name", &consumer.name)] {
            let fits = value.as_ref().is_none_or(|value| !value.is_empty() && !value.contains(char::is_control));
            self.that(fits, &key_of(name), "must be a name without control characters; leave it out for the default")?;
        }
        let are_named = consumer.streams.iter().all(|stream| !stream.is_empty());
        self.that(are_named, &key_of("streams"), "must not contain an empty name")?;
        let dead = &consumer.dead_letters;
        let problem = format!("must contain {OF_STREAM} and {OF_GROUP}, as in \"{{stream}}:dead:{{group}}\"");
        self.that(dead.contains(OF_STREAM) && dead.contains(OF_GROUP), &key_of("dead_letters"), problem)?;
        self.letters_slot(&key_of("dead_letters"), name, consumer, settings)?;
        self.at_least_one(&key_of("concurrency"), consumer.concurrency as u64)?;
        self.at_least_one(&key_of("max_bytes"), consumer.max_bytes as u64)?;
        self.at_least_one(&key_of("max_deliveries"), consumer.max_deliveries.into())?;
        let (instant, second) = (Duration::from_millis(1), Duration::from_secs(1));
        for (name, value, least) in [
            ("handler_timeout", consumer.handler_timeout, instant),
            ("reclaim_after", consumer.reclaim_after, second),
            ("lease", consumer.lease, second),
            ("connect_timeout", consumer.connect_timeout, instant),
            // A read waits for half of it, and Redis counts in milliseconds.
            ("socket_timeout", consumer.socket_timeout, 2 * instant),
            ("shutdown_timeout", consumer.shutdown_timeout, Duration::ZERO),
        ] {
            self.time(&key_of(name), value, least)?;
        }
        self.backoff(key, &consumer.retry_backoff)
    }

    /// An entry is moved to the dead letters in one step, so both must be in one slot of a Redis Cluster.
    fn letters_slot(&self, key: &str, name: &str, consumer: &ConsumerSettings, settings: &Settings) -> Result<()> {
        let publisher = consumer.source.as_ref().and_then(|source| settings.publishers.get(source));
        if publisher.is_none_or(|publisher| publisher.nodes.is_empty()) {
            return Ok(());
        }
        let before = consumer.dead_letters.split(OF_STREAM).next().unwrap_or_default();
        let group = consumer.group.as_deref().unwrap_or(name);
        let problem = "has a `{` before {stream}, so dead letters would not be in the slot of their stream in the Redis \
            Cluster; begin with {stream}, whose hash tag decides then";
        self.that(!before.replace(OF_GROUP, group).contains('{'), key, problem)
    }

    fn consumer_server(&self, key: &str, consumer: &ConsumerSettings, settings: &Settings) -> Result<()> {
        let key_of = |name: &str| format!("{key}.{name}");
        let Some(source) = &consumer.source else {
            let Some(url) = &consumer.url else {
                let remedy = "give `source`, the name of a publisher, or `url`, such as redis://localhost:6379/0";
                return Err(SettingsError::Missing { key: key_of("url"), remedy: remedy.to_owned() });
            };
            self.redis_url(&key_of("url"), url)?;
            self.tls_pair(key, consumer.tls.as_ref())?;
            return self.that(!consumer.streams.is_empty(), &key_of("streams"), "must name the streams to read");
        };
        self.that(consumer.url.is_none(), &key_of("url"), "conflicts with `source`: set only one")?;
        self.that(consumer.tls.is_none(), &key_of("tls"), "is for `url`; the publisher named by `source` has its own")?;
        let problem = format!("no publisher is named `{source}`; there {}", settings.publisher_names());
        let Some(publisher) = settings.publishers.get(source) else {
            return self.that(false, &key_of("source"), problem);
        };
        let problem =
            format!("publisher `{source}` has backend `{}`; a consumer reads redis_stream or nats", publisher.backend);
        self.that(["redis_stream", "nats"].contains(&publisher.backend.as_str()), &key_of("source"), problem)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::settings::{ConsumerSettings, Settings, StartAt};

    fn read(text: &str) -> Result<ConsumerSettings, String> {
        let text = format!("[publishers.default]\nurl = 'redis://h'\n[consumers.mail]\n{text}");
        let settings = Settings::from_toml(&text).map_err(|error| error.to_string())?;
        settings.consumer("mail").cloned().map_err(|error| error.to_string())
    }

    #[test]
    fn the_documented_table_is_read() {
        let consumer = read(
            "source = 'default'\nstreams = ['events']\ngroup = 'mailer'\nname = 'mailer-1'\nstart = '$'\nconcurrency = 4\n\
             max_bytes = '1MiB'\nhandler_timeout = '1m'\nreclaim_after = '20s'\nlease = '4s'\nmax_deliveries = 7\n\
             dead_letters = '{stream}-{group}'\ncreate_group = false\nretry_backoff = { base = '2s' }",
        )
        .unwrap();
        assert_eq!(
            (consumer.source.as_deref(), consumer.streams.as_slice()),
            (Some("default"), &["events".to_owned()][..])
        );
        assert_eq!((consumer.start, consumer.concurrency, consumer.max_bytes), (StartAt::Next, 4, 1 << 20));
        assert_eq!((consumer.reclaim_after, consumer.lease), (Duration::from_secs(20), Duration::from_secs(4)));
        assert_eq!((consumer.max_deliveries, consumer.create_group), (7, false));
        assert_eq!(consumer.retry_backoff.base, Duration::from_secs(2));
        let one = read("url = 'redis://h'\nstream = 'events'\nstart = '2026-01-31T12:00:00Z'").unwrap();
        assert_eq!(one.streams, ["events"]);
        assert_eq!(one.start, "2026-01-31T13:00:00+01:00".parse().unwrap());
    }

    #[test]
    fn dead_letters_in_a_cluster_are_in_the_slot_of_their_stream() {
        let read = |address: &str, text: &str| {
            let text = format!("[publishers.default]\n{address}\n[consumers.mail]\nsource = 'default'\n{text}");
            Settings::from_toml(&text).map(drop).map_err(|error| error.to_string())
        };
        let cluster = "nodes = ['redis://h']";
        for letters in ["dead_letters = '{dead}:{stream}:{group}'", "dead_letters = '{group}:{stream}'\ngroup = '{a}'"]
        {
            let error = read(cluster, letters).unwrap_err();
            assert!(error.contains("`consumers.mail.dead_letters`") && error.contains("before {stream}"), "{error}");
            read("url = 'redis://h'", letters).unwrap();
        }
        for letters in ["", "dead_letters = 'dead:{group}:{stream}'", "dead_letters = '{stream}:{dead}:{group}'"] {
            read(cluster, letters).unwrap();
        }
    }

    #[test]
    fn what_cannot_be_read_is_named() {
        for (text, expected) in [
            ("", "setting `consumers.mail.url` is missing: give `source`"),
            ("url = 'redis://h'", "`consumers.mail.streams`"),
            ("url = 'http://h'\nstream = 'e'", "must be an address that begins with"),
            ("source = 'default'\nurl = 'redis://h'", "conflicts with `source`"),
            ("source = 'other'", "no publisher is named `other`; there is `default`"),
            ("source = 'default'\nstart = 'now'", "(the first entry)"),
            ("source = 'default'\ndead_letters = '{stream}:dead'", "must contain {stream} and {group}"),
            ("source = 'default'\ngroup = ''", "leave it out for the default"),
            ("source = 'default'\nreclaim_after = '10ms'", "must be at least 1s"),
            ("source = 'default'\nsocket_timeout = '1ms'", "must be at least 2ms"),
            ("source = 'default'\nretry_backoff = { factor = 0.5 }", "`consumers.mail.retry_backoff.factor`"),
            ("source = 'default'\nstream = 'a'\nstreams = ['b']", "conflicts with"),
            ("source = 'default'\nstreems = ['b']", "did you mean `consumers.mail.streams`"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
        let error = Settings::from_toml("").unwrap().consumer("mail").unwrap_err().to_string();
        assert!(error.contains("no consumer is named `mail`"), "{error}");
    }
}
