//! The time limit of the events in a handler's mailbox. Pure except for the clock that is passed in.
//!
//! A mailbox does not show when an event is started, and one handler may take events one by one, another all together.
//! Certain is only: an event has been started when every earlier event was answered. So the limit runs for the first
//! unanswered event, from when it was sent or from when it became the first. When the limit is over, this event alone is
//! rejected; the events behind it may never have been started, and spend no retry unless the handler answers again.

use std::collections::BTreeMap;
use std::time::Duration;

use crate::clock::BootInstant;

/// The events that one handler has received and not answered.
#[derive(Debug, Default)]
pub(super) struct HandlerTimer {
    next: u64,
    /// When each was sent to the handler.
    asked: BTreeMap<u64, BootInstant>,
    /// Since when the present first event has been the first.
    first_since: Option<BootInstant>,
    /// When an event was last rejected because its time was over; `None` once another was answered.
    stuck_since: Option<BootInstant>,
    /// The handler stopped, and one event was rejected for it.
    has_stopped: bool,
}

/// The decision about an event without an answer.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// Check again after this time.
    Wait(Duration),
    /// It was started, and its time is over.
    TimedOut,
    /// It waited behind an event that timed out.
    NotRun,
}

impl HandlerTimer {
    pub(super) fn begin(&mut self, now: BootInstant) -> u64 {
        let number = self.next;
        self.next += 1;
        self.asked.insert(number, now);
        number
    }

    /// Notes that the handler answered, so it is not stuck.
    pub(super) fn answered(&mut self) {
        self.stuck_since = None;
    }

    /// Removes an event whose answer is no longer awaited.
    pub(super) fn end(&mut self, number: u64, now: BootInstant) {
        if self.first() == Some(number) {
            self.first_since = Some(now);
        }
        self.asked.remove(&number);
    }

    pub(super) fn judge(&mut self, number: u64, limit: Duration, now: BootInstant) -> Verdict {
        let (Some(&asked), Some((&first, &first_asked))) = (self.asked.get(&number), self.asked.first_key_value())
        else {
            return Verdict::NotRun;
        };
        let waited_until = asked.after(limit);
        let first_ends = self.first_since.map_or(first_asked, |since| since.max(first_asked)).after(limit);
        if self.stuck_since.is_some_and(|refusal| waited_until <= refusal) {
            return Verdict::NotRun;
        }
        let looks_again = first_ends.max(waited_until);
        if now < looks_again {
            return Verdict::Wait(looks_again.since(now));
        }
        if number != first || self.stuck_since.is_some_and(|refusal| asked <= refusal) {
            return Verdict::NotRun;
        }
        self.stuck_since = Some(now);
        Verdict::TimedOut
    }

    /// The handler stopped before it answered this event; returns whether the event is blamed for it.
    pub(super) fn is_refused_by_a_stop(&mut self, number: u64) -> bool {
        let refused = self.first() == Some(number) && !self.has_stopped;
        self.has_stopped |= refused;
        refused
    }

    fn first(&self) -> Option<u64> {
        self.asked.first_key_value().map(|(number, _)| *number)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(30);

    struct Clock(BootInstant);

    impl Clock {
        fn at(&self, seconds: u64) -> BootInstant {
            self.0.after(Duration::from_secs(seconds))
        }
    }

    fn clock() -> Clock {
        Clock(BootInstant::now())
    }

    #[test]
    fn an_event_alone_is_refused_when_its_time_is_over() {
        let (clock, mut timer) = (clock(), HandlerTimer::default());
        let only = timer.begin(clock.at(0));
        assert_eq!(timer.judge(only, LIMIT, clock.at(29)), Verdict::Wait(Duration::from_secs(1)));
        assert_eq!(timer.judge(only, LIMIT, clock.at(30)), Verdict::TimedOut);
    }

    #[test]
    fn each_event_in_a_slow_handlers_mailbox_has_the_full_time_from_its_start() {
        let (clock, mut timer) = (clock(), HandlerTimer::default());
        let all: Vec<u64> = (0..100).map(|_| timer.begin(clock.at(0))).collect();
        for (seconds, number) in (20..).step_by(20).zip(all) {
            assert!(matches!(timer.judge(number, LIMIT, clock.at(seconds - 1)), Verdict::Wait(_)), "at {seconds} s");
            timer.answered();
            timer.end(number, clock.at(seconds));
        }
    }

    #[test]
    fn events_behind_a_timed_out_one_are_judged_not_run_in_any_order() {
        for first_looks_first in [true, false] {
            let (clock, mut timer) = (clock(), HandlerTimer::default());
            let (hung, second, third) = (timer.begin(clock.at(0)), timer.begin(clock.at(0)), timer.begin(clock.at(0)));
            let order = if first_looks_first { [hung, second, third] } else { [third, second, hung] };
            for number in order {
                let expected = if number == hung { Verdict::TimedOut } else { Verdict::NotRun };
                assert_eq!(timer.judge(number, LIMIT, clock.at(30)), expected);
                timer.end(number, clock.at(30));
            }
        }
    }

    /// A handler with one event that timed out and another behind it.
    fn stuck(clock: &Clock) -> (HandlerTimer, u64) {
        let mut timer = HandlerTimer::default();
        let (hung, behind) = (timer.begin(clock.at(0)), timer.begin(clock.at(10)));
        assert_eq!(timer.judge(hung, LIMIT, clock.at(30)), Verdict::TimedOut);
        timer.end(hung, clock.at(30));
        assert_eq!(timer.judge(behind, LIMIT, clock.at(30)), Verdict::Wait(LIMIT), "it gets the full time limit");
        (timer, behind)
    }

    #[test]
    fn an_event_behind_a_timed_out_one_is_not_run_while_the_handler_hangs() {
        let clock = clock();
        let (mut timer, behind) = stuck(&clock);
        assert_eq!(timer.judge(behind, LIMIT, clock.at(60)), Verdict::NotRun);
    }

    #[test]
    fn an_event_behind_a_timed_out_one_times_out_if_others_are_answered() {
        let clock = clock();
        let (mut timer, behind) = stuck(&clock);
        timer.answered();
        assert_eq!(timer.judge(behind, LIMIT, clock.at(60)), Verdict::TimedOut);
    }

    #[test]
    fn a_stuck_handler_is_tried_with_one_event_after_the_other() {
        let clock = clock();
        let (mut timer, behind) = stuck(&clock);
        timer.end(behind, clock.at(60));
        let next = timer.begin(clock.at(61));
        assert_eq!(timer.judge(next, LIMIT, clock.at(91)), Verdict::TimedOut);
    }

    #[test]
    fn an_event_that_hangs_while_others_are_answered_is_refused_all_the_same() {
        let (clock, mut timer) = (clock(), HandlerTimer::default());
        let hung = timer.begin(clock.at(0));
        for seconds in 1..30 {
            let other = timer.begin(clock.at(seconds));
            timer.answered();
            timer.end(other, clock.at(seconds));
        }
        assert_eq!(timer.judge(hung, LIMIT, clock.at(30)), Verdict::TimedOut);
    }

    #[test]
    fn a_handler_that_stops_is_put_down_to_the_event_that_it_ran() {
        let (clock, mut timer) = (clock(), HandlerTimer::default());
        let (first, second, third) = (timer.begin(clock.at(0)), timer.begin(clock.at(0)), timer.begin(clock.at(0)));
        for (number, refused) in [(second, false), (first, true), (third, false)] {
            assert_eq!(timer.is_refused_by_a_stop(number), refused);
            timer.end(number, clock.at(1));
        }
    }
}
