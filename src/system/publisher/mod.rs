//! `Publisher`: one for each named backend; sends batches one at a time.

mod batch_sender;
mod batches;
mod checking;
mod opening;

use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, AtomicResponse, Context, Handler, WrapFuture};
use tokio::sync::Mutex;
use tokio::task::JoinError;

use self::batch_sender::BatchSender;
use super::context::SystemContext;
use super::death_watch::{DeathWatch, panics_on_demand};
use super::messages::{ActorKind, Deliver, Flush, OpenShards};
use super::publisher_state::PublisherState;
use crate::clock::BootInstant;

/// How often settled events are removed from the journal when no batch does it.
const FLUSH_INTERVAL: Duration = Duration::from_millis(500);

pub(crate) struct Publisher {
    context: Arc<SystemContext>,
    state: Arc<PublisherState>,
    sender: Arc<Mutex<BatchSender>>,
    name: String,
    mailbox: usize,
    flushing: bool,
    _death_watch: DeathWatch,
}

impl Publisher {
    pub(crate) fn new(context: Arc<SystemContext>, state: Arc<PublisherState>) -> Self {
        let death_watch = context.death_watch(ActorKind::Publisher(state.name.clone()));
        let mailbox = context.settings.worker.max_in_flight.max(16) + 16;
        let name = state.name.clone();
        let sender = Arc::new(Mutex::new(BatchSender::new(Arc::clone(&context), Arc::clone(&state))));
        Self { context, state, sender, name, mailbox, flushing: false, _death_watch: death_watch }
    }
}

impl Actor for Publisher {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // Every batch holds an event of the credit, so the mailbox is never full for the poller.
        ctx.set_mailbox_capacity(self.mailbox);
        ctx.run_interval(FLUSH_INTERVAL, |publisher, ctx| publisher.flush(ctx));
        tracing::debug!(backend = %self.name, "publisher started");
    }
}

impl Publisher {
    fn flush(&mut self, ctx: &mut Context<Self>) {
        if !ctx.connected() {
            return ctx.stop();
        }
        let rests = self.sender.try_lock().is_ok_and(|sender| sender.rests(BootInstant::now()));
        if rests || std::mem::replace(&mut self.flushing, true) {
            return;
        }
        let sender = Arc::clone(&self.sender);
        let work = self.context.runtime.spawn(async move { sender.lock().await.flush().await });
        ctx.spawn(work.into_actor(self).map(|result, publisher, _| {
            publisher.flushing = false;
            publisher.conclude(result, false);
        }));
    }

    /// Pauses after work that panicked: it must still be done, and would panic again immediately.
    fn conclude(&self, result: Result<(), JoinError>, sending: bool) {
        // The system has stopped, and its runtime with it.
        let Some(error) = result.err().filter(JoinError::is_panic) else { return };
        tracing::error!(backend = %self.name, %error, "publisher's work panicked; reopening its shards");
        self.state.close_all();
        self.state.pause("the publisher's work panicked; see the log for the place", sending);
    }
}

impl Handler<OpenShards> for Publisher {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, OpenShards(shards, under_way): OpenShards, _: &mut Self::Context) -> Self::Result {
        let sender = Arc::clone(&self.sender);
        let work = self.context.runtime.spawn(async move { sender.lock().await.open(&shards, under_way).await });
        AtomicResponse::new(Box::pin(
            work.into_actor(self).map(|result, publisher, _| publisher.conclude(result, false)),
        ))
    }
}

impl Handler<Deliver> for Publisher {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, Deliver(deliveries): Deliver, _: &mut Self::Context) -> Self::Result {
        let sender = Arc::clone(&self.sender);
        let work = self.context.runtime.spawn(async move { sender.lock().await.deliver(deliveries).await });
        AtomicResponse::new(Box::pin(
            work.into_actor(self).map(|result, publisher, _| publisher.conclude(result, true)),
        ))
    }
}

impl Handler<Flush> for Publisher {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, _: Flush, _: &mut Self::Context) -> Self::Result {
        let sender = Arc::clone(&self.sender);
        let work = self.context.runtime.spawn(async move { sender.lock().await.flush().await });
        AtomicResponse::new(Box::pin(
            work.into_actor(self).map(|result, publisher, _| publisher.conclude(result, false)),
        ))
    }
}

panics_on_demand!(Publisher);
