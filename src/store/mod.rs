//! The outbox in a database: one contract, [`Store`], with one suite of tests for every database.
//!
//! All SQL is in this module. Times are the database's own; a [`Position`] holds them in the database's representation.

use std::sync::Arc;

use crate::error::{SettingsError, StoreError, SystemError};
use crate::settings::DatabaseSettings;

pub use self::admin::{Action, CountMode, DataPart, Unreadable};
pub(crate) use self::admin::{AdminStore, Backlog, EventCounts, MOST_AHEAD, QueuePosition, WorkerRow};
pub use self::application::OutboxConnection;
pub(crate) use self::application::{ApplicationTarget, Kind as ApplicationKind};
pub use self::audit::AuditEntry;
pub(crate) use self::audit::{AuditNote, AuditRow};
pub(crate) use self::columns::with_columns;
#[cfg(feature = "_adapters")]
pub(crate) use self::content::first_difference_with_data;
pub use self::cursor::{CreatedCursor, InvalidCursor};
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) use self::deleting::record_and_delete;
#[cfg(feature = "postgres")]
pub(crate) use self::dispatch::TransactionId;
pub(crate) use self::dispatch::{
    Blocker, Blockers, DispatchStore, DueKind, DueLane, DueLanes, ExceptedEvent, FailureRecord, FetchRequest,
    FetchResult, FetchedRow, KeyStart, PredecessorQuery, Range, RoutedEvent, RowPlace, Snapshot, UnrecordedEvents,
};
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) use self::divide::divide;
#[cfg(any(feature = "mysql", feature = "sqlite"))]
pub(crate) use self::failures::{append_error, shorten};
pub(crate) use self::handlers::{
    Acceptance, Announcement, DeliveryRequest, FetchedDelivery, HandledDelivery, HandlerStore, MOST_COUNTED,
    NOT_COVERED, OwedHandler, RejectedDelivery, SettledEvent, handler_lane, handler_of,
};
pub use self::history::{HistoryBucket, OutcomeCounts, Resolution};
pub(crate) use self::inbox::TextQueries;
#[cfg(feature = "_adapters")]
pub(crate) use self::insert_outcome::Written;
pub(crate) use self::inspection::{ConnectionFacts, DatabaseFacts};
#[cfg(feature = "postgres")]
pub(crate) use self::lease::NO_OWNER;
pub(crate) use self::lease::{
    Heartbeat, LaneClaim, LeaseRow, LeaseSnapshot, LeaseStore, LiveWorker, PROTOCOL, forgotten_after,
};
pub(crate) use self::maintenance::{ExpiredBatch, MaintenanceStore, RetentionCursor, RetentionCutoff, RetentionRun};
pub(crate) use self::notify::{Listener, NotifyStore};
pub use self::pause::BackendPause;
pub(crate) use self::pause::NewPause;
#[cfg(any(feature = "mysql", feature = "postgres"))]
pub(crate) use self::period::Period;
pub(crate) use self::report::{LaneHealth, Unrecorded};
pub(crate) use self::schema::SchemaStore;
pub use self::selection::EventFilter;
pub(crate) use self::selection::{Page, ScanPage};
pub(crate) use self::settled::{Care, Settled};
#[cfg(feature = "redis")]
pub(crate) use self::shard_hash::shard_of;
pub(crate) use self::undeletable::warn_undeletable;
pub use self::waits::{Wait, WaitQuery};
pub(crate) use self::wakeup::{Notification, Wakeup};
pub(crate) use self::writer::{EventWriter, NotInserted, TakeEvents};

mod admin;
mod application;
pub(crate) mod audit;
mod columns;
#[cfg(test)]
pub(crate) mod conformance;
mod content;
mod cursor;
#[cfg(any(feature = "mysql", feature = "postgres"))]
mod deleting;
mod dispatch;
#[cfg(any(feature = "mysql", feature = "postgres"))]
mod divide;
#[cfg(any(feature = "mysql", feature = "sqlite"))]
mod failures;
mod handlers;
mod history;
pub(crate) mod inbox;
mod insert_outcome;
mod inspection;
mod json_equality;
mod lease;
mod maintenance;
pub(crate) mod migrate;
#[cfg(feature = "mysql")]
pub(crate) mod mysql;
mod notify;
mod pause;
#[cfg(any(feature = "mysql", feature = "postgres"))]
mod period;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
pub(crate) mod report;
mod schema;
#[cfg_attr(
    not(any(feature = "postgres", feature = "sqlite")),
    allow(dead_code, reason = "MariaDB has a query of its own for scans")
)]
mod selection;
mod settled;
#[cfg(feature = "redis")]
mod shard_hash;
#[cfg(feature = "sqlite")]
pub(crate) mod sqlite;
mod undeletable;
pub(crate) mod unserved;
mod waits;
mod wakeup;
mod writer;

/// Prepares access to the database in the settings; the first statement connects.
pub(crate) fn connect(settings: &DatabaseSettings) -> std::result::Result<Arc<dyn Store>, SystemError> {
    let url = settings.require_url()?.read()?;
    let invalid = |key: &str, problem: String| SettingsError::Invalid {
        key: key.to_owned(),
        origin: "the settings".to_owned(),
        problem,
    };
    let wrong = |problem| invalid("database.url", problem);
    match url.split_once(':').map(|(scheme, _)| scheme) {
        #[cfg(feature = "postgres")]
        Some("postgres" | "postgresql") => {
            let target = postgres::Target::from_settings(settings).map_err(wrong)?;
            let listener = postgres::Target::of_listener(settings);
            let listener = listener.map_err(|problem| invalid("database.listen_url", problem))?;
            let store = postgres::PostgresStore::new(target, settings.connections)?;
            Ok(match listener {
                Some(listener) => Arc::new(store.listening_at(listener)),
                None => Arc::new(store),
            })
        }
        #[cfg(feature = "mysql")]
        Some("mysql" | "mariadb") => Ok(Arc::new(mysql::MysqlStore::new(settings).map_err(wrong)?)),
        #[cfg(feature = "sqlite")]
        Some("sqlite") => Ok(Arc::new(sqlite::SqliteStore::connect(&url)?)),
        _ => {
            Err(wrong("is not a postgres://, mysql:// or sqlite:// URL that this program was built for".to_owned())
                .into())
        }
    }
}

pub(crate) type Result<T, E = StoreError> = std::result::Result<T, E>;

/// A lane's name: the value of `publisher_backend` in its events. `""` and a backend's own name are two lanes.
pub(crate) type LaneName = Arc<str>;

/// One leased part of a lane: of the events with one value of `publisher_backend`.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
#[cfg_attr(not(feature = "unstable-sessions"), expect(unreachable_pub, reason = "public with the sessions"))]
pub struct Shard {
    /// The lane's name: the value of `publisher_backend` in its events.
    pub lane: Arc<str>,
    /// 0 to 31; the events of one partition key are in one shard.
    pub number: i16,
}

/// A position in a lane's order: `scheduled_at` in the database's own microseconds, then `seq`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) struct Position {
    pub(crate) scheduled_at: i64,
    pub(crate) seq: i64,
}

impl Position {
    pub(crate) const START: Self = Self { scheduled_at: i64::MIN, seq: i64::MIN };
}

/// The outbox's tables in one database, by the roles in which its parts use them. A method may be repeated after a lost reply.
/// Its statements have time limits, except those whose commit may wait for a standby, and what must happen together is one
/// transaction.
pub(crate) trait Store:
    SchemaStore + EventWriter + DispatchStore + HandlerStore + MaintenanceStore + AdminStore + 'static
{
    /// Leases on a connection of their own, which is made when it is first used.
    fn leases(&self) -> Box<dyn LeaseStore>;

    /// Wake-ups between processes; `None` if each process finds the events of others by polling only.
    fn notify_store(&self) -> Option<&dyn NotifyStore>;

    /// How the application connects to the same database.
    fn application_target(&self) -> ApplicationTarget;

    /// Servers on other machines that connections do not verify, so that others may pretend to be them.
    fn unverified_servers(&self) -> Option<String> {
        None
    }
}
