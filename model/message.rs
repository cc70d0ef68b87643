//! A worker's request to a server. It is executed as a whole, immediately or late: when its sender no longer waits.

use crate::database::{Database, FailureRecord};
use crate::events::Publications;
use crate::leases::Owner;
use crate::redis::{Batch, PublishFault, Redis, Token};
use crate::rules::{Outbox, Rules};

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Message {
    Open([Option<Token>; 2]),
    /// With the journal entries to remove.
    Publish(Batch, Publications),
    Flush(Publications),
    SettlePublished(Publications),
    SettleRescheduled(FailureRecord),
    Acquire(Owner, usize),
    Renew(Owner, [Option<u8>; 2]),
    Release(Owner, usize, u8),
}

impl Message {
    /// Executes it late, for a sender that no longer waits.
    pub(crate) fn arrive(self, database: &mut Database, redis: &mut Redis, fault: Option<PublishFault>, rules: Rules) {
        match self {
            Self::Open(tokens) => each(tokens).for_each(|(shard, token)| _ = redis.open(shard, token, rules)),
            Self::Publish(batch, settled) => {
                redis.publish(&batch, settled, fault, rules, database);
            }
            Self::Flush(settled) => redis.drop_settled(settled),
            Self::SettlePublished(events) => database.settle_published(events),
            Self::SettleRescheduled(settle) => _ = database.settle_rescheduled(settle, rules),
            Self::Acquire(owner, shard) => _ = database.acquire(owner, shard),
            Self::Renew(owner, epochs) => {
                each(epochs).for_each(|(shard, epoch)| _ = database.renew(owner, shard, epoch, rules))
            }
            Self::Release(owner, shard, epoch) => database.release(owner, shard, epoch, rules),
        }
    }

    /// Whether it can change nothing any more, now or later; two states that differ by such a request are one state. Tokens
    /// and epochs only rise, and what is published stays so until it has another `seq`.
    pub(crate) fn is_spent(self, database: &Database, redis: &Redis, outbox: &Outbox) -> bool {
        let (rules, epochs_rise) = (outbox.rules, outbox.faults.restores == 0);
        let over = |owner: Owner, shard: usize, epoch: u8| {
            let lease = database.leases[shard];
            epochs_rise && (lease.epoch > epoch || lease.owner != Some(owner))
        };
        match self {
            Self::Open(tokens) => each(tokens).all(|(shard, token)| redis.places[shard].owner >= Some(token)),
            Self::Publish(batch, _) => {
                let place = |shard: usize| redis.places[shard];
                rules.fencing
                    && each(batch.tokens).any(|(shard, token)| {
                        place(shard).owner > Some(token) || place(shard).owner == Some(token) && place(shard).closed
                    })
            }
            Self::Flush(settled) => redis.places.iter().all(|place| place.sent.within(settled).is_empty()),
            Self::SettlePublished(events) => events
                .iter()
                .all(|publication| !database.has(publication) || database.row(publication.event).is_recorded()),
            Self::SettleRescheduled(settle) => {
                let (publication, shard) = (settle.publication, settle.publication.event.shard());
                !database.has(publication)
                    || database.row(publication.event).is_recorded()
                    || rules.fenced_settle && over(settle.owner, shard, settle.epoch)
            }
            Self::Acquire(..) => false,
            Self::Renew(owner, epochs) => {
                rules.fenced_leases && each(epochs).all(|(shard, epoch)| over(owner, shard, epoch))
            }
            Self::Release(owner, shard, epoch) => rules.fenced_leases && over(owner, shard, epoch),
        }
    }
}

/// The shards that a request names.
pub(crate) fn each<T: Copy>(of: [Option<T>; 2]) -> impl Iterator<Item = (usize, T)> {
    of.into_iter().enumerate().filter_map(|(shard, value)| Some((shard, value?)))
}
