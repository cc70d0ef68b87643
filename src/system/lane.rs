//! A lane as the poller sees it: how far it has been read, and its events in flight.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use uuid::Uuid;

use super::context::SystemContext;
use super::delivery::Delivery;
use super::fetching::{Fetched, MAX_FETCH, MOST_KEYS_TO_REREAD, in_one_fetch};
use super::in_flight::{Admitted, InFlight, SessionId};
use super::lane_reader::{FetchPlan, LaneReader, has_more_retries};
use super::publisher_state::PublisherState;
use super::quota::Reservation;
use crate::clock::BootInstant;
use crate::store::{FetchRequest, Position, Shard};

/// A lane that a publisher serves.
pub(super) struct Lane {
    pub(super) reader: LaneReader,
    pub(super) in_flight: Arc<InFlight>,
}

impl Lane {
    pub(super) fn new(in_flight: Arc<InFlight>, context: &SystemContext) -> Self {
        Self { reader: LaneReader::new(context.settings.worker.poll_interval), in_flight }
    }

    /// The shards that this worker leases and that are not open under that lease, with the lease's epoch.
    pub(super) fn shards_to_open(&self, context: &SystemContext, now: BootInstant) -> Vec<(Shard, i64)> {
        let mut held = context.leases.readable(self.in_flight.lane(), now);
        held.retain(|(shard, epoch)| self.in_flight.session(shard.number).map(|open| open.epoch) != Some(*epoch));
        held
    }

    /// Whether a question can replace the lane's polls: it has been read to its end, and none of its events is in memory.
    pub(super) fn can_be_covered(&self, now: BootInstant) -> bool {
        self.reader.can_be_asked(now) && self.in_flight.has_nothing_to_do()
    }

    /// Whether the lane has nothing to fetch before the next question is answered, unless its leases or sessions change.
    pub(super) fn rests(&self, now: BootInstant) -> bool {
        self.reader.rests(now) && self.in_flight.has_nothing_to_do()
    }

    /// The next fetch, if one is worthwhile now.
    pub(super) fn plan(
        &mut self,
        context: &SystemContext,
        publisher: &PublisherState,
        now: BootInstant,
    ) -> Option<FetchPlan> {
        let Self { reader, in_flight } = self;
        // Each such delivery is kept in memory and in the journal, so their number is limited.
        if in_flight.unwritable_count() >= context.settings.worker.max_in_flight {
            return None;
        }
        in_flight.forget_blocked_keys(&reader.set_open(&open_and_leased(context, in_flight, now)));
        reader.rewind(&in_flight.take_rewinds());
        reader.note_retries(in_flight.take_retries());
        let credit = &publisher.credit;
        let most_ahead = publisher.most_ahead();
        // One event may pass whatever its size, or it would wait forever.
        let affordable = reader.affordable(in_one_fetch(credit.bytes_left())).max(usize::from(credit.is_whole()));
        let budget = credit
            .events_left()
            .min(affordable)
            .min(MAX_FETCH)
            .min(most_ahead.saturating_sub(in_flight.on_their_way()));
        let budget = context.quota.as_ref().map_or(budget, |quota| budget.min(quota.left()));
        // A backlog is read in parts that are worth a round trip.
        let affordable = reader.affordable(in_one_fetch(credit.most_bytes));
        let most = credit.most_events.min(affordable).min(MAX_FETCH).min(most_ahead);
        if reader.is_behind() && budget < context.settings.worker.batch_size.min(most) / 2 && !in_flight.is_empty() {
            return None;
        }
        reader.plan(budget, in_flight.has_keys_to_reread(), now)
    }

    /// The database query of a plan.
    pub(super) fn request(
        &self,
        context: &SystemContext,
        publisher: &PublisherState,
        plan: &FetchPlan,
    ) -> FetchRequest {
        let keys = self.in_flight.take_keys_to_reread(MOST_KEYS_TO_REREAD.min(plan.key_budget));
        let key_limit = plan.key_limit(keys.len());
        let except =
            if plan.is_sweep() || !keys.is_empty() { self.in_flight.excepted() } else { self.in_flight.retrying() };
        let begun = plan.ranges.iter().filter(|range| range.from == Position::START).map(|range| range.shard);
        let except_keys = match plan.is_sweep() {
            true => self.in_flight.take_heavy_keys(&begun.collect::<Vec<_>>()),
            false => Vec::new(),
        };
        FetchRequest {
            lane: self.in_flight.lane().clone(),
            ranges: plan.ranges.clone(),
            except,
            except_keys,
            retry_shards: plan.retry_shards.clone(),
            retry_limit: plan.retry_limit,
            passed_retries: plan.passed_retries.clone(),
            keys,
            key_limit,
            max_events: plan.most,
            max_bytes: in_one_fetch(publisher.credit.bytes_left()),
            max_event_bytes: context.settings.worker.max_event_bytes,
        }
    }

    /// Admits the result of a fetch. Returns the events that can be sent now, and those that cannot be read.
    pub(super) fn admit(
        &mut self,
        publisher: &PublisherState,
        plan: &FetchPlan,
        fetched: Fetched,
        mut quota: Option<Reservation>,
    ) -> Admitted {
        self.reader.advance(plan, &fetched.result, BootInstant::now());
        let retries: Vec<Uuid> = fetched.result.rows.iter().filter(|row| row.retry).map(|row| row.id).collect();
        let has_more_retries = has_more_retries(plan, &fetched.result);
        let Fetched { result, blockers, unfinished_keys, empty_keys, fetch } = fetched;
        empty_keys.iter().for_each(|key| self.in_flight.note_empty_key(key));
        let mut admitted = fetch.admit(result.rows, &blockers, |row| {
            publisher.credit.take(row.event.as_ref().map_or(0, |event| event.size()))
        });
        drop(fetch);
        if let Some(quota) = &mut quota {
            admitted.all_mut().for_each(|delivery| delivery.count_in(quota.take()));
        }
        if !plan.retry_shards.is_empty() {
            let taken: HashSet<Uuid> = admitted.all().map(|delivery| delivery.id).collect();
            let waiting = retries.into_iter().filter(|id| !taken.contains(id));
            self.reader.pass_retries(waiting, has_more_retries, BootInstant::now());
        }
        // A key without an event that can be sent waits for its earlier events: it would be reread forever.
        let going: HashSet<&str> = admitted.deliveries.iter().map(Delivery::key).collect();
        unfinished_keys
            .iter()
            .filter(|(key, read)| !*read || going.contains(&**key))
            .for_each(|(key, _)| self.in_flight.reread_key(key));
        admitted
    }
}

/// The shards that may be read: leased, and open under that lease.
fn open_and_leased(context: &SystemContext, in_flight: &InFlight, now: BootInstant) -> HashMap<i16, SessionId> {
    let held = context.leases.readable(in_flight.lane(), now);
    held.into_iter()
        .filter_map(|(shard, epoch)| {
            let session = in_flight.session(shard.number)?;
            (session.epoch == epoch).then_some((shard.number, session))
        })
        .collect()
}
