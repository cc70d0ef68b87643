//! What waits to be recorded for one backend. Pure but for the clock that is handed in.
//!
//! A row that the database refuses or that another transaction holds is set aside and tried again by itself, so that it
//! holds up no other. A refused row is to blame only where others are recorded meanwhile; else the database refuses all.

use std::time::Duration;

use super::clock::Moment;
use super::ticket::Ticket;
use super::trying::pause_after;
use crate::store::Settled;

/// The pause before a refused row is tried again, at first and at most: what refuses it is rarely gone within seconds.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// Something that is to be recorded about an event.
pub(super) trait Job {
    fn ticket(&self) -> &Ticket;
    fn ticket_mut(&mut self) -> &mut Ticket;
}

pub(super) struct SettleQueue<J> {
    waiting: Vec<J>,
    aside: Vec<Aside<J>>,
    writing: usize,
    retrying: bool,
    /// Events recorded so far.
    recorded: u64,
}

/// An event that could not be recorded by itself.
struct Aside<J> {
    job: J,
    tries: u32,
    next_try: Moment,
    /// Events that were recorded when it was refused first.
    recorded_before: u64,
}

/// Events for one statement.
pub(super) struct Batch<J> {
    pub(super) jobs: Vec<J>,
    /// Could not be recorded before: one try, and the others go on.
    pub(super) again: bool,
    tries: Vec<(u32, u64)>,
}

impl<J: Job> SettleQueue<J> {
    pub(super) fn new() -> Self {
        Self { waiting: Vec::new(), aside: Vec::new(), writing: 0, retrying: false, recorded: 0 }
    }

    pub(super) fn push(&mut self, jobs: impl IntoIterator<Item = J>) {
        self.waiting.extend(jobs);
    }

    /// The next batch of at most `most`, where fewer than `at_once` are under way. A second one beside another must be
    /// `worth_another`: small ones are better recorded together.
    pub(super) fn next(&mut self, most: usize, at_once: usize, worth_another: usize) -> Option<Batch<J>> {
        let worth = self.writing == 0 || self.writing < at_once && self.waiting.len() >= worth_another;
        if self.waiting.is_empty() || !worth {
            return None;
        }
        self.writing += 1;
        let rest = self.waiting.split_off(self.waiting.len().min(most));
        let jobs = std::mem::replace(&mut self.waiting, rest);
        let tries = vec![(0, self.recorded); jobs.len()];
        Some(Batch { jobs, again: false, tries })
    }

    /// Those set aside whose next try has come.
    pub(super) fn next_again(&mut self, most: usize, now: Moment) -> Option<Batch<J>> {
        // What was given up with its shard is the next owner's.
        self.aside.retain(|aside| aside.job.ticket().is_in_flight());
        let is_due = |aside: &mut Aside<J>| aside.next_try <= now;
        if self.retrying || !self.aside.iter_mut().any(|aside| is_due(aside)) {
            return None;
        }
        self.retrying = true;
        let due: Vec<Aside<J>> = self.aside.extract_if(.., is_due).take(most).collect();
        let tries = due.iter().map(|aside| (aside.tries, aside.recorded_before)).collect();
        Some(Batch { jobs: due.into_iter().map(|aside| aside.job).collect(), again: true, tries })
    }

    /// Takes back what of a batch is not at its end; `outcomes` are in its order.
    pub(super) fn finish(&mut self, batch: Batch<J>, outcomes: &[Settled], now: Moment) -> Vec<(J, Settled)> {
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
                    job.ticket_mut().set_aside("another transaction holds its row");
                    self.put_aside(job, tries, before, now.after(pause_after(tries)));
                }
                Settled::Refused(reason) if self.recorded > before => {
                    job.ticket_mut().set_aside(reason);
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
            tracing::warn!(reason, "the database refuses to record the outcome of events; retrying");
        }
        ended
    }

    fn put_aside(&mut self, job: J, tries: u32, recorded_before: u64, next_try: Moment) {
        self.aside.push(Aside { job, tries: tries.saturating_add(1), next_try, recorded_before });
    }
}

fn pause(tries: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << tries.min(6)).min(LONGEST_PAUSE)
}
