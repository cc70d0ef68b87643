//! The log of refused events: each of them while they are few; beyond that, some of them and the number of the others.

use crate::clock::BootInstant;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The most refusals that are logged in one span.
const MOST: u32 = 20;

const SPAN: Duration = Duration::from_secs(10);

/// The refusals of one publisher.
#[derive(Debug, Default)]
pub(crate) struct Refusals(Mutex<LoggedSpan>);

#[derive(Debug, Default)]
struct LoggedSpan {
    began: Option<BootInstant>,
    written: u32,
    left_out: u64,
}

impl Refusals {
    /// Whether one more is logged.
    pub(crate) fn is_written(&self, now: BootInstant) -> bool {
        let mut span = self.lock();
        if span.is_over(now) {
            (span.began, span.written) = (Some(now), 0);
        }
        let written = span.written < MOST;
        span.written += u32::from(written);
        span.left_out += u64::from(!written);
        written
    }

    /// How many were not logged in the span that has ended; reported once.
    pub(crate) fn take_left_out(&self, now: BootInstant) -> u64 {
        let mut span = self.lock();
        if span.is_over(now) { std::mem::take(&mut span.left_out) } else { 0 }
    }

    fn lock(&self) -> MutexGuard<'_, LoggedSpan> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl LoggedSpan {
    fn is_over(&self, now: BootInstant) -> bool {
        self.began.is_none_or(|began| now.since(began) >= SPAN)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_refusals_are_written_up_to_a_rate_and_the_others_are_counted() {
        let (refusals, began) = (Refusals::default(), BootInstant::now());
        let written = |now| (0..1_000).filter(|_| refusals.is_written(now)).count();
        assert_eq!(written(began), MOST as usize);
        assert_eq!(refusals.take_left_out(began), 0, "the span is not over");
        let later = began.after(SPAN);
        assert_eq!(refusals.take_left_out(later), 1_000 - u64::from(MOST));
        assert_eq!(refusals.take_left_out(later), 0, "reported once");
        assert_eq!(written(later), MOST as usize);
    }
}
