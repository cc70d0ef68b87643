//! The database and the stream of a run: created before it and removed after it.

use std::io::Write;
use std::time::Duration;

use anyhow::Context;
use url::Url;

use crate::bench::env::{PUBLISHERS, bench_name, new_suffix, redis_publisher, variables_of, with_stream};
use crate::bench::publishing::event;
use actix_outbox::admin::OutboxAdmin;
use actix_outbox::bench_api::{MysqlClient, RawStream};
use actix_outbox::{PublisherSettings, Secret, Settings, WorkerSettings};

/// Events that are written in one transaction.
const PAGE: u32 = 1_000;

/// How long the removal may take.
const REMOVAL_LIMIT: Duration = Duration::from_secs(60);

/// The databases of runs.
const ALL: &str =
    "SELECT schema_name FROM information_schema.schemata WHERE schema_name REGEXP '^outbox_bench_[0-9a-f]{12}$'";

/// The servers, and the suffix of this run's names on them.
pub(super) struct MysqlPlan {
    server: Secret,
    publisher: PublisherSettings,
    worker: WorkerSettings,
    suffix: String,
}

impl MysqlPlan {
    pub(super) fn new(settings: &Settings) -> anyhow::Result<Self> {
        Ok(Self {
            server: settings.database.url.clone(),
            publisher: redis_publisher(settings)?.clone(),
            worker: settings.worker.clone(),
            suffix: new_suffix(),
        })
    }

    /// Checks that Redis can be reached, before anything is created.
    pub(super) async fn require_redis(&self) -> anyhow::Result<()> {
        RawStream::connect(&self.publisher(&self.suffix)).await.context("Redis cannot be measured").map(drop)
    }

    /// Removes the databases and streams of killed runs, and reports it.
    pub(super) async fn remove_abandoned(&self) -> anyhow::Result<()> {
        let mut client = MysqlClient::connect(&self.server).await?;
        for name in client.texts(ALL).await? {
            if !lock(&mut client, &name).await? {
                continue;
            }
            let suffix = name.strip_prefix(&bench_name("")).unwrap_or_default();
            self.remove_on(&mut client, suffix).await?;
            client.execute(&format!("DO RELEASE_LOCK('{name}')")).await?;
            drop(writeln!(std::io::stderr(), "removed the leftovers of a killed run: {name}"));
        }
        Ok(())
    }

    pub(super) async fn create(&self) -> anyhow::Result<BenchDatabase> {
        let name = bench_name(&self.suffix);
        let mut url = Url::parse(&self.server.read()?).context("the database's address is not valid")?;
        url.set_path(&name);
        let mut settings = Settings::default();
        settings.database.url = url.as_str().into();
        settings.publishers = [(PUBLISHERS[0].to_owned(), self.publisher(&self.suffix))].into();
        settings.worker = self.worker.clone();
        (settings.worker.name, settings.worker.backends) = (None, None);
        let mut client = MysqlClient::connect(&self.server).await?;
        lock(&mut client, &name).await?;
        client.execute(&format!("CREATE DATABASE {name}")).await?;
        let (stream, admin) = (RawStream::connect(&self.publisher(&self.suffix)).await?, OutboxAdmin::new(&settings)?);
        Ok(BenchDatabase { client, name, stream, admin, settings })
    }

    /// Removes everything that this run has created, on its own connections.
    pub(super) async fn remove(&self) -> anyhow::Result<()> {
        let removed = async {
            let mut client = MysqlClient::connect(&self.server).await?;
            self.remove_on(&mut client, &self.suffix).await
        };
        tokio::time::timeout(REMOVAL_LIMIT, removed).await.context("the servers do not respond")?
    }

    async fn remove_on(&self, client: &mut MysqlClient, suffix: &str) -> anyhow::Result<()> {
        client.execute(&format!("DROP DATABASE IF EXISTS {}", bench_name(suffix))).await?;
        Ok(RawStream::connect(&self.publisher(suffix)).await?.remove().await?)
    }

    /// What the user can remove; the next run removes it too.
    pub(super) fn removal_hint(&self) -> String {
        let name = bench_name(&self.suffix);
        format!(
            "leftovers of the bench may remain: run `outbox bench` again, or remove the database {name} and the keys \
             *{name}* in Redis"
        )
    }

    fn publisher(&self, suffix: &str) -> PublisherSettings {
        with_stream(&self.publisher, suffix, PUBLISHERS[0])
    }
}

/// Marks a database as one of a running process; false if another process has done so.
async fn lock(client: &mut MysqlClient, name: &str) -> anyhow::Result<bool> {
    Ok(client.number(&format!("SELECT GET_LOCK('{name}', 0)")).await? == Some(1))
}

/// What a worker has done since it started.
pub(super) struct Drained {
    pub(super) events: i64,
    pub(super) took: Duration,
}

/// The database and the stream of a run.
pub(super) struct BenchDatabase {
    client: MysqlClient,
    name: String,
    pub(super) stream: RawStream,
    admin: OutboxAdmin,
    settings: Settings,
}

impl BenchDatabase {
    /// Creates the tables again.
    pub(super) async fn recreate(&mut self) -> anyhow::Result<()> {
        let name = &self.name;
        for statement in [format!("DROP DATABASE {name}"), format!("CREATE DATABASE {name}"), format!("USE {name}")] {
            self.client.execute(&statement).await?;
        }
        // Its earlier connections are in the database that was dropped.
        self.admin = self.admin()?;
        self.admin.migrate(|_| ()).await?;
        Ok(())
    }

    /// Writes events of 60 bytes.
    pub(super) async fn fill(&mut self, events: u32) -> anyhow::Result<()> {
        let mut left = events;
        while left > 0 {
            let count = left.min(PAGE);
            self.admin.publish_many((0..count).map(|_| event()).collect()).await?;
            left -= count;
        }
        Ok(())
    }

    /// A transaction with a snapshot, which holds back purge until it is dropped.
    pub(super) async fn pin(&self) -> anyhow::Result<MysqlClient> {
        let mut client = MysqlClient::connect(self.url()).await?;
        client.execute("START TRANSACTION WITH CONSISTENT SNAPSHOT").await?;
        client.number("SELECT COUNT(*) FROM outbox_events").await?;
        Ok(client)
    }

    /// When the running worker's first heartbeat was, in microseconds since 1970.
    pub(super) async fn worker_started(&mut self) -> anyhow::Result<Option<i64>> {
        let question = "SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', MIN(started_at)) FROM outbox_workers";
        Ok(self.client.number(question).await?)
    }

    /// What was published after this time, in microseconds since 1970.
    pub(super) async fn drained(&mut self, started: i64) -> anyhow::Result<Drained> {
        let published = format!(
            "FROM outbox_events WHERE status = 'published' AND published_at >= '1970-01-01' + INTERVAL {started} MICROSECOND"
        );
        let events = self.client.number(&format!("SELECT COUNT(*) {published}")).await?.unwrap_or(0);
        let last = format!("SELECT TIMESTAMPDIFF(MICROSECOND, '1970-01-01', MAX(published_at)) {published}");
        let took = self.client.number(&last).await?.map_or(0, |last| last - started);
        Ok(Drained { events, took: Duration::from_micros(u64::try_from(took)?.max(1)) })
    }

    /// The connections in this database.
    pub(super) async fn connections(&mut self) -> anyhow::Result<i64> {
        let question = "SELECT COUNT(*) FROM information_schema.processlist WHERE db = DATABASE()";
        Ok(self.client.number(question).await?.unwrap_or(0))
    }

    /// The versions of the server and of Redis.
    pub(super) async fn versions(&mut self) -> anyhow::Result<(String, String)> {
        let version = self.client.texts("SELECT VERSION()").await?.join("");
        let product = if version.contains("MariaDB") { "MariaDB" } else { "MySQL" };
        Ok((format!("{product} {version}"), self.stream.version().await?))
    }

    /// Another access to the outbox, with connections of its own.
    pub(super) fn admin(&self) -> anyhow::Result<OutboxAdmin> {
        Ok(OutboxAdmin::new(&self.settings)?)
    }

    /// Another connection to the stream, for reading it from its start.
    pub(super) async fn reader(&self) -> anyhow::Result<RawStream> {
        let publisher = self.settings.publishers.get(PUBLISHERS[0]).context("there is no such stream")?;
        Ok(RawStream::connect(publisher).await?)
    }

    pub(super) fn url(&self) -> &Secret {
        &self.settings.database.url
    }

    pub(super) fn worker(&self) -> &WorkerSettings {
        &self.settings.worker
    }

    /// The settings of a worker in another process, as environment variables.
    pub(super) fn variables(&self) -> anyhow::Result<Vec<(&'static str, String)>> {
        variables_of(self.settings.clone())
    }
}
