//! `Janitor`: deletes old events in small batches, and repairs rows that another writer left without a `seq`.

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context, WrapFuture};

use super::context::SystemContext;
use super::death_watch::{DeathWatch, panics_on_demand};
use super::messages::ActorKind;
use crate::clock::BootInstant;
use crate::error::StoreError;
use crate::store::{OutcomeCounts, RetentionCutoff, RetentionRun, Wakeup};

/// How often rows without a `seq` are searched; the index for it is empty in practice.
const REPAIR_INTERVAL: Duration = Duration::from_secs(5);

/// When and how often old events are searched, and the pause between two batches.
const FIRST_RETENTION: Duration = Duration::from_secs(1);
const RETENTION_INTERVAL: Duration = Duration::from_secs(60);
const PAUSE: Duration = Duration::from_millis(200);

/// How often the history of outcomes is written.
const HISTORY_INTERVAL: Duration = Duration::from_secs(60);

/// While events are delivered, deletion takes one part of the time in this many.
const SHARE_BESIDE_A_DRAIN: u32 = 30;

pub(crate) struct Janitor {
    context: Arc<SystemContext>,
    deleting: bool,
    retention: RetentionRun,
    _death_watch: DeathWatch,
}

impl Janitor {
    pub(crate) fn new(context: Arc<SystemContext>) -> Self {
        let death_watch = context.death_watch(ActorKind::Janitor);
        Self { context, deleting: false, retention: RetentionRun::default(), _death_watch: death_watch }
    }

    fn repair(&mut self, ctx: &mut Context<Self>) {
        if !ctx.connected() {
            return ctx.stop();
        }
        let context = Arc::clone(&self.context);
        let work = self.context.runtime.spawn(async move {
            match context.store.repair_missing_seq().await {
                Ok(0) => {}
                Ok(repaired) => {
                    tracing::warn!(events = repaired, "repaired events whose writer set seq to NULL");
                    context.announce(Wakeup::EveryLane);
                }
                Err(error) => tracing::debug!(%error, "search for rows without seq failed"),
            }
        });
        ctx.spawn(work.into_actor(self).map(|_, _, _| ()));
    }

    /// Finishes events that are owed to no handler any more although no answer finished them: two last answers may have met.
    fn finish_settled(&mut self, ctx: &mut Context<Self>) {
        let context = Arc::clone(&self.context);
        let work = self.context.runtime.spawn(async move {
            if let Err(error) = context.store.finish_settled().await {
                tracing::debug!(%error, "search for events that are owed to no handler failed");
            }
        });
        ctx.spawn(work.into_actor(self).map(|_, _, _| ()));
    }

    fn write_history(&mut self, ctx: &mut Context<Self>) {
        let context = Arc::clone(&self.context);
        let work = self.context.runtime.spawn(async move { write_history(&context).await });
        ctx.spawn(work.into_actor(self).map(|_, _, _| ()));
    }

    fn delete(&mut self, ctx: &mut Context<Self>) {
        if std::mem::replace(&mut self.deleting, true) {
            return;
        }
        let (context, mut run) = (Arc::clone(&self.context), std::mem::take(&mut self.retention));
        let work = self.context.runtime.spawn(async move {
            delete_expired(&context, &mut run).await;
            run
        });
        ctx.spawn(work.into_actor(self).map(|run, janitor, _| {
            (janitor.deleting, janitor.retention) = (false, run.unwrap_or_default());
        }));
    }
}

impl Actor for Janitor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let pace = |interval| self.context.pace(interval);
        ctx.run_interval(pace(REPAIR_INTERVAL), Self::repair);
        ctx.run_later(FIRST_RETENTION, Self::delete);
        ctx.run_interval(pace(RETENTION_INTERVAL), Self::delete);
        ctx.run_interval(HISTORY_INTERVAL, Self::write_history);
        ctx.run_interval(pace(REPAIR_INTERVAL), Self::finish_settled);
    }
}

panics_on_demand!(Janitor);

/// Writes the history. Counts that cannot be written are kept for the next time. If only the answer was lost, they count
/// twice, which affects a chart and no event.
pub(super) async fn write_history(context: &SystemContext) {
    let publishers = || context.publishers.values();
    let taken: Vec<(String, OutcomeCounts)> =
        publishers().map(|publisher| (publisher.name.clone(), publisher.metrics.take_outcomes())).collect();
    let told: Vec<(String, OutcomeCounts)> =
        taken.iter().filter(|(_, outcomes)| !outcomes.is_nothing()).cloned().collect();
    if told.is_empty() {
        return;
    }
    if let Err(error) = context.store.add_to_history(&told).await {
        tracing::debug!(%error, "history of outcomes not written");
        publishers().zip(taken).for_each(|(publisher, (_, outcomes))| publisher.metrics.restore(outcomes));
    }
}

async fn delete_expired(context: &SystemContext, run: &mut RetentionRun) {
    let expiry = RetentionCutoff::from(context.settings.retention);
    let holding = context.settings.holding_lanes();
    while !context.liveness.is_stopping() {
        let began = BootInstant::now();
        match run.delete_batch(&*context.store, expiry, &holding).await {
            Ok(None) => break,
            Ok(Some(deleted)) => {
                tracing::debug!(events = deleted, "deleted old events");
                if run.should_pause() {
                    break;
                }
            }
            Err(error) if error.is_transient() => return tracing::debug!(%error, "deletion of old events failed"),
            // The table grows.
            Err(error) => return tracing::warn!(%error, "deletion of old events failed"),
        }
        pause(context, began).await;
    }
    // One batch each time: people make few changes.
    if let Err(error) = context.store.delete_old_audit().await {
        tracing::debug!(%error, "deletion of old changes of operators failed");
    }
    delete_handled(context).await;
}

/// Deletes old notes of the inbox, if this database has one.
async fn delete_handled(context: &SystemContext) {
    let kept = context.settings.retention.inbox_kept();
    while !context.liveness.is_stopping() {
        let began = BootInstant::now();
        match context.store.delete_handled(kept).await {
            Ok(0) | Err(StoreError::NoInbox { .. }) => return,
            Ok(deleted) => tracing::debug!(notes = deleted, "deleted old notes of the inbox"),
            Err(error) if error.is_transient() => {
                return tracing::debug!(%error, "deletion of old notes of the inbox failed");
            }
            // It grows.
            Err(error) => return tracing::warn!(%error, "deletion of old notes of the inbox failed"),
        }
        pause(context, began).await;
    }
}

/// Waits before the next batch. Delivery has precedence.
async fn pause(context: &SystemContext, began: BootInstant) {
    let share = if context.is_idle() { 1 } else { SHARE_BESIDE_A_DRAIN };
    tokio::time::sleep(PAUSE.max(BootInstant::now().since(began) * share)).await;
}
