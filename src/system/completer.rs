//! `Completer`: records what is done, many events in one UPDATE.

use std::sync::Arc;

use actix::{Actor, ActorFutureExt, AsyncContext, Context, Handler, WrapFuture};
use uuid::Uuid;

use super::clock::Moment;
use super::messages::{ActorKind, Complete};
use super::shared::{Lifeline, Shared, panics_on_demand};
use super::ticket::Ticket;
use super::trying::persist;
use crate::store::Lane;

/// Events in one UPDATE.
const MOST: usize = 2_000;

/// So many waiting events begin another settle beside one that is under way; fewer are better recorded together.
const WORTH_ANOTHER: usize = 1_000;

pub(crate) struct Completer {
    shared: Arc<Shared>,
    /// What came while settles were under way: the next one takes it all.
    waiting: Vec<Ticket>,
    /// Settles under way.
    settling: usize,
    at_once: usize,
    _lifeline: Lifeline,
}

impl Completer {
    pub(crate) fn new(shared: Arc<Shared>) -> Self {
        let lifeline = shared.lifeline(ActorKind::Completer);
        let at_once = shared.store.settles_at_once();
        Self { shared, waiting: Vec::new(), settling: 0, at_once, _lifeline: lifeline }
    }

    fn settle(&mut self, ctx: &mut Context<Self>) {
        let worth_another = self.settling == 0 || self.settling < self.at_once && self.waiting.len() >= WORTH_ANOTHER;
        if self.waiting.is_empty() || !worth_another {
            return;
        }
        self.settling += 1;
        let rest = self.waiting.split_off(self.waiting.len().min(MOST));
        let tickets = std::mem::replace(&mut self.waiting, rest);
        let work = self.shared.runtime.spawn(record(Arc::clone(&self.shared), tickets));
        ctx.spawn(work.into_actor(self).map(|result, completer, ctx| {
            if let Err(error) = result {
                tracing::error!(%error, "a settle was given up");
            }
            completer.settling -= 1;
            completer.settle(ctx);
        }));
    }
}

impl Actor for Completer {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        ctx.set_mailbox_capacity(self.shared.settings.worker.max_in_flight + 16);
    }
}

impl Handler<Complete> for Completer {
    type Result = ();

    fn handle(&mut self, Complete(tickets): Complete, ctx: &mut Self::Context) {
        self.waiting.extend(tickets);
        self.settle(ctx);
    }
}

panics_on_demand!(Completer);

async fn record(shared: Arc<Shared>, tickets: Vec<Ticket>) {
    let events: Vec<(Uuid, i64)> = tickets.iter().map(|ticket| (ticket.id, ticket.position.seq)).collect();
    let began = Moment::now();
    persist("published events", events.len(), || shared.store.settle_published(&events)).await;
    shared.meters.settle.record(Moment::now().since(began));
    for line in shared.lines.values() {
        let published = tickets.iter().filter(|ticket| line.flight(&ticket.shard.lane).is_some()).count();
        line.meters.published.add(published);
    }
    note_settled(&shared, &tickets);
    tickets.into_iter().for_each(|ticket| ticket.settled(false));
}

/// Tells the channels what they need not keep any more.
pub(super) fn note_settled(shared: &Shared, tickets: &[Ticket]) {
    let mut last: Option<(Lane, _)> = None;
    for ticket in tickets {
        let lane = &ticket.shard.lane;
        if last.as_ref().is_none_or(|(known, _)| known != lane) {
            last = shared.line_of(lane).map(|line| (lane.clone(), Arc::clone(&line.settled)));
        }
        if let Some((_, queue)) = &last {
            queue.push((ticket.id, ticket.position.seq));
        }
    }
}
