//! Health checks of a backend that is sent nothing: an idle one may have become unavailable, an unavailable one available
//! again.

use std::time::Duration;

use super::batch_sender::BatchSender;
use crate::backend::BackendError;
use crate::clock::BootInstant;

/// How often a backend that is sent nothing is checked.
const IDLE: Duration = Duration::from_secs(2);

/// One in this many checks tests whether the backend would accept events, which costs it more.
const THOROUGH: u32 = 15;

/// A worker that holds shards and has nothing to send tries no event either; after this time a health check decides.
const SILENCE: Duration = Duration::from_secs(5);

impl BatchSender {
    /// Whether a flush would find nothing to do, and no check is due.
    pub(super) fn rests(&self, now: BootInstant) -> bool {
        let is_well = self.state.breaker().open().is_none();
        self.flushed && is_well && self.state.settled.is_empty() && now.since(self.asked) < IDLE
    }

    /// Logs how many refusals were not logged.
    pub(super) fn log_left_out(&self) {
        let left_out = self.state.refusals.take_left_out(BootInstant::now());
        if left_out > 0 {
            tracing::warn!(backend = %self.state.name, events = left_out, "further events refused; see `last_error` for the causes");
        }
    }

    pub(super) async fn look_after(&mut self) {
        let now = BootInstant::now();
        let silent = now.since(self.asked);
        let breaker = self.state.breaker();
        let probing = breaker.open().is_some_and(|open| open.probing);
        if breaker.open().is_none() || probing {
            if silent >= IDLE {
                self.check_idle(probing).await;
            }
        } else if !breaker.is_paused(now)
            && breaker.trusts_health_checks(now)
            && (!self.holds_any(now) || silent >= SILENCE)
        {
            self.probe().await;
        }
    }

    /// A worker that holds no shard of its backend opens nothing either, so only a check shows that the backend is available
    /// again.
    async fn probe(&mut self) {
        self.asked = BootInstant::now();
        match self.session.health_check().await {
            Ok(()) => {
                self.batch = 1;
                self.state.note_healthy(self.session.proves_writing());
                self.context.wakeups.heartbeat.notify_one();
                self.context.wakeups.poller.notify_one();
            }
            Err(error) => self.state.pause(&error.to_string(), false),
        }
    }

    /// Checks an idle session. Ending it while nothing is sent does no harm if a new one can be opened.
    async fn check_idle(&mut self, trying: bool) {
        self.asked = BootInstant::now();
        self.idle_checks = self.idle_checks.wrapping_add(1);
        let Err(error) = self.ask().await else { return };
        tracing::debug!(backend = %self.state.name, %error, "idle session ended");
        self.state.close_all();
        match self.session.health_check().await {
            Ok(()) => self.context.wakeups.poller.notify_one(),
            Err(error) => {
                self.state.pause(&error.to_string(), false);
                if trying {
                    self.context.wakeups.heartbeat.notify_one();
                }
            }
        }
    }

    async fn ask(&mut self) -> Result<(), BackendError> {
        if self.idle_checks.is_multiple_of(THOROUGH) {
            return self.session.health_check().await;
        }
        self.session.is_alive().await
    }

    fn holds_any(&self, now: BootInstant) -> bool {
        self.state.lanes.iter().any(|in_flight| !self.context.leases.readable(in_flight.lane(), now).is_empty())
    }
}
