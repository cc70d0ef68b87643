//! The outcomes that wait to be recorded for one backend. Pure except for the clock that is passed in.
//!
//! A row that the database refuses or that another transaction holds is set aside and retried alone, so that it holds up no
//! other. A refused row is to blame only if others are recorded meanwhile; otherwise the database refuses all.

use std::time::Duration;

use super::reconnect::pause_after;
use crate::clock::BootInstant;
use crate::store::Settled;

/// The pause before a refused row is retried, at first and at most: its cause rarely disappears within seconds.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// An outcome of an event that must be recorded.
pub(super) trait SettleJob {
    /// Whether this process must still record it.
    fn is_in_flight(&self) -> bool;

    /// Notes that it cannot be recorded for now.
    fn set_aside(&mut self, reason: &str);
}

pub(super) struct SettleQueue<J> {
    waiting: Vec<J>,
    aside: Vec<Aside<J>>,
    writing: usize,
    retrying: bool,
    /// Events recorded so far.
    recorded: u64,
}

/// An outcome that could not be recorded when tried alone.
struct Aside<J> {
    job: J,
    tries: u32,
    next_try: BootInstant,
    /// Number of recorded events when it was first refused.
    recorded_before: u64,
}

/// The events of one statement.
pub(super) struct SettleBatch<J> {
    pub(super) jobs: Vec<J>,
    /// Could not be recorded before: it is tried alone, and the others continue.
    pub(super) again: bool,
    tries: Vec<(u32, u64)>,
}

impl<J: SettleJob> SettleQueue<J> {
    pub(super) fn new() -> Self {
        Self { waiting: Vec::new(), aside: Vec::new(), writing: 0, retrying: false, recorded: 0 }
    }

    pub(super) fn push(&mut self, jobs: impl IntoIterator<Item = J>) {
        self.waiting.extend(jobs);
    }

    /// The next batch of at most `most`, if fewer than `at_once` are under way. A concurrent second one must have
    /// `worth_another` events: small ones are cheaper to record together.
    pub(super) fn next(&mut self, most: usize, at_once: usize, worth_another: usize) -> Option<SettleBatch<J>> {
        let worth = self.writing == 0 || self.writing < at_once && self.waiting.len() >= worth_another;
        if self.waiting.is_empty() || !worth {
            return None;
        }
        self.writing += 1;
        let rest = self.waiting.split_off(self.waiting.len().min(most));
        let jobs = std::mem::replace(&mut self.waiting, rest);
        let tries = vec![(0, self.recorded); jobs.len()];
        Some(SettleBatch { jobs, again: false, tries })
    }

    /// The jobs that were set aside and whose retry is due.
    pub(super) fn next_again(&mut self, most: usize, now: BootInstant) -> Option<SettleBatch<J>> {
        // A job that was released with its shard belongs to the next owner.
        self.aside.retain(|aside| aside.job.is_in_flight());
        if self.retrying || !self.aside.iter().any(|aside| aside.next_try <= now) {
            return None;
        }
        self.retrying = true;
        let due: Vec<Aside<J>> = self.aside.extract_if(.., |aside| aside.next_try <= now).take(most).collect();
        let tries = due.iter().map(|aside| (aside.tries, aside.recorded_before)).collect();
        Some(SettleBatch { jobs: due.into_iter().map(|aside| aside.job).collect(), again: true, tries })
    }

    /// Takes back the jobs of a batch that are not done; `outcomes` are in its order.
    pub(super) fn finish(
        &mut self,
        batch: SettleBatch<J>,
        outcomes: &[Settled],
        now: BootInstant,
    ) -> Vec<(J, Settled)> {
        match batch.again {
            true => self.retrying = false,
            false => self.writing -= 1,
        }
        let recorded = outcomes.iter().filter(|outcome| **outcome == Settled::Recorded).count();
        self.recorded += u64::try_from(recorded).unwrap_or(0);
        let mut ended = Vec::with_capacity(batch.jobs.len());
        let mut unexplained = None;
        for ((mut job, (tries, before)), outcome) in batch.jobs.into_iter().zip(batch.tries).zip(outcomes) {
            match outcome {
                Settled::Recorded | Settled::Superseded => ended.push((job, outcome.clone())),
                Settled::Locked => {
                    job.set_aside("another transaction holds its row");
                    self.put_aside(job, tries, before, now.after(pause_after(tries)));
                }
                Settled::Refused(reason) if self.recorded > before => {
                    job.set_aside(reason);
                    self.put_aside(job, tries, before, now.after(pause(tries)));
                }
                Settled::Refused(reason) => {
                    unexplained = Some(reason);
                    self.put_aside(job, tries, before, now.after(pause_after(tries)));
                }
                Settled::Untried if batch.again => self.put_aside(job, tries, before, now.after(pause_after(tries))),
                Settled::Untried => self.waiting.push(job),
            }
        }
        if let Some(reason) = unexplained {
            tracing::warn!(reason, "database refuses to record the outcome of events; retrying");
        }
        ended
    }

    /// Forgets a batch whose task was aborted; its jobs are gone.
    pub(super) fn abandon(&mut self, again: bool) {
        match again {
            true => self.retrying = false,
            false => self.writing -= 1,
        }
    }

    fn put_aside(&mut self, job: J, tries: u32, recorded_before: u64, next_try: BootInstant) {
        self.aside.push(Aside { job, tries: tries.saturating_add(1), next_try, recorded_before });
    }
}

fn pause(tries: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << tries.min(6)).min(LONGEST_PAUSE)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Default)]
    struct Event {
        name: &'static str,
        aside: Option<String>,
        is_gone: bool,
    }

    impl SettleJob for Event {
        fn is_in_flight(&self) -> bool {
            !self.is_gone
        }

        fn set_aside(&mut self, reason: &str) {
            self.aside = Some(reason.to_owned());
        }
    }

    fn event(name: &'static str) -> Event {
        Event { name, ..Event::default() }
    }

    fn refused() -> Settled {
        Settled::Refused("evidence".to_owned())
    }

    const MOST: usize = 10;

    /// Settles the waiting jobs with these outcomes.
    fn settle(queue: &mut SettleQueue<Event>, outcomes: &[Settled], now: BootInstant) -> Vec<&'static str> {
        let batch = queue.next(MOST, 1, 1).unwrap();
        queue.finish(batch, outcomes, now).into_iter().map(|(event, _)| event.name).collect()
    }

    #[test]
    fn a_row_refused_while_others_are_recorded_is_retried_later_by_itself() {
        let (mut queue, now) = (SettleQueue::new(), BootInstant::now());
        queue.push([event("good"), event("bad")]);
        assert_eq!(settle(&mut queue, &[Settled::Recorded, refused()], now), ["good"]);
        assert!(queue.next(MOST, 1, 1).is_none(), "it holds up no other");
        assert!(queue.next_again(MOST, now).is_none(), "not immediately");
        let again = queue.next_again(MOST, now.after(FIRST_PAUSE)).unwrap();
        assert!(again.again && again.jobs[0].aside.as_deref() == Some("evidence"));
        assert!(queue.next_again(MOST, now.after(LONGEST_PAUSE)).is_none(), "one try at a time");
        let ended = queue.finish(again, &[Settled::Recorded], now);
        assert_eq!(ended[0].0.name, "bad");
    }

    #[test]
    fn where_all_are_refused_none_is_to_blame_until_another_is_recorded() {
        let (mut queue, now) = (SettleQueue::new(), BootInstant::now());
        queue.push([event("a"), event("b")]);
        assert!(settle(&mut queue, &[refused(), refused()], now).is_empty());
        queue.push([event("c")]);
        settle(&mut queue, &[Settled::Recorded], now);
        let later = now.after(LONGEST_PAUSE);
        let again = queue.next_again(MOST, later).unwrap();
        assert!(again.jobs.iter().all(|event| event.aside.is_none()));
        queue.finish(again, &[refused(), Settled::Recorded], later);
        let again = queue.next_again(MOST, later.after(LONGEST_PAUSE)).unwrap();
        assert_eq!(
            again.jobs.iter().map(|event| (event.name, event.aside.is_some())).collect::<Vec<_>>(),
            [("a", true)]
        );
    }

    #[test]
    fn what_was_given_up_with_its_shard_does_not_come_again() {
        let (mut queue, now) = (SettleQueue::new(), BootInstant::now());
        queue.push([event("good"), Event { is_gone: true, ..event("gone") }]);
        settle(&mut queue, &[Settled::Recorded, Settled::Locked], now);
        assert!(queue.next_again(MOST, now.after(LONGEST_PAUSE)).is_none());
    }

    #[test]
    fn what_division_did_not_reach_is_first_in_the_next_batch() {
        let (mut queue, now) = (SettleQueue::new(), BootInstant::now());
        queue.push([event("a"), event("b")]);
        assert_eq!(settle(&mut queue, &[Settled::Recorded, Settled::Untried], now), ["a"]);
        assert_eq!(settle(&mut queue, &[Settled::Recorded], now), ["b"]);
    }

    #[test]
    fn a_second_batch_goes_beside_the_first_only_where_it_is_worth_it() {
        let mut queue = SettleQueue::new();
        queue.push([event("a")]);
        let first = queue.next(MOST, 2, 2).unwrap();
        queue.push([event("b")]);
        assert!(queue.next(MOST, 2, 2).is_none());
        queue.push([event("c")]);
        assert_eq!(queue.next(MOST, 2, 2).unwrap().jobs.len(), 2);
        queue.push([event("d"), event("e")]);
        assert!(queue.next(MOST, 2, 2).is_none(), "two at most");
        queue.finish(first, &[Settled::Recorded], BootInstant::now());
        assert!(queue.next(MOST, 2, 2).is_some());
    }
}
