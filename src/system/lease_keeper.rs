//! `LeaseKeeper`: owns the thread of the [`heartbeat`], and tells it when to end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use actix::{Actor, ActorContext, AsyncContext, Context, Handler, Message, ResponseFuture, WeakAddr};
use tokio::sync::oneshot;

use super::context::SystemContext;
use super::death_watch::{DeathWatch, panics_on_demand};
use super::heartbeat;
use super::messages::ActorKind;

pub(crate) struct LeaseKeeper {
    context: Arc<SystemContext>,
    control: Arc<Control>,
    _death_watch: DeathWatch,
}

impl LeaseKeeper {
    pub(crate) fn new(context: Arc<SystemContext>) -> Self {
        let death_watch = context.death_watch(ActorKind::LeaseKeeper);
        Self { context, control: Arc::default(), _death_watch: death_watch }
    }

    fn end(&self) {
        self.control.stop.store(true, Ordering::Release);
        self.context.wakeups.heartbeat.notify_one();
    }
}

impl Actor for LeaseKeeper {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let (context, control) = (Arc::clone(&self.context), Arc::clone(&self.control));
        let alive = Alive(ctx.address().downgrade());
        let started = std::thread::Builder::new().name("outbox-leases".to_owned()).spawn(move || {
            let _alive = alive;
            heartbeat::run(&context, &control);
        });
        if let Err(error) = started {
            tracing::error!(%error, "heartbeat's thread not started; retrying");
        }
    }
}

/// Held by the thread: however that ends, also by a panic, its keeper ends too and is replaced. The address is weak so that
/// the keeper can also end when no other address of it is left.
struct Alive(WeakAddr<LeaseKeeper>);

impl Drop for Alive {
    fn drop(&mut self) {
        if let Some(keeper) = self.0.upgrade() {
            // If its mailbox is closed, the keeper has ended already.
            let _ = keeper.try_send(ThreadEnded);
        }
    }
}

#[derive(Message)]
#[rtype(result = "()")]
struct ThreadEnded;

impl Handler<ThreadEnded> for LeaseKeeper {
    type Result = ();

    fn handle(&mut self, _: ThreadEnded, ctx: &mut Self::Context) {
        ctx.stop();
    }
}

impl Drop for LeaseKeeper {
    fn drop(&mut self) {
        self.end();
    }
}

panics_on_demand!(LeaseKeeper);

/// Ends the heartbeat, releases every lease and removes the worker; answered when that is done or has failed.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Leave;

impl Handler<Leave> for LeaseKeeper {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Leave, _: &mut Self::Context) -> Self::Result {
        let (done, gone) = oneshot::channel();
        *self.control.leave.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
        self.end();
        // An error means that the thread ended without leaving: its leases expire by themselves.
        Box::pin(async move { gone.await.unwrap_or(()) })
    }
}

/// What the actor shares with its thread.
#[derive(Default)]
pub(super) struct Control {
    stop: AtomicBool,
    leave: Mutex<Option<oneshot::Sender<()>>>,
}

impl Control {
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// The sender for the answer to a shutdown; `None` if the leases are kept for the next heartbeat.
    pub(super) fn take_leave(&self) -> Option<oneshot::Sender<()>> {
        self.leave.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
