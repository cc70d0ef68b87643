//! Explains why an event has not been sent: in a sentence for operators, in an object for programs.

#[cfg(feature = "consumer")]
mod groups;
mod judge;
mod route;
mod sentence;

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::{DateTime, Utc};
use serde::Serialize;
use uuid::Uuid;

#[cfg(feature = "consumer")]
pub use self::groups::{EventGroup, EventGroups, GroupState};
use self::route::RouteNote;
use crate::error::StoreError;
use crate::event::{OutboxEvent, Status};
use crate::settings::Settings;
use crate::store::{BackendPause, Blocker, Position, PredecessorQuery, QueuePosition, Store, Unreadable, WorkerRow};

/// The state of one event, and the reason why it has not been sent.
///
/// Its `Display` is the sentence. As JSON it is one object: `id`, `sentence`, `reason` in snake case, and the reason's
/// fields.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[non_exhaustive]
pub struct Explanation {
    /// The event's id.
    pub id: Uuid,
    /// The reason, for operators.
    pub sentence: String,
    /// The number of the route that decides about its backend, from 1: the first of `[[routes]]` that fits it. None if there
    /// is none, or the event names another backend.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub route: Option<usize>,
    /// The reason, for programs.
    #[serde(flatten)]
    pub reason: Reason,
}

/// The reason for an event's state. `backend` is the event's `publisher_backend`: empty means the worker's default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[cfg_attr(feature = "openapi", derive(utoipa::ToSchema))]
#[serde(tag = "reason", rename_all = "snake_case")]
#[non_exhaustive]
pub enum Reason {
    /// Its backend has it and every handler ran.
    Published {
        /// When that was recorded.
        at: Option<DateTime<Utc>>,
    },
    /// It was rejected permanently, or as often as it may be, or an operator ended it.
    Failed {
        /// The time of the failure.
        at: DateTime<Utc>,
        /// How often it was rejected.
        attempts: i32,
        /// The last rejection.
        error: String,
        /// Since when the backend has it: handlers failed.
        published_at: Option<DateTime<Utc>>,
    },
    /// django-broadcaster's own worker has claimed it.
    Processing {
        /// The time of the claim.
        since: DateTime<Utc>,
    },
    /// Its row is not a valid event.
    Unreadable {
        /// What is wrong with it.
        problem: String,
    },
    /// Its scheduled time is in the future.
    Scheduled {
        /// The time for which it is scheduled.
        at: DateTime<Utc>,
    },
    /// It was rejected and waits for its next attempt.
    Retrying {
        /// The time of the next attempt.
        at: DateTime<Utc>,
        /// How often it was rejected.
        attempts: i32,
        /// How often it may be rejected before it fails.
        max_retries: i32,
        /// The last rejection.
        error: String,
    },
    /// Its backend has it, and handlers must still run.
    Handlers {
        /// Since when the backend has it.
        published_at: DateTime<Utc>,
        /// The handlers that must still run; `None`: all.
        handlers: Option<Vec<String>>,
        /// When they are called again; `None`: as soon as a worker reads it.
        at: Option<DateTime<Utc>>,
        /// Why they did not all run the last time; empty: they have not been called yet.
        error: String,
    },
    /// Its backend has it, and handlers of other processes must still handle it: it is owed to them.
    Owed {
        /// Since when the backend has it.
        published_at: DateTime<Utc>,
        /// Which handlers; a service that is down gets it when it starts again.
        handlers: Vec<String>,
        /// The last rejection, if there was one.
        error: String,
    },
    /// Its writer set `seq` to NULL; a worker sets it within seconds.
    WithoutPlace,
    /// An operator has paused its backend.
    BackendPaused {
        /// The backend.
        backend: String,
        /// The pause.
        pause: BackendPause,
    },
    /// No worker is alive.
    NoWorker {
        /// The last heartbeat of any worker, if known.
        last_heartbeat: Option<DateTime<Utc>>,
    },
    /// No live worker is configured with its backend.
    UnknownBackend {
        /// The backend.
        backend: String,
        /// The workers that are alive.
        workers: Vec<String>,
    },
    /// Another event of its key comes first.
    BehindKey {
        /// The key.
        partition_key: String,
        /// The first one that is not done; what blocks that one blocks all of its key.
        event: Uuid,
        /// That one's status. `failed`: it holds its key, as `on_failed = "hold"` says.
        status: Status,
    },
    /// Every live worker that serves its backend is standing by.
    StandingBy {
        /// The backend.
        backend: String,
        /// Why, by worker.
        workers: BTreeMap<String, String>,
    },
    /// Its backend cannot be reached: sending is paused, and resumes by itself.
    Paused {
        /// The backend.
        backend: String,
        /// The worker that reports this.
        worker: String,
        /// Since when, by the worker's clock.
        since: Option<DateTime<Utc>>,
        /// Why.
        error: String,
    },
    /// It was sent or rejected, and the database refuses to record that; the worker retries by itself.
    Unrecorded {
        /// The backend.
        backend: String,
        /// The worker that tries.
        worker: String,
        /// Since when it cannot, by the worker's clock.
        since: DateTime<Utc>,
        /// Why.
        error: String,
    },
    /// The worker that should send it is stuck.
    Stuck {
        /// The backend.
        backend: String,
        /// The worker.
        worker: String,
    },
    /// No worker owns its shard at the moment; one takes it within the lease time and a second.
    NoOwner {
        /// The backend.
        backend: String,
        /// The shard.
        shard: i16,
        /// The workers that could.
        workers: Vec<String>,
    },
    /// Its backend's rate is limited, and others come first.
    RateLimited {
        /// The backend.
        backend: String,
        /// The worker that sends it.
        worker: String,
        /// The events a second that this worker may send.
        per_second: u32,
        /// Pending events of the backend that come first.
        ahead: i64,
        /// Whether counting stopped there.
        more_ahead: bool,
    },
    /// It is due, and its worker will send it.
    Due {
        /// Since when.
        since: DateTime<Utc>,
        /// The worker that owns its shard.
        worker: String,
        /// The shard.
        shard: i16,
        /// Pending events of the backend that come first.
        ahead: i64,
        /// Whether counting stopped there.
        more_ahead: bool,
    },
}

/// The facts for the judgement.
#[derive(Debug, Clone)]
struct Circumstances {
    event: OutboxEvent,
    position: QueuePosition,
    /// The first event of its key that must be sent before it.
    before: Option<(Uuid, Status)>,
    workers: Vec<WorkerRow>,
    /// The pause of its backend.
    pause: Option<BackendPause>,
    /// A worker without a heartbeat for longer is dead.
    lease: Duration,
}

/// Explains why an event has not been sent.
///
/// # Errors
/// [`StoreError::NotFound`], and other errors of the database.
pub(crate) async fn explain(store: &dyn Store, settings: &Settings, id: Uuid) -> Result<Explanation, StoreError> {
    let (loaded, position) = tokio::try_join!(async { store.load_checked(&[id]).await }, store.queue_position(id))?;
    let (event, position) = loaded.into_iter().next().zip(position).ok_or(StoreError::NotFound(id))?;
    let mut note = None;
    let reason = match event {
        Ok(event) => {
            note = RouteNote::of(settings, &event);
            let (workers, pauses) = tokio::try_join!(store.workers(), store.pauses())?;
            let lane = event.publisher_backend.as_str();
            let pause =
                pauses.into_iter().find(|pause| pause.is_whole() && settings.lanes_of(&pause.backend).contains(&lane));
            let before = before(store, settings, &event, &position).await?;
            judge::judge(&Circumstances { event, position, before, workers, pause, lease: settings.worker.lease })
        }
        // Its outcome is known all the same.
        Err(Unreadable { status: Some(Status::Published), .. }) => Reason::Published { at: None },
        Err(Unreadable { reason, .. }) => Reason::Unreadable { problem: reason },
    };
    let sentence = match &note {
        Some(note) => format!("{reason} {note}"),
        None => reason.to_string(),
    };
    Ok(Explanation { id, sentence, route: note.map(|note| note.number), reason })
}

async fn before(
    store: &dyn Store,
    settings: &Settings,
    event: &OutboxEvent,
    position: &QueuePosition,
) -> Result<Option<(Uuid, Status)>, StoreError> {
    if event.partition_key.is_empty() || !matches!(event.status, Status::Pending | Status::Retry) {
        return Ok(None);
    }
    let lane = &event.publisher_backend;
    let holds = settings.holding_lanes().iter().any(|holding| **holding == **lane);
    let question = PredecessorQuery {
        key: event.partition_key.clone(),
        from: Position::START,
        before: position.position,
        except: Vec::new(),
    };
    let Some(Blocker { id, .. }) = store.blocker(lane, holds, question).await? else { return Ok(None) };
    let status = match store.load_without_data(&[id]).await?.into_iter().next() {
        Some(Ok(event)) => event.status,
        Some(Err(unreadable)) => unreadable.status.unwrap_or(Status::Pending),
        // Done and deleted since.
        None => return Ok(None),
    };
    Ok(Some((id, status)))
}

impl std::fmt::Display for Explanation {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.pad(&self.sentence)
    }
}
