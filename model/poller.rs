//! Reading: `src/system/poller.rs`.
//!
//! A fetch begins, reads, and asks what stands before the keys, all in one step: what is read later than the fetch began
//! is only newer, while R1 and R2 count from its beginning. Its answer comes in another step, at any time or, with the
//! worker, never. Cursors and limits only leave rows out, for a later fetch to find; what a limit would cut in two is cut here
//! by the later event's commit.

use crate::events::Event;
use crate::flight::Fetch;
use crate::rules::Outbox;
use crate::state::State;
use crate::steps::Step;

impl State {
    pub(crate) fn poller_steps(&self, w: usize, outbox: &Outbox, steps: &mut Vec<Step>) {
        if self.workers[w].fetch.is_some() {
            return steps.push(Step::Admit(w));
        }
        for retries in [false, true] {
            let needed = !retries || self.has_retries();
            if needed && self.finds_something(w, retries, outbox) {
                steps.push(Step::Fetch(w, retries));
            }
        }
    }

    /// Fetches that find nothing new as they begin, and whose answer may be stale when it comes.
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
        let mut flight = self.workers[w].flight;
        !flight.admit(&self.begin_fetch(w, retries), outbox.rules).is_empty()
    }

    /// `read`: the rows, and the answers to the questions about their keys.
    pub(crate) fn begin_fetch(&self, w: usize, retries: bool) -> Fetch {
        let worker = &self.workers[w];
        let open = worker.open_and_held();
        let rows = self.database.fetch(open.map(|opening| opening.is_some()), retries);
        let read = |event: Event| rows[event as usize].is_some() && worker.flight.entry(event).is_none();
        let except = |event: Event| read(event) || worker.flight.on_its_way(event);
        let blocked = self.database.blockers(Event::Later, except);
        Fetch { open, rows, blocked }
    }

    /// `take`: what may go is queued for the publisher.
    pub(crate) fn admit(&mut self, w: usize, outbox: &Outbox) {
        let worker = &mut self.workers[w];
        let Some(fetch) = worker.fetch.take() else { return };
        let admitted = worker.flight.admit(&fetch, outbox.rules);
        worker.queue.extend(admitted);
        worker.flight.release();
    }
}
