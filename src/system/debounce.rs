//! How soon one fetch follows another, and one wake-up another: immediately while few events arrive, and after a pause while
//! many do, so that each is worth its cost.

use std::time::Duration;

/// From 6,700 events a second on, the intervals grow until they reach the longest; below that rate they shrink again.
const FOR_EACH: Duration = Duration::from_micros(150);

const LONGEST: Duration = Duration::from_millis(50);

/// The time from the start of a fetch or wake-up that found `count` events to the start of the next.
pub(super) fn interval(count: usize) -> Duration {
    FOR_EACH.saturating_mul(u32::try_from(count).unwrap_or(u32::MAX)).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The interval that a rate settles at if nothing else takes longer than `least`.
    fn settles_at(per_second: f64, least: Duration) -> Duration {
        let next = |pause: Duration| interval((per_second * pause.as_secs_f64()).round() as usize).max(least);
        (0..100).fold(least, |pause, _| next(pause))
    }

    #[test]
    fn few_events_are_fetched_immediately_and_many_in_batches() {
        let least = Duration::from_millis(1);
        assert_eq!(settles_at(200.0, least), least);
        assert_eq!(settles_at(2_000.0, least), least);
        assert_eq!(settles_at(10_000.0, least), LONGEST);
    }
}
