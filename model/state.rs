//! The whole state: two servers, two workers, and requests that are late.

use crate::database::Database;
use crate::events::{Event, Publications};
use crate::leases::Owner;
use crate::message::Message;
use crate::redis::Redis;
use crate::rules::{Faults, Outbox};
use crate::worker::{Held, Worker};

#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct State {
    /// The data that every statement sees.
    pub(crate) database: Database,
    /// The data of the standby, if that is less.
    pub(crate) durable: Option<Box<Database>>,
    /// A late settle that has locked its rows and not yet committed.
    pub(crate) settling: Publications,
    pub(crate) redis: Redis,
    pub(crate) workers: [Worker; 2],
    /// Requests whose senders no longer wait; sorted, because their order has no meaning.
    pub(crate) late: Vec<Message>,
    pub(crate) faults: Faults,
}

impl State {
    /// Both workers run, and each shard is leased by the named worker.
    pub(crate) fn new(holders: [usize; 2], outbox: &Outbox) -> Self {
        let owners = [0, 1].map(|worker| Owner { worker, life: 0 });
        let mut workers = owners.map(Worker::new);
        for (shard, holder) in holders.into_iter().enumerate() {
            workers[holder].held[shard] = Some(Held { epoch: 1, past: false, draining: false });
        }
        let database = Database::new(holders.map(|holder| owners[holder]), outbox.events, outbox.deletes);
        Self {
            database,
            durable: None,
            settling: Publications::default(),
            redis: Redis::default(),
            workers,
            late: Vec::new(),
            faults: outbox.faults,
        }
    }

    /// Stops waiting for a request; it may be executed at any time, or never. A lost answer is a request that is executed
    /// late before anything else happens.
    pub(crate) fn abandon(&mut self, message: Message) {
        self.faults.spend(|faults| &mut faults.lost);
        self.late.push(message);
    }

    pub(crate) fn is_locked(&self, event: Event) -> bool {
        self.settling.iter().any(|publication| publication.event == event)
    }

    /// Notes what a failover would keep: a commit that was waited for, and everything that was committed before it.
    pub(crate) fn note_commit(&mut self, before: Database, waited: bool) {
        if waited && !self.database.is_as(&before) {
            self.durable = None;
        } else if !waited {
            self.durable.get_or_insert_with(|| Box::new(before));
        }
        self.durable = self.durable.take().filter(|durable| !durable.is_as(&self.database));
    }

    /// Fails over: commits that were not waited for are lost, and so are the statements that were on their way.
    pub(crate) fn fail_over(&mut self) {
        if let Some(durable) = self.durable.take() {
            self.database.fall_back_to(&durable);
        }
        self.settling = Publications::default();
        self.late.retain(|message| matches!(message, Message::Open(_) | Message::Publish(..) | Message::Flush(_)));
    }

    /// Normalizes the state, so that indistinguishable states are equal.
    pub(crate) fn normalize(&mut self, outbox: &Outbox) {
        let Self { database, redis, late, .. } = self;
        late.retain(|message| !message.is_spent(database, redis, outbox));
        late.sort_unstable();
    }
}
