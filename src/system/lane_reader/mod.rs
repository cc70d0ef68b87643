//! The read position of one lane: a cursor for each shard, the sweep behind it, and the next query. Pure.

mod budget;
mod covered;
mod parts;
mod passed;
mod sweep;

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use uuid::Uuid;

use self::budget::{FetchBudget, each};
use self::parts::ShardParts;
pub(super) use self::parts::{MOST as MOST_PARTS, SHORT, part};
use self::passed::PassedRetries;
use super::debounce::interval;
use super::in_flight::SessionId;
use super::retry_times::RetryTimes;
use crate::clock::BootInstant;
use crate::store::{FetchResult, Position, Range};

/// Reading starts this much before the cursor once nothing is left before it: events whose writers commit a little after
/// they drew their position are found immediately instead of by the sweep. In microseconds.
const OVERLAP: i64 = 20_000;

/// Events read between two bounds: each leaves a dead row, and a sweep that stops more often falls behind its cursor.
const ROWS_PER_STEP: i64 = 1_000;

/// Remembered bounds of sweep steps.
const MAX_BOUNDS: usize = 4_096;

/// Shards that are read from their start together: if some have many dead rows there, the others need not wait for all.
const FRESH_TOGETHER: usize = 4;

/// The most events for which a key is read from its start.
const KEY_LIMIT: i64 = 100;

/// The shortest time between two searches for retries that came due unexpectedly; this worker's own retries say when.
const RETRY_INTERVAL: Duration = Duration::from_secs(1);

/// The assumed size of an event before any was read.
const FIRST_GUESS: usize = 1_024;
const SMALLEST_GUESS: usize = 64;

#[derive(Debug, Clone)]
struct ShardState {
    session: SessionId,
    cursor: Position,
    /// The last fetch filled its limit: there is more.
    full: bool,
    /// It must be read, whether or not there is more.
    must_read: bool,
    sweep: Position,
    parts: ShardParts,
    /// The ends of the parts in which it was read: its sweep stops there, too.
    ends: BTreeSet<Position>,
}

impl ShardState {
    /// Whether it was not read yet, or not to the end.
    fn is_fresh(&self) -> bool {
        self.full && self.cursor == Position::START || self.parts.is_divided()
    }
}

/// The purpose of a fetch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Forward,
    Sweep,
}

/// The next query.
#[derive(Debug)]
pub(crate) struct FetchPlan {
    pub(crate) purpose: Purpose,
    pub(crate) ranges: Vec<Range>,
    pub(crate) retry_shards: Vec<i16>,
    pub(crate) retry_limit: i64,
    pub(crate) passed_retries: Vec<Uuid>,
    /// The most events for keys that are read from their start.
    pub(crate) key_budget: usize,
    /// The most events in total.
    pub(crate) most: usize,
    pub(crate) began: BootInstant,
    /// Whether this is a poll.
    pub(crate) polls: bool,
}

impl FetchPlan {
    pub(crate) fn is_sweep(&self) -> bool {
        self.purpose == Purpose::Sweep
    }

    /// The limit of each of this many keys.
    pub(crate) fn key_limit(&self, keys: usize) -> i64 {
        each(self.key_budget, keys).min(KEY_LIMIT)
    }
}

/// One lane's cursors.
#[derive(Debug)]
pub(crate) struct LaneReader {
    shards: HashMap<i16, ShardState>,
    bounds: BTreeSet<Position>,
    /// Events read since the last bound.
    unbounded: i64,
    /// The last of the shards that are read from their start a few at a time.
    last_fresh: i16,
    /// Shards whose sweep starts together: more while that is cheap, and one after a step without an answer.
    begin_together: usize,
    /// Shards in a step of the sweep: fewer after one that took too long, more after a sweep without one.
    sweep_together: usize,
    sweep_was_late: bool,
    /// Shards that are read from their start together: one after a fetch that took too long, then more again.
    scan_together: usize,
    /// Whether the last fetch took too long: the next leaves out shards that may be the cause, so that the others make
    /// progress.
    skips_slow_shards: bool,
    /// The fastest sweep step so far: the cost of a round trip that finds nothing.
    fastest: Duration,
    /// The database's clock, and when it was received.
    clock: Option<(i64, BootInstant)>,
    average_size: usize,
    budget: FetchBudget,
    next_poll: BootInstant,
    /// Since when something may be new.
    announced: Option<BootInstant>,
    /// The next plan is a poll.
    polls: bool,
    /// Wake-ups wait until then.
    not_before: BootInstant,
    next_retries: BootInstant,
    /// When this worker's own retries come due.
    own_retries: RetryTimes,
    passed_retries: PassedRetries,
    next_sweep: BootInstant,
    /// Something behind the cursors was changed, perhaps during a sweep.
    sweeps_again: bool,
    /// When that was noted last.
    hurried_at: Option<BootInstant>,
    /// Until when the sweep pauses whatever happens, so that it takes only a part of the time.
    sweep_rests_until: BootInstant,
    /// A fetch preceded a sweep that is due; the next one does not.
    sweep_is_next: bool,
    /// Something was read since the last sweep began.
    has_read: bool,
    /// Until then a question for all lanes replaces this lane's polls and sweeps.
    covered_until: Option<BootInstant>,
    /// No such question before this: the last ones found events that are not read, for example because they are blocked.
    asked_after: BootInstant,
    was_due: bool,
    poll_interval: Duration,
}

impl LaneReader {
    pub(crate) fn new(poll_interval: Duration) -> Self {
        let now = BootInstant::now();
        Self {
            shards: HashMap::new(),
            bounds: BTreeSet::new(),
            unbounded: 0,
            last_fresh: i16::MAX,
            begin_together: FRESH_TOGETHER,
            sweep_together: usize::MAX,
            sweep_was_late: false,
            scan_together: FRESH_TOGETHER,
            skips_slow_shards: false,
            fastest: Duration::MAX,
            clock: None,
            average_size: FIRST_GUESS,
            budget: FetchBudget::default(),
            next_poll: now,
            announced: None,
            polls: false,
            not_before: now,
            next_retries: now,
            own_retries: RetryTimes::default(),
            passed_retries: PassedRetries::default(),
            next_sweep: now,
            sweeps_again: false,
            hurried_at: None,
            sweep_rests_until: now,
            sweep_is_next: false,
            has_read: false,
            covered_until: None,
            asked_after: now,
            was_due: false,
            poll_interval,
        }
    }

    /// Updates which shards are open. A shard under a new lease epoch is read from its start: another worker may have had it
    /// meanwhile. Returns the shards whose read position is discarded.
    pub(crate) fn set_open(&mut self, open: &HashMap<i16, SessionId>) -> Vec<i16> {
        let same_lease = |shard: &i16, state: &ShardState| {
            open.get(shard).is_some_and(|session| session.epoch == state.session.epoch)
        };
        let gone = self.shards.extract_if(|shard, state| !same_lease(shard, state)).map(|(shard, _)| shard).collect();
        for (shard, session) in open {
            let fresh = ShardState {
                session: *session,
                cursor: Position::START,
                full: true,
                must_read: false,
                sweep: Position::START,
                parts: ShardParts::default(),
                ends: BTreeSet::new(),
            };
            self.shards.entry(*shard).or_insert(fresh).session = *session;
        }
        gone
    }

    /// Reads again from positions whose events were released unsent.
    pub(crate) fn rewind(&mut self, places: &HashMap<i16, Position>) {
        for (shard, place) in places {
            if let Some(state) = self.shards.get_mut(shard)
                && *place <= state.cursor
            {
                // Exclusive bounds: one before the event.
                state.cursor = Position { scheduled_at: place.scheduled_at, seq: place.seq.saturating_sub(1) };
                state.full = true;
            }
        }
    }

    /// Schedules a fetch because something is new since `at`: immediately, or after a pause if much was found a moment ago.
    pub(crate) fn schedule_fetch_at(&mut self, at: BootInstant) {
        self.announced = Some(self.announced.map_or(at, |announced| announced.min(at)));
    }

    /// How long wake-ups wait from now on.
    pub(crate) fn pause(&self, now: BootInstant) -> Duration {
        self.not_before.since(now)
    }

    /// Notes when a retry comes due.
    pub(crate) fn retries_at(&mut self, at: BootInstant) {
        self.own_retries.note(at);
    }

    pub(super) fn note_retries(&mut self, times: RetryTimes) {
        self.own_retries.note_all(times);
    }

    /// Notes retries that were read and must wait. If there may be more, the next fetch passes them.
    pub(crate) fn pass_retries(&mut self, waiting: impl Iterator<Item = Uuid>, more: bool, now: BootInstant) {
        self.passed_retries.note(waiting, more, now);
    }

    /// The number of events that fits into a byte budget.
    pub(crate) fn affordable(&self, bytes: usize) -> usize {
        bytes / self.average_size.max(1)
    }

    pub(crate) fn is_behind(&self) -> bool {
        self.shards.values().any(|state| state.full)
    }

    /// The next fetch, if one is worthwhile now; it never brings more than `budget` events. `keys`: some keys must be read
    /// from their start.
    pub(crate) fn plan(&mut self, budget: usize, keys: bool, now: BootInstant) -> Option<FetchPlan> {
        if budget == 0 || self.shards.is_empty() {
            return None;
        }
        if self.is_look_due(now) {
            self.begin_full_fetch(now);
        }
        // A fetch for a wake-up does not wait for a sweep, and no sweep waits for more than one such fetch.
        let fetch_first = self.shards.values().any(|state| state.must_read) && !self.sweep_is_next;
        let sweeps = now >= self.next_sweep && !self.is_covered(now);
        self.sweep_is_next = sweeps && fetch_first;
        if sweeps
            && !fetch_first
            && let Some(plan) = self.plan_sweep(budget, now)
        {
            return Some(plan);
        }
        let reading: Vec<i16> =
            self.shards.iter().filter(|(_, state)| state.must_read || state.full).map(|(shard, _)| *shard).collect();
        let wanted = [!reading.is_empty(), self.are_retries_due(now), keys];
        if !wanted.contains(&true) {
            return None;
        }
        let [ranges, retries, key_budget] = self.budget.divide(budget, wanted);
        let retry_shards = if wanted[1] && retries > 0 { self.shards.keys().copied().collect() } else { Vec::new() };
        if !retry_shards.is_empty() {
            self.next_retries = now.after(self.poll_interval.max(RETRY_INTERVAL));
            self.own_retries.pass(now);
        }
        Some(FetchPlan {
            purpose: Purpose::Forward,
            ranges: if ranges > 0 { self.plan_ranges(reading, ranges, now) } else { Vec::new() },
            retry_shards,
            retry_limit: each(retries, 1),
            passed_retries: self.passed_retries.ids(),
            key_budget,
            most: budget,
            began: now,
            polls: std::mem::take(&mut self.polls),
        })
    }

    fn is_look_due(&self, now: BootInstant) -> bool {
        self.is_poll_due(now) || self.announced.is_some_and(|at| now >= at.max(self.not_before))
    }

    /// Starts a fetch of all shards. Wake-ups from now on cause another one, because this one may not see their events. A
    /// wake-up does not postpone polling, or events without one would be found late.
    fn begin_full_fetch(&mut self, now: BootInstant) {
        self.shards.values_mut().for_each(|state| state.must_read = true);
        self.announced = None;
        if self.is_poll_due(now) {
            self.polls = true;
            self.next_poll = self.next_poll.after(self.poll_interval).max(now.after(self.poll_interval / 2));
        }
    }

    /// Whether a poll is due. A tick that comes a little early counts, and does not make the next one earlier.
    fn is_poll_due(&self, now: BootInstant) -> bool {
        !self.is_covered(now) && now.after(self.poll_interval / 8) >= self.next_poll
    }

    fn plan_ranges(&mut self, mut shards: Vec<i16>, budget: usize, now: BootInstant) -> Vec<Range> {
        let mut fresh: Vec<i16> = shards.extract_if(.., |shard| self.may_take_long(*shard)).collect();
        fresh.sort_unstable_by_key(|shard| (*shard <= self.last_fresh, *shard));
        let spared = std::mem::take(&mut self.skips_slow_shards) && !shards.is_empty();
        fresh.truncate(if spared { 0 } else { self.begin_together.min(self.scan_together) });
        self.last_fresh = fresh.last().copied().unwrap_or(self.last_fresh);
        shards.extend(fresh);
        self.budget.rotate(&mut shards);
        let limit = each(budget, shards.len());
        let clock = self.clock_at(now);
        let mut ranges = Vec::with_capacity(shards.len());
        for shard in shards {
            if let Some(state) = self.shards.get_mut(&shard) {
                state.must_read = false;
                let from = start(state);
                let to = clock.and_then(|clock| state.parts.end(from, clock));
                // With a limit of 0, the database only returns its clock.
                let limit = if state.parts.is_divided() && clock.is_none() { 0 } else { limit };
                ranges.push(Range { shard, from, to, limit });
            }
        }
        ranges
    }

    /// Whether many dead rows may precede a shard's unread events: it was not read yet, or, after a fetch that took too
    /// long, not to its end.
    fn may_take_long(&self, shard: i16) -> bool {
        let is_careful = self.scan_together < FRESH_TOGETHER;
        self.shards.get(&shard).is_some_and(|state| state.is_fresh() || is_careful && state.full)
    }

    fn clock_at(&self, now: BootInstant) -> Option<i64> {
        let (clock, told) = self.clock?;
        Some(clock.saturating_add(i64::try_from(now.since(told).as_micros()).unwrap_or(i64::MAX)))
    }

    /// Applies the result of a fetch.
    pub(crate) fn advance(&mut self, plan: &FetchPlan, answer: &FetchResult, now: BootInstant) {
        if !answer.rows.is_empty() {
            self.covered_until = None;
        }
        let bytes: usize = answer.rows.iter().filter_map(|row| row.event.as_ref().ok()).map(|event| event.size()).sum();
        if let Some(average) = bytes.checked_div(answer.rows.len()) {
            self.average_size = ((self.average_size * 3 + average) / 4).max(SMALLEST_GUESS);
        }
        match plan.purpose {
            Purpose::Forward => self.advance_forward(plan, answer, now),
            Purpose::Sweep => self.advance_sweep(plan, answer, now),
        }
    }

    fn advance_forward(&mut self, plan: &FetchPlan, answer: &FetchResult, now: BootInstant) {
        let found = in_ranges(answer);
        // Received before now, so it is never assumed to be later than it is.
        self.clock = answer.clock.map(|at| (at, now)).or(self.clock);
        if now.since(plan.began) < parts::SHORT {
            self.scan_together = self.scan_together.saturating_mul(2).min(FRESH_TOGETHER);
        }
        for range in &plan.ranges {
            let Some(state) = self.shards.get_mut(&range.shard) else { continue };
            if range.limit == 0 {
                state.parts = answer.clock.map_or(ShardParts::default(), |_| state.parts);
                continue;
            }
            // Nothing precedes the clock: events that are committed there later are for the sweep.
            let nothing =
                answer.clock.filter(|_| !answer.cut_short).map(|at| Position { scheduled_at: at, seq: i64::MIN });
            let (count, last) = found.get(&range.shard).copied().unzip();
            if answer.cut_short || count.unwrap_or(0) >= range.limit {
                match last {
                    // Also back: reading began before the cursor and may have ended there.
                    Some(last) => (state.full, state.cursor) = (true, last),
                    None => state.must_read = true,
                }
                continue;
            }
            match range.to {
                None => {
                    (state.full, state.cursor) = (false, state.cursor.max(last.or(nothing).unwrap_or(state.cursor)));
                    state.parts = ShardParts::default();
                }
                Some(end) => {
                    state.cursor = state.cursor.max(end);
                    state.parts.passed(now.since(plan.began));
                    state.ends.insert(state.cursor);
                }
            }
        }
        let count = found.values().map(|(count, _)| *count).sum::<i64>();
        self.not_before = plan.began.after(interval(usize::try_from(count).unwrap_or(0)));
        self.has_read |= count > 0;
        self.unbounded += count;
        if let Some(furthest) = found.values().map(|(_, last)| *last).max()
            && self.unbounded >= ROWS_PER_STEP
            && self.bounds.len() < MAX_BOUNDS
        {
            self.bounds.insert(furthest);
            self.unbounded = 0;
        }
        let last = answer.rows.iter().rev().find(|row| row.in_range).map(|row| row.shard);
        self.budget.note(answer.cut_short, last);
        if has_more_retries(plan, answer) {
            // Not immediately: all that was read may have to wait, and would be read again and again.
            self.next_retries = now.after(now.since(plan.began));
        }
    }
}

/// Whether there may be more due retries than the fetch returned.
pub(crate) fn has_more_retries(plan: &FetchPlan, answer: &FetchResult) -> bool {
    let retries = i64::try_from(answer.rows.iter().filter(|row| row.retry).count()).unwrap_or(i64::MAX);
    !plan.retry_shards.is_empty() && (answer.cut_short || retries >= plan.retry_limit)
}

/// For each shard, the number of rows in its range, and the last one's position.
fn in_ranges(answer: &FetchResult) -> HashMap<i16, (i64, Position)> {
    let mut found: HashMap<i16, (i64, Position)> = HashMap::new();
    for row in answer.rows.iter().filter(|row| row.in_range) {
        let (count, last) = found.entry(row.shard).or_insert((0, row.position));
        *count += 1;
        *last = (*last).max(row.position);
    }
    found
}

fn start(state: &ShardState) -> Position {
    if state.full || state.cursor == Position::START {
        return state.cursor;
    }
    Position { scheduled_at: state.cursor.scheduled_at.saturating_sub(OVERLAP), seq: i64::MIN }
}

#[cfg(test)]
mod sweep_tests;
#[cfg(test)]
mod tests;
