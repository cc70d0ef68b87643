//! Errors of operators' requests that concern more than the database.

use uuid::Uuid;

use crate::error::{SettingsError, StoreError};

/// An operator's request failed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum AdminError {
    /// The database refused or did not answer.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A publisher's settings are not valid.
    #[error(transparent)]
    Settings(#[from] SettingsError),
    /// The fields next to a stream cannot be read.
    #[error("orphaned fields in backend {backend} cannot be read: {reason}")]
    #[non_exhaustive]
    OrphansUnread {
        /// The publisher's name.
        backend: String,
        /// The backend's answer.
        reason: String,
    },
    /// The list of a backend's streams cannot be read.
    #[error("streams of backend {backend} cannot be read: {reason}")]
    #[non_exhaustive]
    StreamsUnread {
        /// The publisher's name.
        backend: String,
        /// The backend's answer.
        reason: String,
    },
    /// The fields next to a stream cannot be removed.
    #[error("orphaned fields in backend {backend} cannot be removed: {reason}")]
    #[non_exhaustive]
    OrphansKept {
        /// The publisher's name.
        backend: String,
        /// The backend's answer.
        reason: String,
    },
    /// The outbox of this database was named as one that no longer exists; nothing was removed.
    #[error("{outbox} is the outbox of this database")]
    #[non_exhaustive]
    OwnOutbox {
        /// The id.
        outbox: Uuid,
    },
    /// The database has no notifications: workers poll it.
    #[error("this database has no notifications; workers poll it for events")]
    NoNotifications,
    /// Workers do not release a backend, or it does not answer; its events were not changed.
    #[error("backend {lane:?} cannot be claimed: {reason}")]
    #[non_exhaustive]
    LaneInUse {
        /// The events' `publisher_backend`.
        lane: String,
        /// What prevents it.
        reason: String,
    },
    /// No publisher has this name.
    #[error("neither the settings nor a live worker has a publisher {name:?}; `outbox status` lists them")]
    #[non_exhaustive]
    UnknownBackend {
        /// The given name.
        name: String,
    },
    /// No handler has this name.
    #[error("handler {name:?} does not exist; `outbox handlers list` shows all handlers")]
    #[non_exhaustive]
    UnknownHandler {
        /// The given name.
        name: String,
    },
    /// A live process has the handler.
    #[error("handler {name:?} is alive and would register itself again; stop its service first")]
    #[non_exhaustive]
    LiveHandler {
        /// The handler's name.
        name: String,
    },
}
