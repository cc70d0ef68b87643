//! An outbox of a test's own.

use std::sync::Arc;
use std::time::{Duration, Instant};

use uuid::Uuid;

use super::published::Published;
use super::time::{advance, make_due};
use crate::error::{StoreError, SystemError};
use crate::event::OutboxEvent;
use crate::opaque_debug::opaque_debug;
use crate::settings::{PublisherSettings, Settings};
use crate::store::{ApplicationKind, OutboxConnection, Store};

/// How long a test waits for an event, and how often it reads it.
const PATIENCE: Duration = Duration::from_secs(30);
const CHECK_INTERVAL: Duration = Duration::from_millis(20);

/// The tables of an outbox, for one test: in a temporary SQLite file, or in a schema of its own in a PostgreSQL database. Many
/// tests can have one at the same time. No system runs; [`settings`](Self::settings) are for one.
///
/// ```no_run
/// # use actix_outbox::testing::{Expected, TestOutbox};
/// # use actix_outbox::{NewEvent, OutboxSystem};
/// # async fn test() -> Result<(), Box<dyn std::error::Error>> {
/// let test = TestOutbox::sqlite().await?;
/// let outbox = OutboxSystem::builder(test.settings().clone()).start().await?;
/// outbox.send(NewEvent::new("user.created", "tests")).await?;
/// outbox.drained().await;
/// test.published().await?.expect_one(Expected::new("user.created"));
/// outbox.shutdown().await?;
/// # Ok(()) }
/// ```
pub struct TestOutbox {
    settings: Settings,
    store: Arc<dyn Store>,
    place: Place,
}

opaque_debug!(TestOutbox);

/// Where the tables are.
enum Place {
    #[cfg(feature = "sqlite")]
    Folder { _removed_when_dropped: tempfile::TempDir },
    #[cfg(feature = "postgres")]
    Schema(String),
}

impl TestOutbox {
    /// An outbox in a SQLite file, which is deleted when this is dropped.
    ///
    /// # Errors
    /// If the file cannot be created.
    #[cfg(feature = "sqlite")]
    pub async fn sqlite() -> Result<Self, SystemError> {
        let folder = tempfile::tempdir().map_err(|error| {
            let (operation, reason) = ("create a folder", error.to_string());
            StoreError::Query { operation, reason, transient: false }
        })?;
        let url = format!("sqlite://{}", folder.path().join("outbox.db").display());
        Self::migrated(url, None, Place::Folder { _removed_when_dropped: folder }).await
    }

    /// An outbox in a new schema of this database; [`close`](Self::close) drops it. Its name begins with `outbox_test_`. The
    /// role needs the right to create schemas.
    ///
    /// # Errors
    /// If the database cannot be reached, or it refuses.
    #[cfg(feature = "postgres")]
    pub async fn postgres(url: &str) -> Result<Self, SystemError> {
        let schema = format!("outbox_test_{}", uuid::Uuid::now_v7().simple());
        Self::migrated(url.to_owned(), Some(schema.clone()), Place::Schema(schema)).await
    }

    async fn migrated(url: String, schema: Option<String>, place: Place) -> Result<Self, SystemError> {
        let mut settings = Settings::default();
        settings.database.url = url.into();
        settings.database.schema = schema;
        settings.worker.poll_interval = Duration::from_millis(20);
        let local = PublisherSettings { backend: "local".to_owned(), ..PublisherSettings::default() };
        settings.publishers.insert("default".to_owned(), local);
        let store = crate::store::connect(&settings.database)?;
        store.migrate(&|_| ()).await?;
        Ok(Self { settings, store, place })
    }

    /// Settings for a system: the backend is `local`, which accepts everything, so handlers are the only receivers.
    #[must_use]
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// A connection on which `publish` finds the tables.
    ///
    /// # Errors
    /// Those of connecting; [`StoreError::Unsuitable`]: the outbox is in another kind of database.
    pub async fn connection<C: OutboxConnection>(&self) -> Result<C, StoreError> {
        C::connect(self.store.application_target()).await
    }

    /// The events, as committed.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn published(&self) -> Result<Published, StoreError> {
        match self.store.application_target().0 {
            #[cfg(feature = "postgres")]
            ApplicationKind::Postgres(target) => Published::read(&mut target.connect_application().await?).await,
            #[cfg(feature = "mysql")]
            ApplicationKind::Mysql(address) => Published::read(&mut address.connect_application().await?).await,
            #[cfg(feature = "sqlite")]
            ApplicationKind::Sqlite(file) => Published::read(&mut file.connect_application().await?).await,
        }
    }

    /// Waits until the event is as the condition says, and returns it.
    ///
    /// # Panics
    /// If it is not within 30 s, or the database cannot be read.
    pub async fn wait_until(&self, id: Uuid, mut is_as: impl FnMut(&OutboxEvent) -> bool) -> OutboxEvent {
        let began = Instant::now();
        loop {
            let published = match self.published().await {
                Ok(published) => published,
                Err(error) => panic!("the events cannot be read: {error}"),
            };
            let event = published.events().iter().find(|event| event.id == id);
            if let Some(event) = event.filter(|event| is_as(event)) {
                return event.clone();
            }
            assert!(began.elapsed() < PATIENCE, "not within {PATIENCE:?}: {}", published.describe(id));
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
    }

    /// Lets this time pass for events that wait, as [`advance`].
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn advance(&self, time: Duration) -> Result<(), StoreError> {
        match self.store.application_target().0 {
            #[cfg(feature = "postgres")]
            ApplicationKind::Postgres(target) => advance(&mut target.connect_application().await?, time).await,
            #[cfg(feature = "mysql")]
            ApplicationKind::Mysql(address) => advance(&mut address.connect_application().await?, time).await,
            #[cfg(feature = "sqlite")]
            ApplicationKind::Sqlite(file) => advance(&mut file.connect_application().await?, time).await,
        }
    }

    /// Makes all events due that wait.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn make_due(&self) -> Result<(), StoreError> {
        match self.store.application_target().0 {
            #[cfg(feature = "postgres")]
            ApplicationKind::Postgres(target) => make_due(&mut target.connect_application().await?).await,
            #[cfg(feature = "mysql")]
            ApplicationKind::Mysql(address) => make_due(&mut address.connect_application().await?).await,
            #[cfg(feature = "sqlite")]
            ApplicationKind::Sqlite(file) => make_due(&mut file.connect_application().await?).await,
        }
    }

    /// Removes the tables. Shut the system down before.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn close(self) -> Result<(), StoreError> {
        match (self.place, self.store.application_target().0) {
            #[cfg(feature = "postgres")]
            (Place::Schema(schema), ApplicationKind::Postgres(target)) => target.drop_schema(&schema).await,
            #[allow(unreachable_patterns, reason = "unless both databases are built in")]
            _ => Ok(()),
        }
    }
}
