//! Reading: `src/system/poller.rs`.
//!
//! A fetch begins and reads its rows in one step: R1 and R2 count from its beginning, and what is read later is only newer.
//! In a second step it queries what precedes the rows of the key: that depends on what is in flight by then, and the
//! database answers from a later snapshot. The answer comes in a third step, at any time or, with the worker, never. Cursors
//! and limits only leave rows out, for a later fetch to find; what a limit would divide is divided here by the later event's
//! commit.

use crate::events::Event;
use crate::in_flight::{Asked, Fetch, Reading};
use crate::rules::Outbox;
use crate::state::State;
use crate::steps::Step;

impl State {
    pub(crate) fn poller_steps(&self, w: usize, outbox: &Outbox, steps: &mut Vec<Step>) {
        if let Some(fetch) = &self.workers[w].fetch {
            return steps.push(if fetch.asked.is_some() { Step::Admit(w) } else { Step::Ask(w) });
        }
        for retries in [false, true] {
            let needed = !retries || self.has_retries();
            if needed && self.finds_something(w, retries, outbox) {
                steps.push(Step::Fetch(w, retries));
            }
        }
    }

    /// Fetches that find nothing new as they begin, and whose result may be outdated when it arrives.
    pub(crate) fn looks(&self, w: usize, outbox: &Outbox, steps: &mut Vec<Step>) {
        if self.workers[w].fetch.is_none()
            && self.begin_fetch(w, true).rows.iter().any(Option::is_some)
            && !self.finds_something(w, true, outbox)
        {
            steps.push(Step::Look(w));
        }
    }

    fn has_retries(&self) -> bool {
        Event::ALL.into_iter().any(|event| self.database.row(event).status == crate::database::Status::Retry)
    }

    fn finds_something(&self, w: usize, retries: bool, outbox: &Outbox) -> bool {
        let mut in_flight = self.workers[w].in_flight;
        let mut fetch = self.begin_fetch(w, retries);
        fetch.asked = fetch.asked.or(Some(self.question(w, &fetch)));
        !in_flight.admit(&fetch, outbox.rules).is_empty()
    }

    /// `read`: the rows. If none has a key, nothing must be queried.
    pub(crate) fn begin_fetch(&self, w: usize, retries: bool) -> Fetch {
        let worker = &self.workers[w];
        let open = worker.open_and_held();
        let rows = self.database.fetch(open.map(|opening| opening.is_some()), retries);
        let has_key = rows.iter().flatten().any(|row| row.publication.event.has_key());
        Fetch { open, rows, asked: (!has_key).then(Asked::default) }
    }

    /// `questions` and `blockers`: for rows that are not in flight, except events in flight, which are known by id and `seq`.
    pub(crate) fn question(&self, w: usize, fetch: &Fetch) -> Asked {
        let in_flight = &self.workers[w].in_flight;
        let read = |event: Event| fetch.rows[event as usize].is_some() && in_flight.entry(event).is_none();
        let is_same =
            |event: Event| in_flight.entry(event).is_some_and(|entry| self.database.has(entry.row.publication));
        let except = |event: Event| read(event) || in_flight.on_its_way(event) && is_same(event);
        let up_to = Event::ALL.into_iter().filter(|event| event.has_key() && read(*event)).max();
        let blocked = up_to.is_some_and(|last| self.database.blockers(last, except));
        Asked { up_to, blocked }
    }

    pub(crate) fn ask(&mut self, w: usize) {
        let Some(fetch) = self.workers[w].fetch else { return };
        let asked = Some(self.question(w, &fetch));
        self.workers[w].fetch = Some(Fetch { asked, ..fetch });
    }

    /// `take`: events that can be sent are queued for the publisher.
    pub(crate) fn admit(&mut self, w: usize, outbox: &Outbox) {
        let worker = &mut self.workers[w];
        let Some(fetch) = worker.fetch.take() else { return };
        let admitted = worker.in_flight.admit(&fetch, outbox.rules);
        worker.queue.extend(admitted);
        worker.in_flight.end_reading(Reading { fetch: true, look_up: false });
    }
}
