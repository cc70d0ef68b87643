//! `OutboxSystem`: accepts what applications send.

use std::sync::Arc;

use actix::dev::{MessageResponse, OneshotSender};
use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, Context, Handler, ResponseFuture, WrapFuture};
use tokio::sync::oneshot;

use super::addresses::SupervisorAddress;
use super::context::SystemContext;
use super::death_watch::DeathWatch;
use super::health::{Health, HealthReport};
use super::intake::{PendingInsert, enqueue};
#[cfg(feature = "fault-injection")]
use super::messages::Panic;
use super::messages::{ActorKind, Shutdown};
use crate::error::{PublishError, SystemError};
use crate::handlers::Subscribe;
use crate::opaque_debug::opaque_debug;
use crate::publish::{InsertResult, NewEvent};

/// The address of an outbox for messages. Made by [`OutboxSystem::builder`](crate::OutboxSystem::builder).
///
/// If senders are faster than the database, its mailbox fills: `send` waits for space, `try_send` is refused. That applies
/// to all messages; the methods of [`Outbox`](crate::Outbox) do not pass through the mailbox, except
/// [`send`](crate::Outbox::send).
pub struct OutboxSystem {
    context: Arc<SystemContext>,
    _death_watch: DeathWatch,
}

opaque_debug!(OutboxSystem);

impl OutboxSystem {
    pub(crate) fn new(context: Arc<SystemContext>) -> Self {
        let death_watch = context.death_watch(ActorKind::OutboxSystem);
        Self { context, _death_watch: death_watch }
    }

    fn supervisor(&self) -> Option<SupervisorAddress> {
        self.context.addresses().supervisor.clone()
    }

    fn enqueue(&self, event: NewEvent) -> Result<oneshot::Receiver<InsertResult>, PublishError> {
        let worker = &self.context.settings.worker;
        let event = self.context.settings.routed(event.or_defaults(worker.max_retries, worker.max_event_bytes));
        event.check()?;
        if self.context.liveness.is_stopping() {
            return Err(PublishError::Stopped);
        }
        let (answer, stored) = oneshot::channel();
        enqueue(&self.context, PendingInsert { event, answer });
        Ok(stored)
    }
}

impl Actor for OutboxSystem {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.spawn(self.context.intake.closed().into_actor(self).map(|(), _, ctx| ctx.stop()));
    }
}

impl Handler<NewEvent> for OutboxSystem {
    type Result = PendingAnswer;

    fn handle(&mut self, event: NewEvent, ctx: &mut Self::Context) -> Self::Result {
        let answer = self.enqueue(event);
        if self.context.intake.is_full() {
            // Nothing is read from the mailbox meanwhile.
            ctx.wait(self.context.intake.space().into_actor(self));
        }
        PendingAnswer(answer)
    }
}

/// The answer to an event; if it is dropped, the event is abandoned.
#[doc(hidden)]
pub struct PendingAnswer(Result<oneshot::Receiver<InsertResult>, PublishError>);

opaque_debug!(PendingAnswer);

impl PendingAnswer {
    async fn arrive(self) -> InsertResult {
        self.0?.await.unwrap_or(Err(PublishError::Stopped))
    }
}

impl MessageResponse<OutboxSystem, NewEvent> for PendingAnswer {
    fn handle(self, _: &mut Context<OutboxSystem>, caller: Option<OneshotSender<InsertResult>>) {
        actix::spawn(async move {
            let Some(mut caller) = caller else {
                // A message without a caller is written like any other.
                let _ = self.arrive().await;
                return;
            };
            tokio::select! {
                stored = self.arrive() => {
                    let _ = caller.send(stored);
                }
                () = caller.closed() => {}
            }
        });
    }
}

impl Handler<Subscribe> for OutboxSystem {
    type Result = ResponseFuture<Result<(), SystemError>>;

    fn handle(&mut self, subscription: Subscribe, _: &mut Self::Context) -> Self::Result {
        let context = Arc::clone(&self.context);
        Box::pin(async move { context.subscribe(subscription).await })
    }
}

impl Handler<Health> for OutboxSystem {
    type Result = ResponseFuture<HealthReport>;

    fn handle(&mut self, _: Health, _: &mut Self::Context) -> Self::Result {
        Box::pin(super::supervisor::report(Arc::clone(&self.context)))
    }
}

impl Handler<Shutdown> for OutboxSystem {
    type Result = ResponseFuture<Result<(), SystemError>>;

    fn handle(&mut self, _: Shutdown, _: &mut Self::Context) -> Self::Result {
        let supervisor = self.supervisor();
        Box::pin(async move {
            let Some(supervisor) = supervisor else { return Err(SystemError::Stopped) };
            supervisor.shutdown.send(Shutdown).await.unwrap_or(Err(SystemError::Stopped))
        })
    }
}

/// Forwards the message to the actor that it names.
#[cfg(feature = "fault-injection")]
impl Handler<Panic> for OutboxSystem {
    type Result = ();

    fn handle(&mut self, message: Panic, _: &mut Self::Context) {
        if message.0 == ActorKind::OutboxSystem {
            panic!("asked to: {:?}", message.0);
        }
        let _ = self.supervisor().map(|supervisor| supervisor.panics.try_send(message));
    }
}
