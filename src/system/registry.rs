//! `Registry`: passes each accepted event to the local handlers, the events of a key one after the other.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, WrapFuture};
use futures_util::future::join_all;

use super::context::SystemContext;
use super::death_watch::{DeathWatch, panics_on_demand};
use super::delivery::Delivery;
use super::left::{Key, RemainingHandlers};
use super::messages::{Accepted, ActorKind, Cause, Complete, Failed, Failure};
use crate::backoff::NextTry;
use crate::clock::BootInstant;
use crate::handlers::{Attempt, HandlerError, Outcome, Subscription};

pub(crate) struct Registry {
    context: Arc<SystemContext>,
    /// Keys whose handlers are running, with the events that wait behind.
    busy: HashMap<Key, VecDeque<HandlerJob>>,
    left: RemainingHandlers,
    _death_watch: DeathWatch,
}

/// An event and the handlers that must still receive it.
struct HandlerJob {
    delivery: Delivery,
    handlers: Vec<Arc<Subscription>>,
}

impl Registry {
    pub(crate) fn new(context: Arc<SystemContext>) -> Self {
        let death_watch = context.death_watch(ActorKind::Registry);
        Self { context, busy: HashMap::new(), left: RemainingHandlers::default(), _death_watch: death_watch }
    }

    fn begin(&mut self, job: HandlerJob, ctx: &mut Context<Self>) {
        if job.delivery.key().is_empty() {
            return self.run(job, None, ctx);
        }
        let key = key_of(&job.delivery);
        if let Some(waiting) = self.busy.get_mut(&key) {
            waiting.push_back(job);
            return;
        }
        self.busy.insert(key.clone(), VecDeque::new());
        self.run(job, Some(key), ctx);
    }

    fn run(&mut self, job: HandlerJob, key: Option<Key>, ctx: &mut Context<Self>) {
        let limit = self.context.settings.worker.handler_timeout;
        let HandlerJob { delivery, handlers } = job;
        let Some(event) = delivery.event().cloned() else { return };
        let attempt = Attempt::of(&event);
        let answers = join_all(handlers.into_iter().map(move |handler| {
            let event = Arc::clone(&event);
            async move { (handler.name().to_owned(), handler.ask(event, attempt, limit).await) }
        }));
        ctx.spawn(answers.into_actor(self).map(move |answers, registry, ctx| {
            let handled = registry.conclude(delivery, answers);
            if let Some(key) = key {
                registry.continue_key(key, handled, ctx);
            }
        }));
    }

    /// Returns whether the event is done for the handlers of this process.
    fn conclude(&mut self, mut delivery: Delivery, answers: Vec<(String, Outcome)>) -> bool {
        let (mut handled, mut failed, mut not_run, mut errors) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        let mut tries = Vec::new();
        for (name, outcome) in answers {
            match outcome {
                Outcome::Handled => handled.push(name),
                Outcome::NotStarted => not_run.push(name),
                Outcome::Failed(HandlerError { reason, next_try }) => {
                    errors.push(format!("handler `{name}`: {reason}"));
                    tries.push(next_try);
                    failed.push(name);
                }
            }
        }
        if self.context.liveness.owes_handlers() {
            self.leave(&mut delivery, std::mem::take(&mut not_run));
        }
        delivery.asked = handled.iter().chain(&failed).chain(&not_run).cloned().collect();
        let pending: Vec<String> = failed.into_iter().chain(not_run.iter().cloned()).collect();
        let not_run = !not_run.is_empty();
        if pending.is_empty() {
            self.complete(vec![delivery]);
            return true;
        }
        delivery.reject();
        let cause = if errors.is_empty() {
            tracing::warn!(handlers = ?pending, "handlers have stopped or hang; their waiting events are retried without counting an attempt");
            Cause::NotStarted { pending }
        } else {
            // A handler that did not start wants to be asked.
            tries.extend(not_run.then_some(NextTry::ByBackoff));
            Cause::Handlers { pending, error: errors.join("; "), next_try: NextTry::of_all(tries) }
        };
        self.fail(vec![Failure { delivery, cause }]);
        false
    }

    /// Turns the event into deliveries of these handlers, in which later events of its key follow it, too.
    fn leave(&mut self, delivery: &mut Delivery, names: Vec<String>) {
        if names.is_empty() {
            return;
        }
        if !delivery.key().is_empty() {
            self.left.note(&key_of(delivery), &names, BootInstant::now());
        }
        // What the event owes was fixed at its first acceptance; else the announcements decide, of which an operator may have
        // dropped one that this process does not have any more.
        let is_fixed = delivery.event().is_some_and(|event| event.pending_handlers.is_some());
        let subscriptions = self.context.subscriptions();
        let is_unsubscribed =
            |name: &String| subscriptions.iter().any(|handler| handler.name() == name && handler.is_unsubscribed());
        delivery.left.extend(names.into_iter().filter(|name| is_fixed || !is_unsubscribed(name)));
    }

    /// The handlers that receive an event here; it is left to the others that must still receive it.
    fn split(&mut self, delivery: &mut Delivery, subscriptions: &[Arc<Subscription>]) -> Vec<Arc<Subscription>> {
        let Some(event) = delivery.event().cloned() else { return Vec::new() };
        let wanting: Vec<Arc<Subscription>> =
            subscriptions.iter().filter(|handler| handler.wants(&event)).cloned().collect();
        if !self.context.liveness.owes_handlers() {
            return wanting;
        }
        let (here, later): (Vec<_>, Vec<_>) = wanting.into_iter().partition(|handler| self.may_run(handler, delivery));
        let lacking = event.pending_handlers.iter().flatten();
        let mut left: Vec<String> =
            lacking.filter(|name| !here.iter().any(|handler| handler.name() == *name)).cloned().collect();
        left.extend(
            later
                .iter()
                .map(|handler| handler.name().to_owned())
                .filter(|name| !left.contains(name))
                .collect::<Vec<_>>(),
        );
        self.leave(delivery, left);
        if !here.is_empty() {
            delivery.asked = here.iter().map(|handler| handler.name().to_owned()).collect();
        }
        here
    }

    /// Whether a handler is here, and owed no earlier event of the key.
    fn may_run(&self, handler: &Subscription, delivery: &Delivery) -> bool {
        let is_keyed = !delivery.key().is_empty();
        let is_behind = delivery.behind.iter().any(|name| name == handler.name())
            || is_keyed && self.left.has(&key_of(delivery), handler.name(), BootInstant::now());
        handler.is_alive() && !is_behind
    }

    /// Leaves the event to handlers that were left an earlier event since this one arrived.
    fn leave_what_must_wait(&mut self, job: &mut HandlerJob) {
        if !self.context.liveness.owes_handlers() {
            return;
        }
        let (here, later): (Vec<_>, Vec<_>) =
            std::mem::take(&mut job.handlers).into_iter().partition(|handler| self.may_run(handler, &job.delivery));
        self.leave(&mut job.delivery, later.iter().map(|handler| handler.name().to_owned()).collect());
        job.handlers = here;
    }

    /// Runs the next event of the key; after a failure all waiting events are released into the table in their present
    /// state.
    fn continue_key(&mut self, key: Key, handled: bool, ctx: &mut Context<Self>) {
        let Some(waiting) = self.busy.get_mut(&key) else { return };
        if !handled {
            let behind = waiting.drain(..).map(behind).collect();
            self.busy.remove(&key);
            return self.fail(behind);
        }
        match waiting.pop_front() {
            Some(mut job) => {
                self.leave_what_must_wait(&mut job);
                self.run(job, Some(key), ctx);
            }
            None => {
                self.busy.remove(&key);
            }
        }
    }

    fn complete(&self, mut deliveries: Vec<Delivery>) {
        deliveries.iter_mut().for_each(|delivery| delivery.forget_event());
        let Some(completer) = self.context.addresses().completer.clone() else { return };
        // The mailbox holds as many messages as there can be deliveries; if the completer is being replaced, the dropped
        // deliveries close their shards, and the journal shows what was sent.
        let _ = completer.try_send(Complete(deliveries));
    }

    fn fail(&self, failures: Vec<Failure>) {
        if failures.is_empty() {
            return;
        }
        if let Some(retry) = self.context.addresses().retry.clone() {
            let _ = retry.try_send(Failed(failures));
        }
    }
}

impl Actor for Registry {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.context.settings.worker.max_in_flight + 16);
    }
}

impl Handler<Accepted> for Registry {
    type Result = ();

    fn handle(&mut self, Accepted(deliveries): Accepted, ctx: &mut Self::Context) {
        let subscriptions = self.context.subscriptions();
        let mut done = Vec::with_capacity(deliveries.len());
        let mut waiting = Vec::new();
        for mut delivery in deliveries {
            // A row found in the journal that is not a valid event any more can be passed to no handler.
            let handlers = self.split(&mut delivery, &subscriptions);
            if handlers.is_empty() {
                done.push(delivery);
            } else if delivery.is_blocked() {
                waiting.push(behind(HandlerJob { delivery, handlers }));
            } else {
                self.begin(HandlerJob { delivery, handlers }, ctx);
            }
        }
        if !done.is_empty() {
            self.complete(done);
        }
        self.fail(waiting);
    }
}

panics_on_demand!(Registry);

fn key_of(delivery: &Delivery) -> Key {
    (delivery.shard.lane.clone(), delivery.key().to_owned())
}

/// An event whose handlers must wait: an event before it in its key's order failed.
fn behind(mut job: HandlerJob) -> Failure {
    job.delivery.reject();
    let pending = job.handlers.iter().map(|handler| handler.name().to_owned()).collect();
    Failure { delivery: job.delivery, cause: Cause::BlockedByEarlier { pending } }
}
