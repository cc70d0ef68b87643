//! `Registry`: fans each accepted event out to the local handlers, one key's events one after the other.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, WrapFuture};
use futures_util::future::join_all;

use super::messages::{Accepted, ActorKind, Cause, Complete, Failed, Failure};
use super::shared::{Lifeline, Shared, panics_on_demand};
use super::subscription::{Outcome, Subscription};
use super::ticket::Ticket;
use crate::store::Lane;

type Key = (Lane, String);

pub(crate) struct Registry {
    shared: Arc<Shared>,
    /// Keys whose handlers are running, with what waits behind.
    busy: HashMap<Key, VecDeque<Job>>,
    _lifeline: Lifeline,
}

/// An event and the handlers that it still has to meet.
struct Job {
    ticket: Ticket,
    handlers: Vec<Arc<Subscription>>,
}

impl Registry {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let lifeline = shared.lifeline(ActorKind::Registry);
        Self { shared, busy: HashMap::new(), _lifeline: lifeline }
    }

    fn begin(&mut self, job: Job, ctx: &mut Context<Self>) {
        if job.ticket.key().is_empty() {
            return self.run(job, None, ctx);
        }
        let key = (job.ticket.shard.lane.clone(), job.ticket.key().to_owned());
        if let Some(waiting) = self.busy.get_mut(&key) {
            waiting.push_back(job);
            return;
        }
        self.busy.insert(key.clone(), VecDeque::new());
        self.run(job, Some(key), ctx);
    }

    fn run(&mut self, job: Job, key: Option<Key>, ctx: &mut Context<Self>) {
        let limit = self.shared.settings.worker.handler_timeout;
        let Job { ticket, handlers } = job;
        let Some(event) = ticket.event().cloned() else { return };
        let answers = join_all(handlers.into_iter().map(move |handler| {
            let event = Arc::clone(&event);
            async move { (handler.name().to_owned(), handler.ask(event, limit).await) }
        }));
        ctx.spawn(answers.into_actor(self).map(move |answers, registry, ctx| {
            let handled = registry.conclude(ticket, answers);
            if let Some(key) = key {
                registry.go_on(key, handled, ctx);
            }
        }));
    }

    /// Returns whether the event is done.
    fn conclude(&mut self, mut ticket: Ticket, answers: Vec<(String, Outcome)>) -> bool {
        let unhandled = answers.iter().filter(|(_, outcome)| !matches!(outcome, Outcome::Handled));
        let pending: Vec<String> = unhandled.map(|(name, _)| name.clone()).collect();
        if pending.is_empty() {
            self.complete(vec![ticket]);
            return true;
        }
        let errors: Vec<String> = answers
            .into_iter()
            .filter_map(|(name, outcome)| match outcome {
                Outcome::Failed(reason) => Some(format!("handler `{name}`: {reason}")),
                Outcome::Handled | Outcome::NotBegun => None,
            })
            .collect();
        ticket.reject();
        let cause = if errors.is_empty() {
            tracing::warn!(handlers = ?pending, "handlers have stopped or hang; the events that wait for them come again and spend no retry");
            Cause::NotBegun { pending }
        } else {
            Cause::Handlers { pending, error: errors.join("; ") }
        };
        self.fail(vec![Failure { ticket, cause }]);
        false
    }

    /// The next event of the key runs; after a failure all that wait go back into the table, in the state they are in.
    fn go_on(&mut self, key: Key, handled: bool, ctx: &mut Context<Self>) {
        let Some(waiting) = self.busy.get_mut(&key) else { return };
        if !handled {
            let behind = waiting.drain(..).map(behind).collect();
            self.busy.remove(&key);
            return self.fail(behind);
        }
        match waiting.pop_front() {
            Some(job) => self.run(job, Some(key), ctx),
            None => {
                self.busy.remove(&key);
            }
        }
    }

    fn complete(&self, tickets: Vec<Ticket>) {
        let Some(completer) = self.shared.addresses().completer.clone() else { return };
        // Its mailbox holds as many messages as there can be tickets; where it is being replaced, the dropped tickets
        // close their shards and the journal tells.
        let _ = completer.try_send(Complete(tickets));
    }

    fn fail(&self, failures: Vec<Failure>) {
        if failures.is_empty() {
            return;
        }
        if let Some(retry) = self.shared.addresses().retry.clone() {
            let _ = retry.try_send(Failed(failures));
        }
    }
}

impl Actor for Registry {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.shared.settings.worker.max_in_flight + 16);
    }
}

impl Handler<Accepted> for Registry {
    type Result = ();

    fn handle(&mut self, Accepted(tickets): Accepted, ctx: &mut Self::Context) {
        let subscriptions = self.shared.subscriptions();
        let mut done = Vec::with_capacity(tickets.len());
        let mut waiting = Vec::new();
        for ticket in tickets {
            // Found in the journal, and not a valid event any more: no handler can be given it.
            let Some(event) = ticket.event() else {
                done.push(ticket);
                continue;
            };
            let handlers: Vec<_> = subscriptions.iter().filter(|handler| handler.wants(event)).cloned().collect();
            if handlers.is_empty() {
                done.push(ticket);
            } else if ticket.is_blocked() {
                waiting.push(behind(Job { ticket, handlers }));
            } else {
                self.begin(Job { ticket, handlers }, ctx);
            }
        }
        if !done.is_empty() {
            self.complete(done);
        }
        self.fail(waiting);
    }
}

panics_on_demand!(Registry);

/// An event whose turn does not come now: what stands before it in its key's order failed.
fn behind(mut job: Job) -> Failure {
    job.ticket.reject();
    let pending = job.handlers.iter().map(|handler| handler.name().to_owned()).collect();
    Failure { ticket: job.ticket, cause: Cause::Behind { pending } }
}
