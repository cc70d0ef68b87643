//! One question for all lanes that have been read to their end: in which of them is anything due?
//!
//! It replaces the polls and sweeps of those lanes, however many they are. It reads the indexes from their start, so it finds
//! what was committed behind a cursor, too, and also reads the dead rows there: if that takes long, the lanes poll by
//! themselves meanwhile.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use actix::{ActorFutureExt, AsyncContext, Context, WrapFuture};

use super::lane::Lane;
use super::poller::Poller;
use crate::clock::BootInstant;
use crate::error::StoreError;
use crate::store::{DueKind, DueLane, DueLanes, LaneName};

/// A question is repeated with every poll unless it takes the database longer than this, and for each lane as long as a fetch.
const CHEAP: Duration = Duration::from_millis(5);
const CHEAP_FOR_EACH: Duration = Duration::from_micros(250);

/// This many slow ones in a row have a cause in the database, such as dead rows.
const SLOW_IN_A_ROW: u32 = 3;

/// Then questions take at most one part in this many of the time.
const SHARE: u32 = 20;

/// How long lanes wait for an answer at least.
const PATIENCE: Duration = Duration::from_secs(1);

const LONGEST_REST: Duration = Duration::from_secs(60);

/// The shortest time from one question to the next that follows a wake-up.
const LEAST: Duration = Duration::from_millis(20);

/// When the lanes are asked about.
#[derive(Debug)]
pub(super) struct DueQuestion {
    next: BootInstant,
    is_open: bool,
    /// Something may be new since the last one began.
    is_woken: bool,
    /// The one under way answers a wake-up.
    answers_wake: bool,
    /// A timer for that runs.
    is_timed: bool,
    last: BootInstant,
    /// No question before this: it would take too much of the time.
    rests_until: BootInstant,
    /// Slow ones in a row.
    slow: u32,
}

impl DueQuestion {
    pub(super) fn new() -> Self {
        let now = BootInstant::now();
        Self {
            next: now,
            is_open: false,
            is_woken: false,
            answers_wake: false,
            is_timed: false,
            last: now,
            rests_until: now,
            slow: 0,
        }
    }

    /// Asks soon: something may be new in any lane.
    pub(super) fn wake(&mut self) {
        self.is_woken = true;
    }

    /// How long the lanes wait for an answer before they poll by themselves: longer if the last one was fast, because then a
    /// late one is the fault of something that polls would burden.
    fn limit(&self, interval: Duration) -> Duration {
        let limit = interval.saturating_mul(2);
        if self.slow == 0 { limit.max(PATIENCE) } else { limit }
    }

    /// Whether it is asked as often as lanes would poll.
    pub(super) fn replaces_polls(&self, now: BootInstant) -> bool {
        now >= self.rests_until
    }

    /// Whether it is time to ask. A tick that comes a little early counts, and does not make the next one earlier.
    fn is_due(&self, interval: Duration, now: BootInstant) -> bool {
        let is_woken = self.is_woken && now.since(self.last) >= LEAST;
        !self.is_open && self.replaces_polls(now) && (is_woken || now.after(interval / 8) >= self.next)
    }

    fn begin(&mut self, interval: Duration, now: BootInstant) {
        self.answers_wake = std::mem::take(&mut self.is_woken);
        (self.is_open, self.last) = (true, now);
        let next = if now.after(interval / 8) >= self.next { self.next.after(interval) } else { self.next };
        self.next = next.max(now.after(interval / 2));
    }

    fn end(&mut self, lanes: usize, took: Duration, now: BootInstant) {
        let cheap = CHEAP + CHEAP_FOR_EACH.saturating_mul(u32::try_from(lanes).unwrap_or(u32::MAX));
        self.slow = if took > cheap { self.slow + 1 } else { 0 };
        if self.slow >= SLOW_IN_A_ROW {
            self.rest(took, now);
        }
    }

    /// Asks again after a while; until then the lanes poll by themselves.
    fn rest(&mut self, took: Duration, now: BootInstant) {
        self.rests_until = now.after(took.saturating_mul(SHARE).min(LONGEST_REST));
    }

    /// Takes the wake-up that no question will answer, if there is one: the lanes must be fetched.
    fn take_unanswered(&mut self, failed: bool) -> bool {
        let answers_wake = std::mem::take(&mut self.answers_wake);
        std::mem::take(&mut self.is_woken) || failed && answers_wake
    }
}

impl Poller {
    /// Asks about the lanes that have been read to their end, if a poll is due.
    pub(super) fn ask_for_due(&mut self, now: BootInstant, ctx: &mut Context<Self>) {
        let interval = self.context.settings.worker.poll_interval;
        if !self.question.is_due(interval, now) {
            if self.question.is_woken && !std::mem::replace(&mut self.question.is_timed, true) {
                ctx.run_later(LEAST, |poller, ctx| {
                    poller.question.is_timed = false;
                    poller.run_once(ctx);
                });
            }
            return;
        }
        if self.question.is_woken {
            // One that was covered when it was woken may have had an event since.
            self.lanes().filter(|lane| !lane.can_be_covered(now)).for_each(|lane| lane.reader.schedule_fetch_at(now));
        }
        let lanes = self.lanes().filter_map(|lane| asked_lane(lane, now)).collect::<Vec<_>>();
        if lanes.is_empty() {
            self.question.is_woken = false;
            return;
        }
        self.question.begin(interval, now);
        let limit = self.question.limit(interval);
        self.lanes().filter(|lane| lane.can_be_covered(now)).for_each(|lane| lane.reader.cover(now, limit));
        self.context.metrics.polled.increment(1);
        let context = Arc::clone(&self.context);
        let asked: HashSet<LaneName> = lanes.iter().map(|(lane, _)| lane.clone()).collect();
        let work = self.context.runtime.spawn(async move { context.store.due_lanes(&lanes).await });
        ctx.spawn(work.into_actor(self).map(move |result, poller, ctx| {
            poller.question.is_open = false;
            // An error means that the system has stopped, and its runtime with it.
            if let Ok(answer) = result {
                poller.take_answer(&asked, answer, now);
                poller.run_once(ctx);
            }
        }));
    }

    fn take_answer(&mut self, asked: &HashSet<LaneName>, answer: Result<DueLanes, StoreError>, began: BootInstant) {
        let now = BootInstant::now();
        let due = match answer {
            Ok(DueLanes { lanes, took }) => {
                self.question.end(asked.len(), took, now);
                lanes
            }
            Err(error) => {
                // The time limit of a statement may be the cause.
                self.question.rest(now.since(began), now);
                self.uncover_all(true, now);
                return self.pause(&error);
            }
        };
        self.resume();
        let interval = self.context.settings.worker.poll_interval;
        let (rests, limit) = (!self.question.replaces_polls(now), self.question.limit(interval));
        let mut found: HashMap<LaneName, Vec<DueKind>> = HashMap::new();
        due.into_iter().for_each(|DueLane { lane, kind }| found.entry(lane).or_default().push(kind));
        for lane in self.lanes().filter(|lane| asked.contains(lane.in_flight.lane())) {
            match found.get(lane.in_flight.lane()) {
                Some(kinds) => lane.reader.note_due(kinds, began, now),
                None if lane.can_be_covered(now) => lane.reader.note_nothing_due(began, now, limit),
                None => lane.reader.uncover(),
            }
        }
        if rests {
            self.uncover_all(false, now);
        }
    }

    /// Has all lanes poll by themselves. `failed`: the last question had no answer.
    fn uncover_all(&mut self, failed: bool, now: BootInstant) {
        let is_unanswered = self.question.take_unanswered(failed);
        for lane in self.lanes() {
            lane.reader.uncover();
            if is_unanswered {
                lane.reader.schedule_fetch_at(now);
            }
        }
    }
}

/// A lane to ask about, and its shards.
fn asked_lane(lane: &Lane, now: BootInstant) -> Option<(LaneName, Vec<i16>)> {
    lane.can_be_covered(now).then(|| (lane.in_flight.lane().clone(), lane.reader.shard_numbers()))
}

#[cfg(all(test, feature = "postgres"))]
#[path = "idle_tests.rs"]
mod idle_tests;

#[cfg(test)]
mod tests {
    use super::*;

    const INTERVAL: Duration = Duration::from_millis(100);

    #[test]
    fn a_cheap_question_is_asked_with_every_poll_and_an_expensive_one_takes_a_part_of_the_time() {
        let (mut question, mut now) = (DueQuestion::new(), BootInstant::now());
        for _ in 0..100 {
            assert!(question.is_due(INTERVAL, now));
            question.begin(INTERVAL, now);
            assert!(!question.is_due(INTERVAL, now.after(INTERVAL)), "one at a time");
            question.is_open = false;
            question.end(1, CHEAP, now);
            now = now.after(INTERVAL);
        }
        let early = now.after(INTERVAL - INTERVAL / 10);
        question.begin(INTERVAL, now);
        question.is_open = false;
        question.end(1, CHEAP, now);
        assert!(question.is_due(INTERVAL, early) && question.replaces_polls(early), "ticks waver");
        question.begin(INTERVAL, early);
        question.is_open = false;
        question.end(1, CHEAP, early);
        assert!(question.replaces_polls(early));
        now = early.after(INTERVAL * 2);
        for _ in 0..SLOW_IN_A_ROW {
            assert!(question.is_due(INTERVAL, now), "a slow one may be an accident");
            question.begin(INTERVAL, now);
            question.is_open = false;
            question.end(1, INTERVAL, now);
            now = now.after(INTERVAL);
        }
        assert!(!question.is_due(INTERVAL, now.after(INTERVAL * SHARE / 2)));
        now = now.after(INTERVAL * SHARE);
        assert!(question.is_due(INTERVAL, now));
        question.begin(INTERVAL, now);
        question.is_open = false;
        question.end(1_000, INTERVAL, now);
        assert!(question.is_due(INTERVAL, now.after(INTERVAL * 2)), "for many lanes it is cheap");
    }

    #[test]
    fn a_wake_up_that_no_question_answers_is_taken_once() {
        let (mut question, now) = (DueQuestion::new(), BootInstant::now());
        let mut ask = |before: bool, during: bool, failed: bool| {
            question.is_woken = before;
            question.begin(INTERVAL, now);
            question.is_open = false;
            if during {
                question.wake();
            }
            question.rest(INTERVAL, now);
            let first = question.take_unanswered(failed);
            assert!(!question.take_unanswered(failed) && !question.is_woken);
            first
        };
        assert!(ask(true, false, true), "its question failed");
        assert!(!ask(true, false, false), "its question was answered");
        assert!(ask(false, true, false), "the next question is far away");
        assert!(!ask(false, false, true), "no lane was woken");
    }
}
