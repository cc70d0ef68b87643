//! The sweep behind the cursors: it finds events that were committed late.

use std::ops::Bound;

use super::*;

/// A sweep step that took this much longer than a round trip keeps its bounds; faster ones are joined.
const CHEAP_STEP: Duration = Duration::from_millis(5);

/// If a step took no longer, the next sweep starts with more shards.
const CHEAP_BEGINNING: Duration = Duration::from_millis(20);

/// The pause between two sweeps if nothing was read in between.
const IDLE_PAUSE: Duration = Duration::from_secs(1);

/// Sweeping takes at most one part in this many of the time.
const SWEEP_SHARE: u32 = 20;

/// A step that would need a longer pause than this was not working all the time: the process was stopped meanwhile, or the
/// table locked.
const LONGEST_PAUSE: Duration = Duration::from_secs(10);

impl LaneReader {
    pub(super) fn plan_sweep(&mut self, budget: usize, now: BootInstant) -> Option<FetchPlan> {
        // Checked here as well as at the end of a step: a rewind, or a lost shard, can end a sweep as well.
        self.restart_if_swept();
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
        // If the budget does not suffice, the shards that are furthest behind come first.
        ranges.sort_unstable_by_key(|range| (range.from, range.shard));
        // Dead rows may be at the start, which no bound divides.
        let beginning = ranges.iter().take_while(|range| range.from == Position::START).count();
        ranges.drain(..beginning.saturating_sub(self.begin_together));
        ranges.truncate(self.sweep_together);
        let limit = each(budget, ranges.len());
        ranges.iter_mut().for_each(|range| range.limit = limit);
        Some(FetchPlan {
            purpose: Purpose::Sweep,
            ranges,
            retry_shards: Vec::new(),
            retry_limit: 0,
            passed_retries: Vec::new(),
            key_budget: 0,
            most: budget,
            began: now,
            polls: false,
        })
    }

    /// Notes that a fetch failed; `late`: perhaps because of the time limit. Dead rows may be the cause, so the next starts
    /// with one shard, and a shard that takes too long alone is read, or swept, in parts.
    pub(crate) fn note_failed_fetch(&mut self, plan: &FetchPlan, late: bool, now: BootInstant) {
        // The next fetch reads what this one should have read.
        self.schedule_fetch_at(plan.began);
        if !plan.retry_shards.is_empty() {
            self.retries_at(plan.began);
        }
        match plan.purpose {
            Purpose::Forward if late => self.divide_walk(plan),
            Purpose::Forward => {}
            Purpose::Sweep => {
                if late {
                    self.divide_sweep(plan, now);
                }
                self.rest(now.after(pause_after_step(now.since(plan.began))));
            }
        }
        if plan.ranges.iter().any(|range| range.from == Position::START) {
            self.begin_together = 1;
        }
    }

    /// Sweeps within a second, and once more if a sweep is under way: events behind the cursors were changed, as by an
    /// operator's retry. At most one sweep a second, because commits can cause this too.
    pub(crate) fn hurry_sweep(&mut self, now: BootInstant) {
        (self.sweeps_again, self.hurried_at) = (true, Some(now));
        self.next_sweep = self.next_sweep.min(now.after(IDLE_PAUSE)).max(self.sweep_rests_until);
    }

    fn rest(&mut self, until: BootInstant) {
        (self.next_sweep, self.sweep_rests_until) = (until, until);
    }

    fn divide_walk(&mut self, plan: &FetchPlan) {
        let shards = plan.ranges.iter().map(|range| range.shard);
        let slow: Vec<i16> = shards.filter(|shard| self.shards.get(shard).is_some_and(|state| state.full)).collect();
        (self.scan_together, self.skips_slow_shards) = (1, true);
        let [alone] = slow.as_slice() else {
            // The next shard that is read is the one of these that is furthest behind, alone.
            let furthest =
                plan.ranges.iter().filter(|range| slow.contains(&range.shard)).min_by_key(|range| range.from);
            self.last_fresh = furthest.map_or(self.last_fresh, |range| range.shard - 1);
            return;
        };
        let Some(state) = self.shards.get_mut(alone) else { return };
        state.parts.divide();
        // Shards that were not started are like it.
        let parts = state.parts;
        let others = self.shards.values_mut().filter(|state| state.full && state.cursor == Position::START);
        others.for_each(|state| state.parts = state.parts.max(parts));
    }

    fn divide_sweep(&mut self, plan: &FetchPlan, now: BootInstant) {
        self.sweep_was_late = true;
        self.sweep_together = (plan.ranges.len() / 2).max(1);
        let clock = self.clock_at(now);
        let [Range { shard, from, to: Some(to), .. }] = plan.ranges.as_slice() else { return };
        let Some(state) = self.shards.get_mut(shard) else { return };
        let half = clock.and_then(|clock| parts::part(*from, to.scheduled_at.min(clock), 2));
        state.ends.extend(half);
    }

    /// Restarts a sweep that has reached every cursor; returns whether it had.
    fn restart_if_swept(&mut self) -> bool {
        let swept = self.shards.values().all(|state| state.sweep >= state.cursor);
        if swept {
            self.shards.values_mut().for_each(|state| state.sweep = Position::START);
        }
        swept
    }

    /// The last position of a shard's next sweep step. Steps end by bounds, not by a LIMIT: a LIMIT does not count dead
    /// rows.
    fn step(&self, state: &ShardState) -> Position {
        let after = (Bound::Excluded(state.sweep), Bound::Unbounded);
        let ends = [self.bounds.range(after).next(), state.ends.range(after).next()];
        ends.into_iter().flatten().copied().min().unwrap_or(state.cursor).min(state.cursor)
    }

    pub(super) fn advance_sweep(&mut self, plan: &FetchPlan, answer: &FetchResult, now: BootInstant) {
        let took = now.since(plan.began);
        self.fastest = self.fastest.min(took);
        let cheap = took < self.fastest.saturating_mul(2) + CHEAP_STEP;
        self.begin_together = match took < CHEAP_BEGINNING {
            true => self.begin_together.saturating_mul(2),
            false => self.begin_together.min(FRESH_TOGETHER),
        };
        let found = in_ranges(answer);
        for range in &plan.ranges {
            let Some(state) = self.shards.get_mut(&range.shard) else { continue };
            let (count, last) = found.get(&range.shard).copied().unwrap_or((0, range.from));
            let to = range.to.map_or(state.cursor, just_before);
            let more = answer.cut_short || count >= range.limit;
            state.sweep = if more { last } else { to };
            if !more && cheap {
                self.bounds.remove(&to);
                state.ends.remove(&to);
            }
        }
        let mut pause = pause_after_step(took);
        self.rest(now.after(pause));
        if self.restart_if_swept() {
            if !std::mem::take(&mut self.sweep_was_late) {
                self.sweep_together = self.sweep_together.saturating_mul(2);
            }
            let idle = if std::mem::take(&mut self.has_read) { Duration::ZERO } else { IDLE_PAUSE };
            let again = std::mem::take(&mut self.sweeps_again);
            pause = pause.max(if again { IDLE_PAUSE } else { self.poll_interval.max(idle) });
        }
        self.next_sweep = now.after(pause);
    }
}

/// How long the sweep pauses after a step.
fn pause_after_step(took: Duration) -> Duration {
    took.saturating_mul(SWEEP_SHARE).min(LONGEST_PAUSE)
}

/// Bounds are exclusive, and the event at the end of a step belongs to the step.
fn just_after(place: Position) -> Position {
    Position { seq: place.seq.saturating_add(1), ..place }
}

fn just_before(place: Position) -> Position {
    Position { seq: place.seq.saturating_sub(1), ..place }
}
