//! `Outbox::drained`: waits until nothing is left that can be delivered.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;

use uuid::Uuid;

use super::context::SystemContext;
use super::handle::{CHECK_INTERVAL, Outbox};
use crate::clock::BootInstant;
use crate::error::StoreError;
use crate::store::{BackendPause, Backlog, DeliveryRequest, LaneName, UnrecordedEvents};

/// An outcome that could not be recorded for so long may never be.
const PATIENCE: Duration = Duration::from_secs(5);

/// How many times deliveries are asked for: each time, those that have to wait are postponed, and show what is behind them.
/// There are about a hundred in each round, for each shard.
const ROUNDS: usize = 50;

/// What [`Outbox::drained`] has left.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct Drained {
    /// Events that were sent or refused, but the database does not record it: a trigger refuses the change, for example, or
    /// another transaction has locked the row. [`Outbox::explain`] names the reason.
    pub unrecorded: Vec<Uuid>,
    /// How many due events other backends have, by name: this worker does not serve them, or an operator has paused them.
    pub elsewhere: BTreeMap<String, i64>,
}

impl Outbox {
    /// Waits until this worker and others have delivered everything that is due for the served backends. Held events, events
    /// behind a retry that is not due, and events of backends that an operator has paused do not count; events of a backend
    /// that is unavailable do, and so do events that handlers of this process are owed. Continues to wait while the database
    /// cannot be reached. Events whose outcome the database has not recorded for five seconds are
    /// returned and not waited for. A worker with a [`limit`](crate::Builder::limit) waits no longer than until it has delivered this many.
    pub async fn drained(&self) -> Drained {
        loop {
            if let Some(rest) = self.rest() {
                let used_up = self.context.quota.as_ref().is_some_and(|quota| quota.is_used_up());
                if used_up || !self.has_deliverable(&rest).await && self.rest().is_some() {
                    return Drained { unrecorded: rest.ids(), elsewhere: self.elsewhere().await };
                }
            }
            tokio::time::sleep(CHECK_INTERVAL).await;
        }
    }

    /// What is in memory, if it is only what cannot be recorded. A row that was locked for a moment is recorded soon.
    fn rest(&self) -> Option<Rest> {
        let before = BootInstant::now().before(PATIENCE);
        let deliveries = self.context.owed.only_unwritable(before)?;
        Some(Rest { events: self.context.only_unrecorded(before)?, deliveries })
    }

    /// What other backends have; nothing if the database does not say: `outbox status` shows it.
    async fn elsewhere(&self) -> BTreeMap<String, i64> {
        let context = Arc::clone(&self.context);
        let asked = self.context.runtime.spawn(async move { due_elsewhere(&context).await });
        asked.await.ok().and_then(Result::ok).unwrap_or_default()
    }

    /// Whether anything can be delivered; also if that cannot be known now.
    async fn has_deliverable(&self, rest: &Rest) -> bool {
        let (context, rest) = (Arc::clone(&self.context), rest.clone());
        let asked = self.context.runtime.spawn(async move {
            Ok::<_, StoreError>(
                has_deliverable_events(&context, &rest.events).await?
                    || has_deliverable_deliveries(&context, &rest.deliveries).await?,
            )
        });
        !matches!(asked.await, Ok(Ok(false)))
    }
}

/// What is in memory and cannot be recorded.
#[derive(Clone)]
struct Rest {
    events: UnrecordedEvents,
    /// By handler.
    deliveries: HashMap<String, Vec<(Uuid, i64)>>,
}

impl Rest {
    fn ids(&self) -> Vec<Uuid> {
        let of_handlers: BTreeSet<Uuid> = self.deliveries.values().flatten().map(|(id, _)| *id).collect();
        self.events.all().copied().chain(of_handlers).collect()
    }
}

async fn has_deliverable_events(context: &SystemContext, unrecorded: &UnrecordedEvents) -> Result<bool, StoreError> {
    let pauses = context.store.pauses().await?;
    let mut lanes: Vec<LaneName> = context.lanes().cloned().collect();
    lanes.retain(|lane| !context.publisher_of(lane).is_some_and(|publisher| is_paused(&pauses, &publisher.name)));
    context.store.has_due(&lanes, &context.settings.holding_lanes(), unrecorded).await
}

async fn due_elsewhere(context: &SystemContext) -> Result<BTreeMap<String, i64>, StoreError> {
    let (due, pauses) = tokio::try_join!(context.store.due(), context.store.pauses())?;
    let mut elsewhere = BTreeMap::new();
    for Backlog { lane, events, .. } in due {
        let name = match context.publisher_of(&lane) {
            Some(publisher) if is_paused(&pauses, &publisher.name) => publisher.name.clone(),
            Some(_) => continue,
            None if lane.is_empty() => "(default)".to_owned(),
            None => lane.to_string(),
        };
        *elsewhere.entry(name).or_default() += events;
    }
    Ok(elsewhere)
}

fn is_paused(pauses: &[BackendPause], name: &str) -> bool {
    pauses.iter().any(|pause| pause.backend == name && pause.is_whole())
}

/// Whether a handler of this process can be called. Deliveries behind one that is held or retried later cannot be due.
async fn has_deliverable_deliveries(
    context: &SystemContext,
    unwritable: &HashMap<String, Vec<(Uuid, i64)>>,
) -> Result<bool, StoreError> {
    let handlers = context.subscribed_names();
    for _ in 0..ROUNDS {
        if !context.store.has_due_deliveries(&handlers).await? {
            return Ok(false);
        }
        for handler in &handlers {
            let request = DeliveryRequest {
                handler: handler.clone(),
                shards: (0..context.store.shards()).collect(),
                except: unwritable.get(handler).cloned().unwrap_or_default(),
                max_events: 1,
                max_bytes: 1,
                max_event_bytes: 1,
            };
            if !context.store.fetch_deliveries(&request).await?.is_empty() {
                return Ok(true);
            }
        }
    }
    Ok(false)
}
