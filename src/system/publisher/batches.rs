//! Delivery of batches, in pieces as the rate allows.

use std::sync::Arc;
use std::time::Duration;

use chrono::{DateTime, TimeDelta, Utc};
use tracing::Instrument;

use super::batch_sender::BatchSender;
use crate::backend::session::{BatchResult, OutgoingEvent, SendResult};
use crate::backoff::NextTry;
use crate::clock::BootInstant;
use crate::event::OutboxEvent;
use crate::system::delivery::Delivery;
use crate::system::messages::{Cause, Failure};
use crate::trace::Sending;

/// A batch that a rate limit delays longer than this is released, so that nothing waits behind it for long.
const LONGEST_DELIVERY: Duration = Duration::from_secs(1);

impl BatchSender {
    pub(super) async fn deliver(&mut self, deliveries: Vec<Delivery>) {
        self.flushed = false;
        let state = Arc::clone(&self.state);
        let Some(_working) = state.begin_work(self.number).await else { return };
        let mut queue = self.pass_on_accepted(deliveries).await;
        if !self.poison.is_empty() {
            self.refuse_proven(&mut queue).await;
            queue = self.sort_suspects_last(queue);
        }
        let until = BootInstant::now().after(LONGEST_DELIVERY);
        while !queue.is_empty() && BootInstant::now() < until {
            let piece = self.next_piece(&mut queue).await;
            if piece.is_empty() || !self.send(piece).await {
                // Dropping the rest releases it: it was not sent.
                return;
            }
        }
    }

    /// Passes on deliveries that the backend has accepted already and that need only their handlers; returns the others.
    async fn pass_on_accepted(&mut self, deliveries: Vec<Delivery>) -> Vec<Delivery> {
        let is_accepted = |delivery: &Delivery| delivery.event().is_some_and(|event| event.published_at.is_some());
        if !deliveries.iter().any(is_accepted) {
            return deliveries;
        }
        let (mut accepted, queue): (Vec<Delivery>, Vec<Delivery>) = deliveries.into_iter().partition(is_accepted);
        accepted.retain(|delivery| self.may_go(delivery));
        accepted.iter_mut().for_each(|delivery| delivery.accept());
        self.pass_on(accepted).await;
        queue
    }

    fn sort_suspects_last(&self, queue: Vec<Delivery>) -> Vec<Delivery> {
        let last = self.poison.sort_last(queue.iter().map(|delivery| (delivery.id, delivery.key())));
        let (first, last): (Vec<_>, Vec<_>) = queue.into_iter().zip(last).partition(|(_, last)| !last);
        first.into_iter().chain(last).map(|(delivery, _)| delivery).collect()
    }

    /// Takes the next few that can be sent, when the rate allows.
    async fn next_piece(&self, queue: &mut Vec<Delivery>) -> Vec<Delivery> {
        let mut most = queue.len().min(self.batch);
        if queue.first().is_some_and(|delivery| self.poison.is_suspect(delivery.id)) {
            most = 1;
        } else if let Some(first) = queue.iter().position(|delivery| self.poison.is_suspect(delivery.id)) {
            most = most.min(first);
        }
        if let Some(limiter) = &self.limiter {
            most = limiter.piece(most);
            let began = BootInstant::now();
            let mut waited = false;
            while let Err(wait) = limiter.take(most) {
                if self.context.liveness.is_stopping() {
                    return Vec::new();
                }
                waited = true;
                // Deliveries whose session or lease ended meanwhile do not wait, nor do others wait behind them.
                let waiting = queue.len();
                queue.retain(|delivery| self.may_go(delivery));
                if queue.is_empty() {
                    return Vec::new();
                }
                if queue.len() < waiting {
                    return Box::pin(self.next_piece(queue)).await;
                }
                tokio::time::sleep(wait.min(Duration::from_millis(100))).await;
            }
            if waited {
                self.state.metrics.rate_limit_wait.record(BootInstant::now().since(began));
            }
        }
        let mut piece: Vec<Delivery> = queue.drain(..most).collect();
        piece.retain(|delivery| self.may_go(delivery));
        if piece.is_empty() && !queue.is_empty() {
            return Box::pin(self.next_piece(queue)).await;
        }
        piece
    }

    /// Checks R1 and R3 again at the last moment: session and lease are current, and no earlier event was rejected.
    fn may_go(&self, delivery: &Delivery) -> bool {
        delivery.is_current()
            && !delivery.is_blocked()
            && self.context.leases.covers(&delivery.shard, delivery.session.epoch, BootInstant::now())
    }

    /// Sends one piece; returns whether more may follow.
    async fn send(&mut self, piece: Vec<Delivery>) -> bool {
        self.note_settled();
        self.session.set_paused_hosts(&self.state.paused_hosts(BootInstant::now()));
        let outgoing: Vec<OutgoingEvent> = piece
            .iter()
            .filter_map(|delivery| {
                Some(OutgoingEvent { shard: delivery.shard.clone(), event: Arc::clone(delivery.event()?) })
            })
            .collect();
        let kind = self.context.settings.publishers.get(&self.state.name).map_or("", |publisher| &publisher.backend);
        let sending = Sending::begin(kind, &self.state.name, outgoing.iter().map(|event| &*event.event));
        let began = BootInstant::now();
        let sent = self.session.send(&outgoing).instrument(sending.span()).await;
        (self.asked, self.idle_checks) = (BootInstant::now(), 0);
        self.state.metrics.publish.record(BootInstant::now().since(began));
        drop(outgoing);
        self.apply(&sent, &piece);
        let (accepted, failures) = self.divide(piece, sent.answers, &sending);
        sending.end();
        self.poison.passed(accepted.iter().map(|delivery| delivery.id));
        if !accepted.is_empty() && sent.unavailable.is_none() {
            self.note_proof();
        }
        let go_on = sent.unavailable.is_none() && sent.closed.is_empty();
        self.pass_on(accepted).await;
        self.fail(failures).await;
        if !go_on {
            self.context.wakeups.poller.notify_one();
        }
        go_on
    }

    /// Closes the shards that the backend closed, and slows down or recovers.
    fn apply(&mut self, sent: &BatchResult, piece: &[Delivery]) {
        // Closed before anything is released, so that nothing is read again under the old session.
        if sent.unavailable.is_some() {
            self.state.close_all();
        }
        for shard in &sent.closed {
            if let Some(in_flight) = self.state.in_flight(&shard.lane) {
                in_flight.close(shard.number);
            }
        }
        if let Some(unavailable) = &sent.unavailable {
            self.batch = (self.batch / 2).max(1);
            if let [only] = piece {
                self.poison.failed_alone(only.id, !unavailable.is_its_state);
            }
            self.state.pause(&unavailable.to_string(), true);
            if self.state.breaker().is_disproved() {
                // Its share goes to a worker that can deliver, without waiting for a lease time.
                self.context.wakeups.heartbeat.notify_one();
            }
        } else {
            self.batch = (self.batch * 2).min(self.context.settings.worker.batch_size);
        }
    }

    /// Divides a piece by the backend's answers: accepted, and refused.
    fn divide(
        &self,
        mut piece: Vec<Delivery>,
        answers: Vec<SendResult>,
        sending: &Sending,
    ) -> (Vec<Delivery>, Vec<Failure>) {
        let now = self.context.liveness.database_now();
        let (mut accepted, mut failures) = (Vec::with_capacity(piece.len()), Vec::new());
        for (mut delivery, answer) in piece.drain(..).zip(answers) {
            match answer {
                SendResult::Accepted => {
                    delivery.accept();
                    self.time(&delivery, now);
                    accepted.push(delivery);
                }
                SendResult::Rejected(reason) => {
                    sending.refused(delivery.id, &reason);
                    failures.push(refuse(delivery, Cause::Rejected(reason, NextTry::ByBackoff)));
                }
                SendResult::RejectedFor(reason, delay) => {
                    sending.refused(delivery.id, &reason);
                    failures.push(refuse(delivery, Cause::Rejected(reason, NextTry::After(delay))));
                }
                SendResult::Deferred(reason, delay) => {
                    failures.push(refuse(delivery, Cause::Deferred(reason, delay)));
                }
                SendResult::Gone { host, reason } => {
                    sending.refused(delivery.id, &reason);
                    self.pause_host(host, &reason);
                    failures.push(refuse(delivery, Cause::Invalid(reason)));
                }
                SendResult::Invalid(reason) => {
                    sending.refused(delivery.id, &reason);
                    failures.push(refuse(delivery, Cause::Invalid(reason)));
                }
                SendResult::NotSent => drop(delivery),
            }
        }
        (accepted, failures)
    }

    fn note_proof(&self) {
        if self.state.accepted() {
            // The other workers must learn that this one takes its share again.
            self.context.wakeups.heartbeat.notify_one();
        }
    }

    /// Measures how long an event took to its backend. If it was changed since it was written, by a rejection or by an
    /// operator, the time counts from that.
    fn time(&self, delivery: &Delivery, now: DateTime<Utc>) {
        let is_as_written = |event: &&Arc<OutboxEvent>| {
            delivery.retry_count == 0 && event.updated_at - event.created_at < TimeDelta::seconds(1)
        };
        if let Some(event) = delivery.event().filter(is_as_written) {
            self.state.metrics.delivered(event.created_at, event.scheduled_at, now);
        }
    }

    async fn refuse_proven(&mut self, queue: &mut Vec<Delivery>) {
        let mut failures = Vec::new();
        let (proven, rest): (Vec<Delivery>, Vec<Delivery>) =
            std::mem::take(queue).into_iter().partition(|delivery| self.poison.is_proven(delivery.id));
        *queue = rest;
        for delivery in proven {
            self.poison.forget(delivery.id);
            let reason = "this event alone broke the connection several times while others were accepted".to_owned();
            failures.push(refuse(delivery, Cause::Rejected(reason, NextTry::ByBackoff)));
        }
        self.fail(failures).await;
    }
}

fn refuse(mut delivery: Delivery, cause: Cause) -> Failure {
    delivery.reject();
    Failure { delivery, cause }
}
