//! `Notifier`: notifies other processes of what was committed here, and the poller of what was committed there.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use actix::{Actor, ActorContext, AsyncContext, Context, Handler, Message, WeakAddr};
use tokio::task::AbortHandle;
use tokio::time::Instant;

use super::context::SystemContext;
use super::death_watch::{DeathWatch, panics_on_demand};
use super::debounce::interval;
use super::messages::{ActorKind, Subscribed};
use super::reconnect::pause_after;
use crate::error::StoreError;
use crate::store::{Listener, Notification, NotifyStore, Wakeup};

/// The shortest time from one notification to the next.
const LEAST: Duration = Duration::from_millis(1);

/// The pause before listening is tried again if the store cannot listen.
const DEAF_PAUSE: Duration = Duration::from_secs(30);

/// A database that hears nothing for so long may go to sleep.
const LETS_SLEEP: Duration = Duration::from_secs(60);

pub(crate) struct Notifier {
    context: Arc<SystemContext>,
    tasks: Vec<AbortHandle>,
    listens: bool,
    _death_watch: DeathWatch,
}

impl Notifier {
    pub(crate) fn new(context: Arc<SystemContext>) -> Self {
        let death_watch = context.death_watch(ActorKind::Notifier);
        Self { context, tasks: Vec::new(), listens: false, _death_watch: death_watch }
    }

    /// Begins to listen, unless this process needs no wake-ups: it has neither publishers nor handlers.
    fn listen(&mut self, ctx: &Context<Self>) {
        if self.listens || self.context.publishers.is_empty() && self.context.subscriptions().is_empty() {
            return;
        }
        self.listens = true;
        let listening = listen(Arc::clone(&self.context), Ended(ctx.address().downgrade()));
        self.tasks.push(self.context.runtime.spawn(listening).abort_handle());
    }
}

impl Actor for Notifier {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let announcing = announce(Arc::clone(&self.context), Ended(ctx.address().downgrade()));
        self.tasks.push(self.context.runtime.spawn(announcing).abort_handle());
        self.listen(ctx);
    }
}

impl Drop for Notifier {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

/// Held by a task. A task ends before its actor only by a panic, and then the actor ends too and is replaced.
struct Ended(WeakAddr<Notifier>);

impl Drop for Ended {
    fn drop(&mut self) {
        if let Some(notifier) = self.0.upgrade() {
            // If its mailbox is closed, the notifier has ended already.
            let _ = notifier.try_send(TaskEnded);
        }
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct TaskEnded;

impl Handler<TaskEnded> for Notifier {
    type Result = ();

    fn handle(&mut self, _: TaskEnded, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

impl Handler<Subscribed> for Notifier {
    type Result = ();

    fn handle(&mut self, _: Subscribed, ctx: &mut Self::Context) {
        self.listen(ctx);
    }
}

panics_on_demand!(Notifier);

/// Notifies other processes, of the first wake-up immediately. Events whose notification fails are found by their polling.
async fn announce(context: Arc<SystemContext>, _guard: Ended) {
    let Some(notifications) = context.store.notify_store() else { return std::future::pending().await };
    let mut failures = 0;
    loop {
        context.wakeups.outgoing.arrival().await;
        let began = Instant::now();
        context.wakeups.announcing.store(true, Ordering::Release);
        let (wakeup, count) = context.wakeups.outgoing.take();
        if wakeup.is_empty() {
            // Wake-ups that arrived in the meantime were taken together with the earlier ones.
            context.wakeups.announcing.store(false, Ordering::Release);
            continue;
        }
        let announced = notifications.announce(context.outbox, context.worker, &wakeup).await;
        context.wakeups.announcing.store(false, Ordering::Release);
        match announced {
            Ok(()) => {
                if std::mem::take(&mut failures) > 0 {
                    tracing::info!("notification of other workers works again");
                }
                tokio::time::sleep_until(began + interval(count).max(LEAST)).await;
            }
            Err(error) => {
                if failures == 0 {
                    tracing::warn!(%error, "notification of other workers failed; they find new events by polling");
                }
                tokio::time::sleep(pause_after(failures)).await;
                failures = failures.saturating_add(1);
            }
        }
    }
}

/// Listens to other processes, and reconnects after each loss.
async fn listen(context: Arc<SystemContext>, _guard: Ended) {
    let Some(notifications) = context.store.notify_store() else { return std::future::pending().await };
    let mut failures = 0;
    loop {
        let error = listen_once(&context, notifications, &mut failures).await;
        if failures == 0 {
            let interval = context.settings.worker.poll_interval;
            tracing::warn!(%error, "listening for notifications failed; polling every {interval:?}");
        }
        let pause = if error.is_transient() { pause_after(failures) } else { DEAF_PAUSE };
        // A database that has gone to sleep has closed the connection, and a new one would wake it.
        let lets_sleep = context.pace(Duration::ZERO) >= LETS_SLEEP;
        tokio::time::sleep(if lets_sleep { context.pace(pause) } else { pause }).await;
        failures = failures.saturating_add(1);
    }
}

async fn listen_once(context: &SystemContext, notifications: &dyn NotifyStore, failures: &mut u32) -> StoreError {
    let silence = context.pace(Duration::ZERO);
    let mut listener = match notifications.subscribe(context.outbox, context.worker, silence).await {
        Ok(listener) => listener,
        Err(error) => return error,
    };
    if std::mem::take(failures) > 0 {
        tracing::info!("listening for notifications again");
    }
    // Earlier announcements were not received.
    context.note_wakeup(Wakeup::EveryLane);
    context.wakeups.leases_released.notify_one();
    follow(context, listener.as_mut()).await
}

async fn follow(context: &SystemContext, listener: &mut dyn Listener) -> StoreError {
    loop {
        match listener.next().await {
            Ok(Notification::LeasesReleased) => context.wakeups.leases_released.notify_one(),
            Ok(Notification::Wakeup(wakeup)) => {
                context.metrics.woken_by_others.increment(1);
                context.note_wakeup(wakeup);
            }
            Err(error) => return error,
        }
    }
}
