//! `OutboxAdmin`: reads and changes a whole outbox, for operators. The command line and the console are built on it.
//!
//! ```no_run
//! use actix_outbox::admin::{Action, ChangeRequest, EventFilter, OutboxAdmin, Selection};
//! use actix_outbox::{Settings, Status};
//!
//! # async fn retry_all(settings: &Settings) -> Result<(), Box<dyn std::error::Error>> {
//! let admin = OutboxAdmin::new(settings)?;
//! let failed = EventFilter { statuses: vec![Status::Failed], ..EventFilter::default() };
//! let mut selection = Selection::matching(failed);
//! loop {
//!     let request = ChangeRequest {
//!         action: Action::Retry,
//!         selection,
//!         actor: "nightly job".to_owned(),
//!         from: "host-7".to_owned(),
//!     };
//!     let report = admin.change(&request).await?;
//!     println!("{} events retried", report.changed.len());
//!     if let Some(error) = report.error {
//!         return Err(error.into()); // `report.rest` continues where it ended
//!     }
//!     match report.rest {
//!         Some(rest) => selection = rest,
//!         None => break,
//!     }
//! }
//! # Ok(()) }
//! ```

mod applying;
mod audit;
mod change;
mod check;
mod data;
#[cfg(feature = "consumer")]
mod dead_letters;
mod doctor;
mod error;
mod event_scan;
pub(crate) mod explain;
mod handlers;
mod lane_access;
mod list;
mod orphans;
mod pausing;
mod publishing;
mod retention;
mod schema;
mod status;
mod streams;

use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

pub use self::change::{ChangeReport, ChangeRequest, Selection};
pub use self::check::Reachability;
pub use self::doctor::{Finding, Severity};
pub use self::error::AdminError;
pub use self::handlers::HandlerStatus;
pub use self::list::{EventCount, EventPage, ListRequest};
pub use self::orphans::{OrphanedFields, RemovedOrphans};
pub use self::status::{BackendStatus, OutboxStatus, WorkerStatus};
use crate::error::{StoreError, SystemError};
use crate::event::OutboxEvent;
use crate::opaque_debug::opaque_debug;
use crate::settings::Settings;
pub use crate::store::migrate::{MigrationPlan, MigrationProgress, MigrationStep};
pub use crate::store::{
    Action, AuditEntry, BackendPause, CountMode, CreatedCursor, DataPart, EventFilter, HistoryBucket, InvalidCursor,
    OutcomeCounts, Resolution, Unreadable, Wait, WaitQuery,
};
use crate::store::{RetentionRun, Store};
use crate::system::Backends;

#[cfg(feature = "consumer")]
pub use self::explain::{EventGroup, EventGroups, GroupState};
pub use self::explain::{Explanation, Reason};

type Result<T, E = StoreError> = std::result::Result<T, E>;

/// Access to one outbox for operators. Cheap to clone; all clones share their connections.
///
/// It works in a tokio or an actix runtime, and without a running [`OutboxSystem`](crate::OutboxSystem). Every query has a
/// time limit. Lists and counts end after the time that the caller gives, changes after about 8 s; their results say where
/// they stopped.
#[derive(Clone)]
pub struct OutboxAdmin {
    store: Arc<dyn Store>,
    settings: Arc<Settings>,
    backends: Arc<Backends>,
    /// How far deleting old events has come.
    retention: Arc<tokio::sync::Mutex<RetentionRun>>,
}

opaque_debug!(OutboxAdmin);

impl OutboxAdmin {
    /// Prepares access to the outbox in `database.url`; the first call connects.
    ///
    /// A program with backends of its own calls [`Builder::admin`](crate::Builder::admin).
    ///
    /// # Errors
    /// [`SystemError::Settings`]: `database.url` names no database that this program was built for.
    pub fn new(settings: &Settings) -> Result<Self, SystemError> {
        Self::with_backends(settings, Arc::default())
    }

    pub(crate) fn with_backends(settings: &Settings, backends: Arc<Backends>) -> Result<Self, SystemError> {
        let store = crate::store::connect(&settings.database)?;
        Ok(Self { store, settings: Arc::new(settings.clone()), backends, retention: Arc::default() })
    }

    /// The outbox's own id, which its fields in Redis carry.
    ///
    /// # Errors
    /// [`StoreError::NotMigrated`]: the tables are missing or out of date.
    pub async fn outbox_id(&self) -> Result<Uuid> {
        self.store.outbox_id().await
    }

    /// The schema of the tables in PostgreSQL: the one in the settings, or the one that the first connection found.
    #[must_use]
    pub fn schema(&self) -> Option<String> {
        self.store.schema()
    }

    /// One event.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]: no event has this id. [`StoreError::Query`]: its row is not a valid event, which
    /// [`get_row`](Self::get_row) returns; or another error of the database.
    pub async fn get(&self, id: Uuid) -> Result<OutboxEvent> {
        self.store.find(id).await?.ok_or(StoreError::NotFound(id))
    }

    /// One event, or why its row is not a valid event.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]: no event has this id. Other errors of the database.
    pub async fn get_row(&self, id: Uuid) -> Result<Result<OutboxEvent, Unreadable>> {
        self.store.load(&[id]).await?.into_iter().next().ok_or(StoreError::NotFound(id))
    }

    /// Why an event has not been sent, or where it went.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]: no event has this id.
    pub async fn explain(&self, id: Uuid) -> Result<Explanation> {
        explain::explain(&*self.store, &self.settings, id).await
    }

    /// Outcomes of events since this long ago, in the order of time, without empty periods. They are kept for a day by minute
    /// and for 30 days by hour; workers record them once a minute.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn history(&self, resolution: Resolution, since: Duration) -> Result<Vec<HistoryBucket>> {
        self.store.history(resolution, since).await
    }

    /// How long published events waited, from a sample of those that the table still has. An event that names no backend is
    /// one of the default publisher, also if the query asks for that publisher's events.
    ///
    /// # Errors
    /// Errors of the database.
    pub async fn waits(&self, mut query: WaitQuery) -> Result<Vec<Wait>> {
        let lanes = query.backends.iter().flat_map(|backend| self.settings.lanes_of(backend));
        query.backends = lanes.map(str::to_owned).collect();
        let mut waits = self.store.sample_waits(query).await?;
        if let Ok(default) = self.settings.default_publisher() {
            for wait in waits.iter_mut().filter(|wait| wait.backend.is_empty()) {
                default.clone_into(&mut wait.backend);
            }
        }
        Ok(waits)
    }
}
