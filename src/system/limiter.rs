//! The rate limit of one publisher.

use std::num::NonZeroU32;
use std::time::Duration;

use governor::clock::{Clock, DefaultClock};
use governor::{DefaultDirectRateLimiter, Quota, RateLimiter};

use crate::settings::RateLimit;

/// The most time that one piece covers, so that a wait is short and a change of the limit takes effect soon.
const PIECE: Duration = Duration::from_millis(100);

pub(super) struct Limiter {
    limiter: DefaultDirectRateLimiter,
    clock: DefaultClock,
    piece: u32,
}

impl Limiter {
    /// A limiter for this rate. The settings refuse rates of zero; here they count as one.
    pub(super) fn new(limit: RateLimit) -> Self {
        let per_second = NonZeroU32::new(limit.per_second).unwrap_or(NonZeroU32::MIN);
        let burst = NonZeroU32::new(limit.burst).unwrap_or(NonZeroU32::MIN);
        let accrues = (f64::from(per_second.get()) * PIECE.as_secs_f64()) as u32;
        Self {
            limiter: RateLimiter::direct(Quota::per_second(per_second).allow_burst(burst)),
            clock: DefaultClock::default(),
            piece: accrues.clamp(1, burst.get()),
        }
    }

    /// How many of `wanted` events are requested together.
    pub(super) fn piece(&self, wanted: usize) -> usize {
        wanted.min(self.piece as usize)
    }

    /// Takes cells for `events`, at most a [`piece`](Self::piece), or returns how long to wait before the next try.
    pub(super) fn take(&self, events: usize) -> Result<(), Duration> {
        let Some(cells) = u32::try_from(events).ok().and_then(NonZeroU32::new) else { return Ok(()) };
        match self.limiter.check_n(cells) {
            Ok(Ok(())) => Ok(()),
            Ok(Err(until)) => Err(until.wait_time_from(self.clock.now())),
            // More cells than the burst holds, which a piece never has.
            Err(_) => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_passes_and_the_next_piece_has_to_wait() {
        let limiter = Limiter::new(RateLimit { per_second: 10, burst: 3 });
        assert_eq!(limiter.piece(500), 1);
        for _ in 0..3 {
            assert_eq!(limiter.take(1), Ok(()));
        }
        let wait = limiter.take(1).expect_err("the burst is spent");
        assert!(wait <= Duration::from_millis(100), "{wait:?}");
    }

    #[tokio::test]
    async fn events_under_a_rate_take_at_least_the_time_that_the_rate_gives() {
        let (events, burst, per_second) = (120, 20, 200);
        let limiter = Limiter::new(RateLimit { per_second, burst });
        let began = std::time::Instant::now();
        let mut left: usize = events;
        while left > 0 {
            let piece = limiter.piece(left);
            match limiter.take(piece) {
                Ok(()) => left -= piece,
                Err(wait) => tokio::time::sleep(wait).await,
            }
        }
        let least = Duration::from_secs_f64((events as f64 - f64::from(burst)) / f64::from(per_second));
        assert!(began.elapsed() >= least, "{:?} for {events} events, {least:?} at least", began.elapsed());
    }

    #[test]
    fn a_piece_is_never_more_than_the_burst_holds() {
        for (per_second, burst) in [(1, 1), (1_000_000, 3), (50, 1_000), (0, 0)] {
            let limiter = Limiter::new(RateLimit { per_second, burst });
            let piece = limiter.piece(usize::MAX);
            assert!((1..=burst.max(1) as usize).contains(&piece));
            assert_eq!(limiter.take(piece), Ok(()), "the first piece always passes");
        }
    }
}
