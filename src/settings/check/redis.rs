//! Checks of a publisher to Redis: required keys, and keys that exclude each other.

use std::time::Duration;

use url::Url;

use super::{Check, Result, expected, has_hash_tag};
use crate::error::SettingsError;
use crate::settings::name_template::NameTemplate;
use crate::settings::partitions::MAX_PARTITIONS;
use crate::settings::{PublisherSettings, Secret, SentinelSettings, WaitReplicas};

const SCHEMES: &[&str] =
    &["redis://", "rediss://", "valkey://", "valkeys://", "redis+unix://", "valkey+unix://", "unix://"];
const SCHEMES_OF_SOCKETS: &[&str] = &["redis+unix", "valkey+unix", "unix"];
const SCHEMES_OF_TLS: &[&str] = &["rediss://", "valkeys://"];

impl Check<'_> {
    pub(super) fn redis(&self, key: &str, publisher: &PublisherSettings) -> Result<()> {
        self.stream_name(&format!("{key}.stream_name"), publisher)?;
        if let Some(age) = publisher.max_age {
            let key = format!("{key}.max_age");
            self.that(publisher.backend == "redis_stream", &key, "is for redis_stream")?;
            self.time(&key, age, Duration::from_millis(1))?;
        }
        let default = PublisherSettings::default();
        let of_nats = [
            ("stream", publisher.stream == default.stream),
            ("subject", publisher.subject == default.subject),
            ("servers", publisher.servers.is_empty()),
        ];
        self.defaults(key, &of_nats, "is for `nats`; the name of a stream in Redis is `stream_name`")?;
        self.redis_address(key, publisher)?;
        self.redis_tls(key, publisher)?;
        publisher.wait_replicas.map_or(Ok(()), |wait| self.wait_replicas(key, wait, publisher))
    }

    fn stream_name(&self, key: &str, publisher: &PublisherSettings) -> Result<()> {
        let template = NameTemplate::new(&publisher.stream_name);
        let problem = "has placeholders without a character between them that values never have, so different events could \
            get one name; write for example a `:` between them";
        self.that(template.is_unambiguous(), key, problem)?;
        // A channel has no slot.
        if publisher.backend == "redis_pubsub" {
            return Ok(());
        }
        let name = template.pattern();
        // The meta key contains the name, and a `}` in it would end the hash tag too early.
        let problem = "has a `}` but no hash tag, so its journal could not share its slot in a Redis Cluster; \
            leave out the `}`, or begin with a tag as in {shop}.events";
        self.that(!name.contains('}') || has_hash_tag(&name), key, problem)?;
        let is_in_one_slot = publisher.nodes.is_empty() || template.is_fixed() || template.has_constant_tag();
        let problem = "has placeholders, and its names would be in different slots of the Redis Cluster; begin with a hash \
            tag that all of them have, as in {shop}.events.{type}";
        self.that(is_in_one_slot, key, problem)
    }

    pub(super) fn partitions(&self, key: &str, publisher: &PublisherSettings) -> Result<()> {
        let partitions = publisher.partitions;
        let is_in_range = (1..=MAX_PARTITIONS).contains(&partitions);
        self.that(is_in_range, key, format!("must be {}, not {partitions}", expected::PARTITIONS))?;
        if partitions == 1 {
            return Ok(());
        }
        self.that(publisher.backend == "redis_stream", key, "is for redis_stream")?;
        let problem = "is for one stream, and `stream_name` has placeholders; leave out one of the two";
        self.that(NameTemplate::new(&publisher.stream_name).is_fixed(), key, problem)
    }

    fn redis_address(&self, key: &str, publisher: &PublisherSettings) -> Result<()> {
        let key_of = |name: &str| format!("{key}.{name}");
        if let Some(url) = &publisher.url {
            self.redis_url(&key_of("url"), url)?;
            return self.only(key, "url", publisher, &[]);
        }
        if !publisher.nodes.is_empty() {
            self.servers(&key_of("nodes"), &publisher.nodes, "a cluster")?;
            return self.only(key, "nodes", publisher, &[]);
        }
        if let Some(sentinel) = &publisher.sentinel {
            self.sentinel(&key_of("sentinel"), sentinel)?;
            return self.only(key, "sentinel", publisher, &["db", "username", "password"]);
        }
        let host = publisher.host.as_ref().filter(|host| !host.is_empty());
        let remedy = format!(
            "{} needs `url`, such as redis://localhost:6379/0, or `host`, `nodes` or `sentinel`",
            publisher.backend
        );
        host.map(|_| ()).ok_or(SettingsError::Missing { key: key_of("url"), remedy })
    }

    /// Checks that TLS is for all servers or none, and that what it needs is given.
    fn redis_tls(&self, publisher_key: &str, publisher: &PublisherSettings) -> Result<()> {
        let uses_tls =
            |url: &Secret| url.as_text().map(|url| SCHEMES_OF_TLS.iter().any(|scheme| url.starts_with(scheme)));
        let sentinels = publisher.sentinel.as_ref().map_or(&[][..], |sentinel| &sentinel.nodes);
        let servers: Vec<bool> =
            publisher.url.iter().chain(&publisher.nodes).chain(sentinels).filter_map(uses_tls).collect();
        let is_mixed = servers.contains(&true) && servers.contains(&false);
        let nodes = if publisher.sentinel.is_some() { "sentinel.nodes" } else { "nodes" };
        let problem = "has servers with and without TLS; write rediss:// for all of them, or redis://";
        self.that(!is_mixed, &format!("{publisher_key}.{nodes}"), problem)?;
        let Some(tls) = &publisher.tls else { return Ok(()) };
        let key = format!("{publisher_key}.tls");
        let is_for_none = publisher.host.is_some() || servers.iter().any(|uses_tls| !uses_tls);
        self.that(!is_for_none, &key, "is for rediss:// addresses")?;
        self.tls_pair(publisher_key, Some(tls))
    }

    /// Checks that the address is given by one key, next to which only the keys in `allowed` may be set.
    fn only(&self, key: &str, given: &str, publisher: &PublisherSettings, allowed: &[&str]) -> Result<()> {
        let parts = [
            ("host", publisher.host.is_some()),
            ("port", publisher.port.is_some()),
            ("db", publisher.db.is_some()),
            ("username", publisher.username.is_some()),
            ("password", publisher.password.is_some()),
            ("nodes", !publisher.nodes.is_empty()),
            ("sentinel", publisher.sentinel.is_some()),
        ];
        match parts.iter().find(|(part, is_given)| *is_given && *part != given && !allowed.contains(part)) {
            Some((part, _)) => {
                self.that(false, &format!("{key}.{part}"), format!("conflicts with `{key}.{given}`: set only one"))
            }
            None => Ok(()),
        }
    }

    pub(super) fn redis_url(&self, key: &str, url: &Secret) -> Result<()> {
        self.url(key, url, SCHEMES)?;
        let Some(text) = url.as_text() else { return Ok(()) };
        let parsed = Url::parse(text);
        self.that(parsed.is_ok(), key, "is not a valid address")?;
        let has_path = parsed.is_ok_and(|url| !is_socket(&url) || (!url.has_host() && url.path().len() > 1));
        self.that(has_path, key, "must name the socket by its whole path, as in redis+unix:///run/redis.sock")
    }

    /// Checks addresses of servers that have only database 0.
    fn servers(&self, key: &str, urls: &[Secret], whose: &str) -> Result<()> {
        for url in urls {
            self.redis_url(key, url)?;
            let first = url.as_text().is_none_or(|url| Url::parse(url).is_ok_and(|url| names_first_database(&url)));
            self.that(first, key, format!("must not name a database: {whose} has only database 0"))?;
        }
        Ok(())
    }

    fn sentinel(&self, key: &str, sentinel: &SentinelSettings) -> Result<()> {
        let example = "as in { master = \"mymaster\", nodes = [\"redis://host:26379\"] }";
        self.that(!sentinel.master.is_empty(), key, format!("needs `master`, {example}"))?;
        self.that(!sentinel.nodes.is_empty(), key, format!("needs `nodes`, {example}"))?;
        self.servers(&format!("{key}.nodes"), &sentinel.nodes, "a sentinel")
    }

    fn wait_replicas(&self, key: &str, wait: WaitReplicas, publisher: &PublisherSettings) -> Result<()> {
        let limit = publisher.socket_timeout;
        let problem = "is for events that Redis stores; Pub/Sub stores none";
        self.that(publisher.backend != "redis_pubsub", &format!("{key}.wait_replicas"), problem)?;
        let key_of = |name: &str| format!("{key}.wait_replicas.{name}");
        let problem = format!("must be {}, not {}", expected::FROM_ONE, wait.count);
        self.that(wait.count >= 1, &key_of("count"), problem)?;
        self.time(&key_of("timeout"), wait.timeout, Duration::from_millis(1))?;
        let problem = format!("must be less than `{key}.socket_timeout`, which is {limit:?}, not {:?}", wait.timeout);
        self.that(wait.timeout < limit, &key_of("timeout"), problem)
    }
}

fn is_socket(url: &Url) -> bool {
    SCHEMES_OF_SOCKETS.contains(&url.scheme())
}

fn names_first_database(url: &Url) -> bool {
    if is_socket(url) {
        return url.query_pairs().all(|(name, value)| name != "db" || value == "0");
    }
    ["", "/", "/0"].contains(&url.path())
}
