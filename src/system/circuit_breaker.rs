//! The circuit breaker of a publisher: whether the backend is tried, and whether a health check is trusted.

use std::time::Duration;

use super::reconnect::pause_after;
use crate::clock::BootInstant;

/// The longest distrust: each time that a health check is trusted without proof, one event waits for it in vain.
const LONGEST_DISTRUST: Duration = Duration::from_secs(60);

/// Closed while the backend works, open from a failure until it works again.
#[derive(Debug, Clone, Default)]
pub(crate) struct CircuitBreaker {
    open: Option<BreakerOpen>,
    /// How many health checks were trusted since the last accepted event, after sending had failed.
    trusted_checks: u32,
    /// No health check is trusted before this.
    trust_after: Option<BootInstant>,
}

/// Why the backend is paused, and until when.
#[derive(Debug, Clone)]
pub(crate) struct BreakerOpen {
    pub(crate) reason: String,
    pub(crate) since: BootInstant,
    /// The backend is not tried before this.
    pub(crate) until: BootInstant,
    failures: u32,
    /// Sending failed, not only connecting to the backend.
    pub(crate) sending: bool,
    /// A health check has succeeded since, and the next event must prove it.
    pub(crate) probing: bool,
}

impl CircuitBreaker {
    /// The reason for the pause; `None` if the backend works.
    pub(crate) fn open(&self) -> Option<&BreakerOpen> {
        self.open.as_ref()
    }

    pub(crate) fn is_paused(&self, now: BootInstant) -> bool {
        self.open.as_ref().is_some_and(|open| now < open.until)
    }

    /// Pauses the backend, longer with each failure. Returns whether it worked before.
    pub(crate) fn fail(&mut self, reason: &str, sending: bool, now: BootInstant) -> bool {
        if sending {
            self.trust_after = Some(now.after(distrust_after(self.trusted_checks)));
        }
        let before = self.open.take();
        let was_closed = before.is_none();
        let (since, failures, sent) =
            before.map_or((now, 0, false), |open| (open.since, open.failures.saturating_add(1), open.sending));
        self.open = Some(BreakerOpen {
            reason: reason.to_owned(),
            since,
            until: now.after(pause_after(failures)),
            failures,
            sending: sending || sent,
            probing: false,
        });
        was_closed
    }

    /// Notes that the backend works. Returns since when it was paused.
    pub(crate) fn close(&mut self) -> Option<BootInstant> {
        self.open.take().map(|open| open.since)
    }

    /// Whether sending has failed since the backend last worked: a connection is then no proof that it works.
    pub(crate) fn needs_proof(&self) -> bool {
        self.open.as_ref().is_some_and(|open| open.sending)
    }

    /// Notes that an event was accepted: health checks are trusted again.
    pub(crate) fn accepted(&mut self) {
        (self.trusted_checks, self.trust_after) = (0, None);
    }

    /// Notes a successful health check. If sending had failed and the check does not `prove` that the backend accepts
    /// events, the breaker stays open until the next event proves it. Returns whether the backend works.
    pub(crate) fn note_healthy(&mut self, proves: bool) -> bool {
        if self.needs_proof() {
            self.trusted_checks = self.trusted_checks.saturating_add(1);
        }
        let Some(open) = self.open.as_mut().filter(|open| open.sending && !proves) else { return true };
        open.probing = true;
        open.reason = format!("{}; its health check succeeds, the next event will show whether it works", open.reason);
        false
    }

    pub(crate) fn trusts_health_checks(&self, now: BootInstant) -> bool {
        !self.needs_proof() || self.trust_after.is_none_or(|moment| now >= moment)
    }

    /// Whether sending has failed after a successful health check.
    pub(crate) fn is_disproved(&self) -> bool {
        self.trusted_checks > 0 && self.open.as_ref().is_some_and(|open| open.sending && !open.probing)
    }
}

/// How long health checks are distrusted, after this many that were trusted and disproved by sending.
fn distrust_after(trusted_checks: u32) -> Duration {
    Duration::from_secs(2).saturating_mul(1 << trusted_checks.min(5)).min(LONGEST_DISTRUST)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn failed_while_sending(now: BootInstant) -> CircuitBreaker {
        let mut breaker = CircuitBreaker::default();
        assert!(breaker.fail("no answer", true, now));
        breaker
    }

    #[test]
    fn pauses_grow_with_each_failure_and_start_over_once_it_was_closed() {
        let now = BootInstant::now();
        let mut breaker = CircuitBreaker::default();
        let pause = |breaker: &mut CircuitBreaker| {
            breaker.fail("no answer", false, now);
            breaker.open().unwrap().until.since(now)
        };
        let (first, _, third) = (pause(&mut breaker), pause(&mut breaker), pause(&mut breaker));
        assert!(third > first, "{third:?} after {first:?}");
        assert!(breaker.is_paused(now) && !breaker.is_paused(now.after(third)));
        assert_eq!(breaker.close(), Some(now));
        assert!(!breaker.is_paused(now));
        assert!(pause(&mut breaker) < third);
    }

    #[test]
    fn where_reaching_failed_a_health_check_closes() {
        let mut breaker = CircuitBreaker::default();
        breaker.fail("no answer", false, BootInstant::now());
        assert!(breaker.note_healthy(false));
    }

    #[test]
    fn where_sending_failed_an_event_has_to_prove_it() {
        let mut breaker = failed_while_sending(BootInstant::now());
        assert!(!breaker.note_healthy(false));
        assert!(breaker.open().unwrap().probing && !breaker.is_disproved());
        assert!(breaker.note_healthy(true), "a health check that writes is a proof");
    }

    #[test]
    fn each_disproved_health_check_is_distrusted_longer_up_to_a_minute() {
        let now = BootInstant::now();
        let mut breaker = failed_while_sending(now);
        let mut distrust = vec![];
        for _ in 0..8 {
            let seconds = (0..).find(|second| breaker.trusts_health_checks(now.after(Duration::from_secs(*second))));
            distrust.push(seconds.unwrap());
            breaker.note_healthy(false);
            breaker.fail("no answer", true, now);
            assert!(breaker.is_disproved());
        }
        assert_eq!(distrust, [2, 4, 8, 16, 32, 60, 60, 60]);
        breaker.accepted();
        assert!(breaker.trusts_health_checks(now));
    }
}
