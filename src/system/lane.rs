//! Where the reading of one lane stands: a cursor per shard, the sweep behind it, and what to ask for next. Pure.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use super::clock::Moment;
use super::flight::Opening;
use crate::store::{FetchAnswer, Position, Range};

/// Reading starts this much before the cursor once nothing is left before it: writers that commit a little later than
/// they drew their place are found at once rather than by the sweep. In microseconds.
const OVERLAP: i64 = 20_000;

/// A sweep step that took this much longer than a round trip keeps its bounds; faster ones grow together.
const CHEAP_STEP: Duration = Duration::from_millis(5);

/// Events read between two bounds: each leaves a dead row, and a sweep that stops more often falls behind its cursor.
const ROWS_PER_STEP: i64 = 1_000;

/// The share of the time that sweeping may take is one in this many.
const SWEEP_SHARE: u32 = 20;

/// Remembered bounds of sweep steps.
const MAX_BOUNDS: usize = 4_096;

/// The bytes that an event is taken for before any was seen.
const FIRST_GUESS: usize = 1_024;
const SMALLEST_GUESS: usize = 64;

#[derive(Debug, Clone, Copy)]
struct ShardState {
    opening: Opening,
    cursor: Position,
    /// The last fetch filled its limit: there is more.
    full: bool,
    sweep: Position,
}

/// What a fetch is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Purpose {
    Forward,
    Sweep,
}

/// What to ask for next.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) purpose: Purpose,
    pub(crate) ranges: Vec<Range>,
    pub(crate) retry_shards: Vec<i16>,
    pub(crate) retry_limit: i64,
    pub(crate) began: Moment,
}

/// One lane's cursors.
#[derive(Debug)]
pub(crate) struct LaneCursor {
    shards: HashMap<i16, ShardState>,
    bounds: BTreeSet<Position>,
    /// Events read since the last bound.
    unbounded: i64,
    /// The fastest sweep step so far: what a round trip costs where nothing is found.
    fastest: Duration,
    average_size: usize,
    next_look: Moment,
    next_sweep: Moment,
    poll_interval: Duration,
}

impl LaneCursor {
    pub(crate) fn new(poll_interval: Duration) -> Self {
        let now = Moment::now();
        Self {
            shards: HashMap::new(),
            bounds: BTreeSet::new(),
            unbounded: 0,
            fastest: Duration::MAX,
            average_size: FIRST_GUESS,
            next_look: now,
            next_sweep: now,
            poll_interval,
        }
    }

    /// Takes over which shards are open. One under a new lease epoch is read from its start: another worker may have
    /// had it meanwhile. Returns the shards whose place in reading is gone.
    pub(crate) fn set_open(&mut self, open: &HashMap<i16, Opening>) -> Vec<i16> {
        let same_lease = |shard: &i16, state: &ShardState| {
            open.get(shard).is_some_and(|opening| opening.epoch == state.opening.epoch)
        };
        let gone = self.shards.extract_if(|shard, state| !same_lease(shard, state)).map(|(shard, _)| shard).collect();
        for (shard, opening) in open {
            let fresh = ShardState { opening: *opening, cursor: Position::START, full: true, sweep: Position::START };
            self.shards.entry(*shard).or_insert(fresh).opening = *opening;
        }
        gone
    }

    /// Reads again from where events came back unsent.
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

    /// There is something new, so the next plan looks. The plan's own `now`: a later one would put the look off.
    pub(crate) fn look_at(&mut self, now: Moment) {
        self.next_look = self.next_look.min(now);
    }

    /// The events that a byte budget is worth.
    pub(crate) fn affordable(&self, bytes: usize) -> usize {
        bytes / self.average_size.max(1)
    }

    pub(crate) fn is_behind(&self) -> bool {
        self.shards.values().any(|state| state.full)
    }

    /// The next fetch of up to `room` events, if one is worth making now.
    pub(crate) fn plan(&mut self, room: usize, now: Moment) -> Option<Plan> {
        if room == 0 || self.shards.is_empty() {
            return None;
        }
        let look = now >= self.next_look;
        if now >= self.next_sweep
            && let Some(plan) = self.plan_sweep(room, now)
        {
            return Some(plan);
        }
        let reading: Vec<(i16, ShardState)> =
            self.shards.iter().filter(|(_, state)| look || state.full).map(|(shard, state)| (*shard, *state)).collect();
        if reading.is_empty() {
            return None;
        }
        let limit = share(room, reading.len());
        let ranges =
            reading.iter().map(|(shard, state)| Range { shard: *shard, from: start(state), to: None, limit }).collect();
        let retry_shards = if look { self.shards.keys().copied().collect() } else { Vec::new() };
        Some(Plan { purpose: Purpose::Forward, ranges, retry_shards, retry_limit: share(room, 4), began: now })
    }

    fn plan_sweep(&mut self, room: usize, now: Moment) -> Option<Plan> {
        // Asked here too and not only where a step ends: a rewind, or a shard that was lost, can end a sweep as well.
        self.begin_anew_where_swept();
        let mut ranges: Vec<Range> = self
            .shards
            .iter()
            .filter(|(_, state)| state.sweep < state.cursor)
            .map(|(shard, state)| Range {
                shard: *shard,
                from: state.sweep,
                to: Some(just_after(self.step(state))),
                limit: 0,
            })
            .collect();
        if ranges.is_empty() {
            return None;
        }
        let limit = share(room, ranges.len());
        ranges.iter_mut().for_each(|range| range.limit = limit);
        Some(Plan { purpose: Purpose::Sweep, ranges, retry_shards: Vec::new(), retry_limit: 0, began: now })
    }

    /// A sweep that has come to every cursor starts again; returns whether it had.
    fn begin_anew_where_swept(&mut self) -> bool {
        let swept = self.shards.values().all(|state| state.sweep >= state.cursor);
        if swept {
            self.shards.values_mut().for_each(|state| state.sweep = Position::START);
        }
        swept
    }

    /// The last place of a shard's next sweep step. Bounds, and not a LIMIT, make it end: a LIMIT does not count dead rows.
    fn step(&self, state: &ShardState) -> Position {
        let after = (std::ops::Bound::Excluded(state.sweep), std::ops::Bound::Unbounded);
        self.bounds.range(after).next().copied().unwrap_or(state.cursor).min(state.cursor)
    }

    /// Takes over what a fetch brought.
    pub(crate) fn advance(&mut self, plan: &Plan, answer: &FetchAnswer, now: Moment) {
        let bytes: usize = answer.rows.iter().filter_map(|row| row.event.as_ref().ok()).map(|event| event.size()).sum();
        if let Some(average) = bytes.checked_div(answer.rows.len()) {
            self.average_size = ((self.average_size * 3 + average) / 4).max(SMALLEST_GUESS);
        }
        match plan.purpose {
            Purpose::Forward => self.advance_forward(plan, answer, now),
            Purpose::Sweep => self.advance_sweep(plan, answer, now),
        }
    }

    fn advance_forward(&mut self, plan: &Plan, answer: &FetchAnswer, now: Moment) {
        let found = in_ranges(plan, answer);
        for range in &plan.ranges {
            let Some(state) = self.shards.get_mut(&range.shard) else { continue };
            let (count, last) = found.get(&range.shard).copied().unwrap_or((0, state.cursor));
            state.full = answer.cut_short || count >= range.limit;
            state.cursor = state.cursor.max(last);
        }
        self.unbounded += found.values().map(|(count, _)| *count).sum::<i64>();
        if let Some(furthest) = found.values().map(|(_, last)| *last).max()
            && self.unbounded >= ROWS_PER_STEP
            && self.bounds.len() < MAX_BOUNDS
        {
            self.bounds.insert(furthest);
            self.unbounded = 0;
        }
        // News that came while the fetch was under way may be of what it did not see.
        if !plan.retry_shards.is_empty() && self.next_look <= plan.began {
            let retries = answer.rows.iter().filter(|row| row.retry).count();
            let more = i64::try_from(retries).unwrap_or(i64::MAX) >= plan.retry_limit;
            self.next_look = if more { now } else { now.after(self.poll_interval) };
        }
    }

    fn advance_sweep(&mut self, plan: &Plan, answer: &FetchAnswer, now: Moment) {
        let took = now.since(plan.began);
        self.fastest = self.fastest.min(took);
        let cheap = took < self.fastest.saturating_mul(2) + CHEAP_STEP;
        let found = in_ranges(plan, answer);
        for range in &plan.ranges {
            let Some(state) = self.shards.get_mut(&range.shard) else { continue };
            let (count, last) = found.get(&range.shard).copied().unwrap_or((0, range.from));
            let to = range.to.map_or(state.cursor, just_before);
            let more = answer.cut_short || count >= range.limit;
            state.sweep = if more { last } else { to };
            if !more && cheap {
                self.bounds.remove(&to);
            }
        }
        let mut pause = took * SWEEP_SHARE;
        if self.begin_anew_where_swept() {
            pause = pause.max(self.poll_interval);
        }
        self.next_sweep = now.after(pause);
    }
}

/// For each shard, how many rows of its range came, and the last one's place.
fn in_ranges(plan: &Plan, answer: &FetchAnswer) -> HashMap<i16, (i64, Position)> {
    let mut found: HashMap<i16, (i64, Position)> = HashMap::new();
    for row in answer.rows.iter().filter(|row| !row.retry) {
        let inside = plan.ranges.iter().any(|range| {
            range.shard == row.shard && range.from < row.position && range.to.is_none_or(|to| row.position < to)
        });
        if inside {
            let (count, last) = found.entry(row.shard).or_insert((0, row.position));
            *count += 1;
            *last = (*last).max(row.position);
        }
    }
    found
}

fn start(state: &ShardState) -> Position {
    if state.full || state.cursor == Position::START {
        return state.cursor;
    }
    Position { scheduled_at: state.cursor.scheduled_at.saturating_sub(OVERLAP), seq: i64::MIN }
}

/// Bounds are exclusive, and the event at the end of a step belongs to the step.
fn just_after(place: Position) -> Position {
    Position { seq: place.seq.saturating_add(1), ..place }
}

fn just_before(place: Position) -> Position {
    Position { seq: place.seq.saturating_sub(1), ..place }
}

fn share(room: usize, parts: usize) -> i64 {
    i64::try_from(room.div_ceil(parts.max(1))).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "lane_sweep_tests.rs"]
mod sweep_tests;
#[cfg(test)]
#[path = "lane_tests.rs"]
mod tests;
