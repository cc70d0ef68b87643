//! `Publisher`: one for each named backend; hands batches over, one at a time.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;
use std::time::Duration;

use actix::{Actor, ActorContext, ActorFutureExt, AsyncContext, AtomicResponse, Context, Handler, WrapFuture};
use tokio::sync::Mutex;
use uuid::Uuid;

use super::clock::Moment;
use super::limiter::Limiter;
use super::messages::{Accepted, ActorKind, Cause, Deliver, Failed, Failure, Flush, Open};
use super::shared::{Down, Lifeline, Line, Shared, panics_on_demand};
use super::suspects::Suspects;
use super::ticket::Ticket;
use crate::backend::BackendError;
use crate::backend::channel::{Answer, Channel, Opened, Parcel};
use crate::store::{Fetched, Shard};

/// The first and the longest pause after a backend was away.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// A batch that a rate limit draws out longer than this is given back, so that nothing waits behind it for long.
const LONGEST_DELIVERY: Duration = Duration::from_secs(1);

/// How often the journal is rid of what is settled when no batch does it.
const FLUSH_INTERVAL: Duration = Duration::from_millis(500);

pub(crate) struct Publisher {
    shared: Arc<Shared>,
    desk: Arc<Mutex<Desk>>,
    name: String,
    mailbox: usize,
    flushing: bool,
    _lifeline: Lifeline,
}

impl Publisher {
    pub(crate) fn new(shared: Arc<Shared>, line: Arc<Line>) -> Self {
        let lifeline = shared.lifeline(ActorKind::Publisher(line.name.clone()));
        // Sessions of a predecessor that died are shut out by the next open.
        line.close_all();
        line.state().opening = false;
        let mailbox = shared.settings.worker.max_in_flight.max(16) + 16;
        let name = line.name.clone();
        let desk = Arc::new(Mutex::new(Desk::new(Arc::clone(&shared), line)));
        Self { shared, desk, name, mailbox, flushing: false, _lifeline: lifeline }
    }
}

impl Actor for Publisher {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        // Every batch holds an event of the credit, so the poller never meets a full mailbox.
        ctx.set_mailbox_capacity(self.mailbox);
        ctx.run_interval(FLUSH_INTERVAL, |publisher, ctx| publisher.flush(ctx));
        tracing::debug!(backend = %self.name, "publisher started");
    }
}

impl Publisher {
    fn flush(&mut self, ctx: &mut Context<Self>) {
        if !ctx.connected() {
            return ctx.stop();
        }
        if std::mem::replace(&mut self.flushing, true) {
            return;
        }
        let desk = Arc::clone(&self.desk);
        let work = self.shared.runtime.spawn(async move { desk.lock().await.flush().await });
        ctx.spawn(work.into_actor(self).map(|_, publisher, _| publisher.flushing = false));
    }
}

impl Handler<Open> for Publisher {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, Open(shards): Open, _: &mut Self::Context) -> Self::Result {
        let desk = Arc::clone(&self.desk);
        let work = self.shared.runtime.spawn(async move { desk.lock().await.open(&shards).await });
        AtomicResponse::new(Box::pin(work.into_actor(self).map(|result, publisher, _| {
            if let Err(error) = result {
                tracing::error!(backend = %publisher.name, %error, "opening was given up");
            }
        })))
    }
}

impl Handler<Deliver> for Publisher {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, Deliver(tickets): Deliver, _: &mut Self::Context) -> Self::Result {
        let desk = Arc::clone(&self.desk);
        let work = self.shared.runtime.spawn(async move { desk.lock().await.deliver(tickets).await });
        AtomicResponse::new(Box::pin(work.into_actor(self).map(|result, publisher, _| {
            if let Err(error) = result {
                tracing::error!(backend = %publisher.name, %error, "a batch was given up");
            }
        })))
    }
}

impl Handler<Flush> for Publisher {
    type Result = AtomicResponse<Self, ()>;

    fn handle(&mut self, _: Flush, _: &mut Self::Context) -> Self::Result {
        let desk = Arc::clone(&self.desk);
        let work = self.shared.runtime.spawn(async move { desk.lock().await.flush().await });
        AtomicResponse::new(Box::pin(work.into_actor(self).map(|_, _, _| ())))
    }
}

panics_on_demand!(Publisher);

/// What a publisher works with, on the runtime's side.
struct Desk {
    shared: Arc<Shared>,
    line: Arc<Line>,
    channel: Box<dyn Channel>,
    limiter: Option<Limiter>,
    suspects: Suspects,
    /// Events in one send: halves after a failure, doubles after a success.
    batch: usize,
}

impl Desk {
    fn new(shared: Arc<Shared>, line: Arc<Line>) -> Self {
        let limit = shared.settings.publishers.get(&line.name).and_then(|settings| settings.rate_limit);
        let batch = shared.settings.worker.batch_size;
        let channel = (line.channel)();
        Self { shared, line, channel, limiter: limit.map(Limiter::new), suspects: Suspects::default(), batch }
    }

    // Opening.

    async fn open(&mut self, shards: &[(Shard, i64)]) {
        let line = Arc::clone(&self.line);
        let _turn = line.turn.lock().await;
        let opened = self.try_open(shards).await;
        self.line.state().opening = false;
        match opened {
            Ok(tickets) => {
                self.say_reachable();
                self.pass_on(tickets).await;
            }
            Err(error) => self.say_down(&error.to_string(), false),
        }
        self.shared.wake.notify_one();
    }

    /// Shuts earlier sessions out, and only then asks what they sent and the database does not know.
    async fn try_open(&mut self, shards: &[(Shard, i64)]) -> Result<Vec<Ticket>, BackendError> {
        shards.iter().filter_map(|(shard, _)| Some((self.line.flight(&shard.lane)?, shard))).for_each(
            |(flight, shard)| {
                flight.close(shard.number);
            },
        );
        self.note_settled();
        let opened = self.channel.open(shards).await?;
        self.raise_epochs(shards, &opened.refused).await;
        let tickets = self.recover(shards, &opened).await?;
        for (shard, epoch) in shards {
            let refused = opened.refused.iter().any(|(other, _)| other == shard);
            if let Some(flight) = self.line.flight(&shard.lane).filter(|_| !refused) {
                flight.open(shard.number, *epoch);
            }
        }
        Ok(tickets)
    }

    /// A newer token than our lease: either the lease is another's by now, or the database was restored. The update
    /// finds out, for it touches only a lease that is still ours.
    async fn raise_epochs(&self, shards: &[(Shard, i64)], refused: &[(Shard, i64)]) {
        for (shard, above) in refused {
            let Some((_, epoch)) = shards.iter().find(|(other, _)| other == shard) else { continue };
            match self.shared.store.raise_epoch(self.shared.worker, shard, *epoch, *above).await {
                Ok(true) => tracing::warn!(
                    backend = %shard.lane, shard = shard.number, epoch, above,
                    "the backend knows a newer session than the database; the lease's epoch was raised above it"
                ),
                Ok(false) => {
                    tracing::debug!(backend = %shard.lane, shard = shard.number, "another worker has the shard")
                }
                Err(error) => tracing::warn!(%error, "a lease's epoch could not be raised"),
            }
        }
        if !refused.is_empty() {
            self.line.state().open_after = Some(Moment::now().after(FIRST_PAUSE));
            self.shared.beat_now.notify_one();
        }
    }

    /// Takes what earlier sessions sent into flight as accepted; what the database has already may leave the journal.
    async fn recover(&mut self, shards: &[(Shard, i64)], opened: &Opened) -> Result<Vec<Ticket>, BackendError> {
        let mut tickets = Vec::new();
        for flight in &self.line.flights {
            let sent: Vec<(Uuid, i64)> = opened
                .sent
                .iter()
                .filter(|(shard, ..)| shard.lane == *flight.lane())
                .map(|(_, id, seq)| (*id, *seq))
                .collect();
            if sent.is_empty() {
                continue;
            }
            let fetch = flight.begin_fetch();
            let rows = self.shared.store.unrecorded(flight.lane(), &sent).await.map_err(|error| {
                BackendError::Unavailable(format!("what was sent cannot be compared with the database: {error}"))
            })?;
            let unknown: HashSet<Uuid> = rows.iter().map(|row| row.id).collect();
            let recorded: Vec<(Uuid, i64)> = sent.into_iter().filter(|(id, _)| !unknown.contains(id)).collect();
            self.channel.settled(&recorded);
            self.record_unreadable(&rows).await?;
            let epochs: HashMap<i16, i64> = shards
                .iter()
                .filter(|(shard, _)| shard.lane == *flight.lane())
                .map(|(shard, epoch)| (shard.number, *epoch))
                .collect();
            let credit = &self.line.credit;
            let adopted =
                fetch.adopt(rows, &epochs, |row| credit.take(row.event.as_ref().map_or(0, |event| event.size())));
            if !adopted.is_empty() {
                tracing::info!(backend = %flight.lane(), events = adopted.len(), "found in the journal, not sent again");
            }
            tickets.extend(adopted);
        }
        Ok(tickets)
    }

    /// The backend has them, though their rows are no events any more.
    async fn record_unreadable(&self, rows: &[Fetched]) -> Result<(), BackendError> {
        let unreadable: Vec<(Uuid, i64)> =
            rows.iter().filter(|row| row.event.is_err()).map(|row| (row.id, row.position.seq)).collect();
        if unreadable.is_empty() {
            return Ok(());
        }
        let recorded = self.shared.store.settle_published(&unreadable).await;
        recorded.map_err(|error| BackendError::Unavailable(format!("what was sent cannot be recorded: {error}")))
    }

    // Delivering.

    async fn deliver(&mut self, tickets: Vec<Ticket>) {
        let line = Arc::clone(&self.line);
        let _turn = line.turn.lock().await;
        // Already with the backend: only their handlers are left.
        let (mut handled, mut queue): (Vec<Ticket>, Vec<Ticket>) =
            tickets.into_iter().partition(|ticket| ticket.event().is_some_and(|event| event.published_at.is_some()));
        handled.retain(|ticket| self.may_go(ticket));
        handled.iter_mut().for_each(Ticket::accept);
        self.pass_on(handled).await;
        // Suspects last, so that others can pass before them.
        queue.sort_by_key(|ticket| self.suspects.is_suspect(ticket.id));
        self.refuse_proven(&mut queue).await;
        let until = Moment::now().after(LONGEST_DELIVERY);
        while !queue.is_empty() && Moment::now() < until {
            let piece = self.next_piece(&mut queue).await;
            if piece.is_empty() || !self.send(piece).await {
                // Given back by their drop: what is left was not sent.
                return;
            }
        }
    }

    /// Takes the next few that may go, when the rate allows.
    async fn next_piece(&self, queue: &mut Vec<Ticket>) -> Vec<Ticket> {
        let mut most = queue.len().min(self.batch);
        if queue.first().is_some_and(|ticket| self.suspects.is_suspect(ticket.id)) {
            most = 1;
        } else if let Some(first) = queue.iter().position(|ticket| self.suspects.is_suspect(ticket.id)) {
            most = most.min(first);
        }
        if let Some(limiter) = &self.limiter {
            most = limiter.piece(most);
            while let Err(wait) = limiter.take(most) {
                if self.shared.is_stopping() {
                    return Vec::new();
                }
                // Those whose session or lease ended meanwhile do not wait, nor do others wait behind them.
                let waiting = queue.len();
                queue.retain(|ticket| self.may_go(ticket));
                if queue.is_empty() {
                    return Vec::new();
                }
                if queue.len() < waiting {
                    return Box::pin(self.next_piece(queue)).await;
                }
                tokio::time::sleep(wait.min(Duration::from_millis(100))).await;
            }
        }
        let mut piece: Vec<Ticket> = queue.drain(..most).collect();
        piece.retain(|ticket| self.may_go(ticket));
        if piece.is_empty() && !queue.is_empty() {
            return Box::pin(self.next_piece(queue)).await;
        }
        piece
    }

    /// R1 and R3 once more, at the last moment: its session and its lease are current, nothing before it was refused.
    fn may_go(&self, ticket: &Ticket) -> bool {
        ticket.is_current()
            && !ticket.is_blocked()
            && self.shared.leases.covers(&ticket.shard, ticket.opening.epoch, Moment::now())
    }

    /// Sends one piece; returns whether more may follow.
    async fn send(&mut self, mut piece: Vec<Ticket>) -> bool {
        self.note_settled();
        let parcels: Vec<Parcel> = piece
            .iter()
            .filter_map(|ticket| Some(Parcel { shard: ticket.shard.clone(), event: Arc::clone(ticket.event()?) }))
            .collect();
        let sent = self.channel.send(&parcels).await;
        drop(parcels);
        // Closed before anything is given back, so that nothing is read again under the old session.
        if sent.unavailable.is_some() {
            self.line.close_all();
        }
        for shard in &sent.closed {
            if let Some(flight) = self.line.flight(&shard.lane) {
                flight.close(shard.number);
            }
        }
        if let Some(reason) = &sent.unavailable {
            self.batch = (self.batch / 2).max(1);
            if let [only] = piece.as_slice() {
                self.suspects.broke_alone(only.id);
            }
            self.say_down(reason, true);
        } else {
            self.batch = (self.batch * 2).min(self.shared.settings.worker.batch_size);
        }
        let (mut accepted, mut failures) = (Vec::new(), Vec::new());
        for (mut ticket, answer) in piece.drain(..).zip(sent.answers) {
            match answer {
                Answer::Accepted => {
                    ticket.accept();
                    accepted.push(ticket);
                }
                Answer::Rejected(reason) => failures.push(refuse(ticket, Cause::Rejected(reason))),
                Answer::Invalid(reason) => failures.push(refuse(ticket, Cause::Invalid(reason))),
                Answer::NotSent => drop(ticket),
            }
        }
        self.suspects.passed(accepted.iter().map(|ticket| ticket.id));
        if !accepted.is_empty() && sent.unavailable.is_none() {
            self.say_up();
        }
        let go_on = sent.unavailable.is_none() && sent.closed.is_empty();
        self.pass_on(accepted).await;
        self.fail(failures).await;
        if !go_on {
            self.shared.wake.notify_one();
        }
        go_on
    }

    async fn refuse_proven(&mut self, queue: &mut Vec<Ticket>) {
        let mut failures = Vec::new();
        let (proven, rest): (Vec<Ticket>, Vec<Ticket>) =
            std::mem::take(queue).into_iter().partition(|ticket| self.suspects.is_proven(ticket.id));
        *queue = rest;
        for ticket in proven {
            self.suspects.forget(ticket.id);
            let reason = "this event alone broke the connection several times while others passed".to_owned();
            failures.push(refuse(ticket, Cause::Rejected(reason)));
        }
        self.fail(failures).await;
    }

    /// On to the registry. Where it is being replaced, dropping the tickets closes their shards, and the next open finds
    /// the events in the journal.
    async fn pass_on(&self, tickets: Vec<Ticket>) {
        let registry = self.shared.addresses().registry.clone();
        if let Some(registry) = registry.filter(|_| !tickets.is_empty()) {
            let _ = registry.send(Accepted(tickets)).await;
        }
    }

    async fn fail(&self, failures: Vec<Failure>) {
        let retry = self.shared.addresses().retry.clone();
        if let Some(retry) = retry.filter(|_| !failures.is_empty()) {
            let _ = retry.send(Failed(failures)).await;
        }
    }

    // The journal and the breaker.

    fn note_settled(&mut self) {
        let settled = self.line.settled.take();
        if !settled.is_empty() {
            self.channel.settled(&settled);
        }
    }

    async fn flush(&mut self) {
        let line = Arc::clone(&self.line);
        let _turn = line.turn.lock().await;
        self.note_settled();
        if let Err(error) = self.channel.flush().await {
            self.line.close_all();
            self.say_down(&error.to_string(), false);
        }
        self.probe().await;
    }

    /// A worker that holds nothing of its backend opens nothing either, so only asking tells that the backend is back.
    async fn probe(&mut self) {
        let now = Moment::now();
        let due = self.line.state().down.as_ref().is_some_and(|down| now >= down.until);
        let holds = self.line.flights.iter().any(|flight| !self.shared.leases.readable(flight.lane(), now).is_empty());
        if !due || holds {
            return;
        }
        match self.channel.health_check().await {
            Ok(()) => {
                self.say_up();
                self.shared.beat_now.notify_one();
            }
            Err(error) => self.say_down(&error.to_string(), false),
        }
    }

    fn say_down(&self, reason: &str, sending: bool) {
        let now = Moment::now();
        let mut state = self.line.state();
        let before = state.down.take();
        if before.is_none() {
            tracing::warn!(backend = %self.line.name, reason, "backend paused; no retry is spent");
        }
        let (since, failures, sent) =
            before.map_or((now, 0, false), |down| (down.since, down.failures.saturating_add(1), down.sending));
        let pause = FIRST_PAUSE.saturating_mul(1 << failures.min(10)).min(LONGEST_PAUSE);
        let sending = sending || sent;
        state.down = Some(Down { reason: reason.to_owned(), since, until: now.after(pause), failures, sending });
    }

    /// An open went through. Where it was sending that failed, only sending shows that it is over.
    fn say_reachable(&self) {
        let sending = self.line.state().down.as_ref().is_some_and(|down| down.sending);
        if !sending {
            self.say_up();
        }
    }

    fn say_up(&self) {
        if let Some(down) = self.line.state().down.take() {
            let paused = Moment::now().since(down.since).as_millis();
            tracing::info!(backend = %self.line.name, paused.duration_ms = paused, "backend is back");
        }
    }
}

fn refuse(mut ticket: Ticket, cause: Cause) -> Failure {
    ticket.reject();
    Failure { ticket, cause }
}
