//! The environment of a run: its own schema and streams, created before it and removed after it.

use std::collections::BTreeMap;
use std::io::Write;
use std::time::Duration;

use anyhow::Context;
use serde_json::{Value, json};
use uuid::Uuid;

use super::schema::{BenchSchema, remove_abandoned};
use crate::exit::UsageError;
use actix_outbox::bench_api::RawStream;
use actix_outbox::{PublisherSettings, Secret, SecretError, Settings, WorkerSettings};

/// The publishers of a measured worker; each has a stream.
pub(super) const PUBLISHERS: [&str; 3] = ["default", "second", "third"];

/// The publishers of a worker that has many.
pub(super) const MOST_PUBLISHERS: usize = 200;

/// How long the removal may take.
const REMOVAL_LIMIT: Duration = Duration::from_secs(60);

/// The servers, and the suffix of this run's names on them.
pub(super) struct BenchPlan {
    database: Secret,
    publisher: PublisherSettings,
    worker: WorkerSettings,
    suffix: String,
}

impl BenchPlan {
    pub(super) fn new(settings: &Settings) -> anyhow::Result<Self> {
        let publisher = redis_publisher(settings)?;
        if !settings.database.url.read()?.starts_with("postgres") {
            let problem = "`outbox bench` measures PostgreSQL: the database must be a postgres:// URL";
            return Err(UsageError(problem.to_owned()).into());
        }
        let suffix = new_suffix();
        Ok(Self {
            database: settings.database.url.clone(),
            publisher: publisher.clone(),
            worker: settings.worker.clone(),
            suffix,
        })
    }

    /// Checks that Redis can be reached, before anything is created.
    pub(super) async fn require_redis(&self) -> anyhow::Result<()> {
        for (_, settings) in self.publishers(&self.suffix) {
            RawStream::connect(&settings).await.context("Redis cannot be measured")?;
        }
        Ok(())
    }

    /// Removes the schemas and streams of killed runs, and reports it.
    pub(super) async fn remove_abandoned(&self) -> anyhow::Result<()> {
        for suffix in remove_abandoned(&self.database).await? {
            self.remove_streams(&suffix).await?;
            drop(writeln!(std::io::stderr(), "removed the leftovers of a killed run: {}", bench_name(&suffix)));
        }
        Ok(())
    }

    pub(super) async fn create(&self) -> anyhow::Result<BenchEnv> {
        self.create_as(&self.suffix).await
    }

    /// A second environment.
    pub(super) async fn create_second(&self) -> anyhow::Result<BenchEnv> {
        self.create_as(&self.second()).await
    }

    fn second(&self) -> String {
        format!("{}b", self.suffix)
    }

    async fn create_as(&self, suffix: &str) -> anyhow::Result<BenchEnv> {
        let mut streams = BTreeMap::new();
        for (name, settings) in self.publishers(suffix) {
            let stream = RawStream::connect(&settings).await?;
            streams.insert(name, Stream { settings, stream });
        }
        let schema = BenchSchema::create(&self.database, suffix).await?;
        Ok(BenchEnv { schema, streams, worker: self.worker.clone(), suffix: suffix.to_owned() })
    }

    /// Removes everything that this run has created, on its own connections.
    pub(super) async fn remove(&self) -> anyhow::Result<()> {
        let removed = async {
            for suffix in [&self.suffix, &self.second()] {
                BenchSchema::remove(&self.database, suffix).await?;
                self.remove_streams(suffix).await?;
            }
            Ok(())
        };
        let removed = tokio::time::timeout(REMOVAL_LIMIT, removed).await.context("the servers do not respond");
        removed.and_then(|removed| removed)
    }

    /// What the user can remove; the next run removes it too.
    pub(super) fn removal_hint(&self) -> String {
        format!(
            "leftovers of the bench may remain: run `outbox bench` again, or remove the schemas {name}* in {} and the keys \
             *{name}* in Redis",
            self.database,
            name = bench_name(&self.suffix)
        )
    }

    async fn remove_streams(&self, suffix: &str) -> anyhow::Result<()> {
        let streams = self.publishers(suffix).map(|(_, settings)| settings);
        for settings in streams.chain(idle_publishers(&self.publisher, suffix).map(|(_, settings)| settings)) {
            RawStream::connect(&settings).await?.remove().await?;
        }
        Ok(())
    }

    fn publishers(&self, suffix: &str) -> impl Iterator<Item = (&'static str, PublisherSettings)> {
        PUBLISHERS.into_iter().map(move |name| (name, with_stream(&self.publisher, suffix, name)))
    }
}

/// The default publisher, if it is a stream in Redis.
pub(super) fn redis_publisher(settings: &Settings) -> anyhow::Result<&PublisherSettings> {
    let name = settings.default_publisher()?;
    let publisher = settings.publishers.get(name).filter(|publisher| publisher.backend == "redis_stream");
    publisher.ok_or_else(|| {
        let problem = format!("`outbox bench` measures Redis: publishers.{name} must have backend = \"redis_stream\"");
        UsageError(problem).into()
    })
}

/// What distinguishes the names of a run from those of others.
pub(super) fn new_suffix() -> String {
    Uuid::new_v4().simple().to_string()[..12].to_owned()
}

/// The publishers that a worker with many has besides the default one; each has a stream, too.
fn idle_publishers(publisher: &PublisherSettings, suffix: &str) -> impl Iterator<Item = (String, PublisherSettings)> {
    let names = (1..MOST_PUBLISHERS).map(|number| format!("idle{number}"));
    names.map(move |name| (name.clone(), with_stream(publisher, suffix, &name)))
}

pub(super) fn with_stream(publisher: &PublisherSettings, suffix: &str, name: &str) -> PublisherSettings {
    let mut publisher = publisher.clone();
    (publisher.stream_name, publisher.rate_limit) = (format!("{}_{name}", bench_name(suffix)), None);
    publisher
}

pub(super) fn bench_name(suffix: &str) -> String {
    format!("outbox_bench_{suffix}")
}

/// A stream of this run.
pub(super) struct Stream {
    settings: PublisherSettings,
    pub(super) stream: RawStream,
}

pub(super) struct BenchEnv {
    pub(super) schema: BenchSchema,
    pub(super) streams: BTreeMap<&'static str, Stream>,
    pub(super) worker: WorkerSettings,
    suffix: String,
}

impl BenchEnv {
    /// An environment for a backend other than Redis.
    pub(super) fn without_streams(schema: BenchSchema, worker: WorkerSettings) -> Self {
        Self { schema, streams: BTreeMap::new(), worker, suffix: String::new() }
    }

    /// Empties the streams.
    pub(super) async fn clear_streams(&mut self) -> anyhow::Result<()> {
        for stream in self.streams.values_mut() {
            stream.stream.remove().await?;
        }
        Ok(())
    }

    /// Another connection to a stream, for reading it from its start.
    pub(super) async fn reader(&self, publisher: &str) -> anyhow::Result<RawStream> {
        let stream = self.streams.get(publisher).context("there is no such stream")?;
        Ok(RawStream::connect(&stream.settings).await?)
    }

    /// The processor time of Redis; `None`: it does not tell.
    pub(super) async fn redis_cpu(&mut self) -> anyhow::Result<Option<Duration>> {
        match self.streams.get_mut(PUBLISHERS[0]) {
            Some(stream) => Ok(stream.stream.cpu().await?),
            None => Ok(None),
        }
    }

    pub(super) async fn versions(&mut self) -> anyhow::Result<(String, String)> {
        let redis = match self.streams.values_mut().next() {
            Some(stream) => stream.stream.version().await?,
            None => String::new(),
        };
        Ok((format!("PostgreSQL {}", self.schema.version().await?), redis))
    }

    /// The settings of a system in this process that serves these publishers.
    pub(super) fn settings(&self, publishers: &[&str]) -> Settings {
        let served = self.streams.iter().filter(|(name, _)| publishers.contains(name));
        let mut settings = Settings::default();
        settings.database.url = self.schema.url().clone();
        settings.database.schema = Some(self.schema.name().to_owned());
        settings.publishers = served.map(|(name, it)| ((*name).to_owned(), it.settings.clone())).collect();
        settings.worker = self.worker.clone();
        (settings.worker.name, settings.worker.backends) = (None, None);
        settings
    }

    /// The settings of a worker in another process, as environment variables, because arguments would show passwords in the
    /// list of processes.
    pub(super) fn variables(&self, publishers: &[&str]) -> anyhow::Result<Vec<(&'static str, String)>> {
        variables_of(self.settings(publishers))
    }

    /// The same for the first publisher and others, at most [`MOST_PUBLISHERS`].
    pub(super) fn variables_for(&self, count: usize) -> anyhow::Result<Vec<(&'static str, String)>> {
        let mut settings = self.settings(&PUBLISHERS[..1]);
        let first = settings.publishers.get(PUBLISHERS[0]).context("there is no such publisher")?.clone();
        settings.publishers.extend(idle_publishers(&first, &self.suffix).take(count - 1));
        variables_of(settings)
    }
}

/// Settings as environment variables.
pub(super) fn variables_of(settings: Settings) -> anyhow::Result<Vec<(&'static str, String)>> {
    let Settings { database, publishers, worker, .. } = settings;
    let publishers: serde_json::Map<String, Value> = publishers
        .into_iter()
        .map(|(name, publisher)| Ok((name, described(&publisher)?)))
        .collect::<Result<_, SecretError>>()?;
    let worker = json!({
        "batch_size": worker.batch_size,
        "poll_interval": worker.poll_interval.as_secs_f64(),
        "lease": worker.lease.as_secs_f64(),
        "max_in_flight": worker.max_in_flight,
        "max_in_flight_bytes": worker.max_in_flight_bytes,
        "max_event_bytes": worker.max_event_bytes,
    });
    let schema = database.schema.map(|schema| ("OUTBOX__DATABASE__SCHEMA", schema));
    let variables = [
        ("OUTBOX__DATABASE__URL", database.url.read()?.into_owned()),
        ("OUTBOX__PUBLISHERS", Value::Object(publishers).to_string()),
        ("OUTBOX__WORKER", worker.to_string()),
    ];
    Ok(variables.into_iter().chain(schema).collect())
}

/// A publisher's settings as JSON, as in a settings file.
fn described(publisher: &PublisherSettings) -> Result<Value, SecretError> {
    let read = |secret: &Secret| secret.read().map(|text| json!(text));
    let all = |secrets: &[Secret]| secrets.iter().map(read).collect::<Result<Vec<_>, _>>();
    let sentinel = publisher.sentinel.as_ref().map(|it| Ok(json!({ "master": it.master, "nodes": all(&it.nodes)? })));
    let given = [
        ("url", publisher.url.as_ref().map(read).transpose()?),
        ("host", publisher.host.as_ref().map(|host| json!(host))),
        ("port", publisher.port.map(|port| json!(port))),
        ("db", publisher.db.map(|db| json!(db))),
        ("username", publisher.username.as_ref().map(|name| json!(name))),
        ("password", publisher.password.as_ref().map(read).transpose()?),
        ("nodes", (!publisher.nodes.is_empty()).then(|| all(&publisher.nodes)).transpose()?.map(Value::Array)),
        ("sentinel", sentinel.transpose()?),
        (
            "wait_replicas",
            publisher.wait_replicas.map(|it| json!({ "count": it.count, "timeout": it.timeout.as_secs_f64() })),
        ),
        ("stream_name", Some(json!(publisher.stream_name))),
        ("partitions", Some(json!(publisher.partitions))),
        ("max_len", Some(json!(publisher.max_len))),
        ("connect_timeout", Some(json!(publisher.connect_timeout.as_secs_f64()))),
        ("socket_timeout", Some(json!(publisher.socket_timeout.as_secs_f64()))),
    ];
    Ok(given.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect())
}

/// The settings with every secret as text: a run has one address.
pub(super) fn with_secrets_read(settings: &Settings) -> anyhow::Result<Settings> {
    let mut settings = settings.clone();
    let mut url = settings.database.url.read()?.into_owned();
    if let Some(password) = settings.database.password.take() {
        let mut address = url::Url::parse(&url).context("the URL is not valid")?;
        let _ = address.set_password(Some(&password.read()?));
        url = address.into();
    }
    settings.database.url = url.into();
    for publisher in settings.publishers.values_mut() {
        for secret in publisher.url.iter_mut().chain(&mut publisher.password) {
            *secret = secret.read()?.into_owned().into();
        }
    }
    Ok(settings)
}

#[cfg(test)]
mod tests {
    use super::*;
    use actix_outbox::LoadOptions;

    #[test]
    fn a_worker_reads_from_its_environment_what_was_given_to_the_bench() {
        for address in [
            "url = 'redis://:p@ss,word@host:1/2'",
            "host = 'h'\nport = 7\ndb = 3\nusername = 'u'\npassword = '[x'",
            "nodes = ['redis://a', 'redis://b']",
            "sentinel = { master = 'm', nodes = ['redis://a:1'] }\nwait_replicas = { count = 2, timeout = '50ms' }",
        ] {
            let toml = format!("[publishers.default]\n{address}\nmax_len = 0\nsocket_timeout = '1500ms'");
            let publisher = Settings::from_toml(&toml).unwrap().publishers.remove("default").unwrap();
            let text = json!({ "default": described(&publisher).unwrap() }).to_string();
            let loaded = Settings::load(&LoadOptions::default().variables([("OUTBOX__PUBLISHERS", text)])).unwrap();
            assert_eq!(loaded.publishers["default"], publisher, "{address}");
        }
    }
}
