//! `LeaseKeeper`: owns the thread of the [`heartbeat`], and tells it when to end.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use actix::{Actor, ActorContext, AsyncContext, Context, Handler, Message, ResponseFuture, WeakAddr};
use tokio::sync::oneshot;

use super::heartbeat;
use super::messages::ActorKind;
use super::shared::{DeathWatch, Shared, panics_on_demand};

pub(crate) struct LeaseKeeper {
    shared: Arc<Shared>,
    control: Arc<Control>,
    _death_watch: DeathWatch,
}

impl LeaseKeeper {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let death_watch = shared.death_watch(ActorKind::LeaseKeeper);
        Self { shared, control: Arc::default(), _death_watch: death_watch }
    }

    fn end(&self) {
        self.control.stop.store(true, Ordering::Release);
        self.shared.beat_now.notify_one();
    }
}

impl Actor for LeaseKeeper {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let (shared, control) = (Arc::clone(&self.shared), Arc::clone(&self.control));
        let alive = Alive(ctx.address().downgrade());
        let started = std::thread::Builder::new().name("outbox-leases".to_owned()).spawn(move || {
            let _alive = alive;
            heartbeat::run(&shared, &control);
        });
        if let Err(error) = started {
            tracing::error!(%error, "cannot start the heartbeat's thread; another try follows");
        }
    }
}

/// The thread has it: however that ends, also by a panic, its keeper ends too and is replaced. A weak address, for the
/// keeper is to end as well when nobody has an address of it any more.
struct Alive(WeakAddr<LeaseKeeper>);

impl Drop for Alive {
    fn drop(&mut self) {
        if let Some(keeper) = self.0.upgrade() {
            // Where its mailbox is closed, it has ended already.
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

/// Ends the heartbeat, gives every lease up and forgets the worker; answered when that is done or has failed.
#[derive(Message)]
#[rtype(result = "()")]
pub(crate) struct Leave;

impl Handler<Leave> for LeaseKeeper {
    type Result = ResponseFuture<()>;

    fn handle(&mut self, _: Leave, _: &mut Self::Context) -> Self::Result {
        let (done, gone) = oneshot::channel();
        *self.control.leave.lock().unwrap_or_else(PoisonError::into_inner) = Some(done);
        self.end();
        // An error says that the thread is gone without having left: its leases run out by themselves.
        Box::pin(async move { gone.await.unwrap_or(()) })
    }
}

/// What the actor tells its thread.
#[derive(Default)]
pub(super) struct Control {
    stop: AtomicBool,
    leave: Mutex<Option<oneshot::Sender<()>>>,
}

impl Control {
    pub(super) fn is_stopped(&self) -> bool {
        self.stop.load(Ordering::Acquire)
    }

    /// Who waits for the worker to have left; `None` where its leases are for the next heartbeat.
    pub(super) fn take_leave(&self) -> Option<oneshot::Sender<()>> {
        self.leave.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}
