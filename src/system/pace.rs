//! How soon one look follows another, and one wake-up another: at once where little happens, and where much does, so that
//! each is worth its cost.

use std::time::Duration;

/// At 6,700 events a second and more, looks move apart until they reach the longest pause; below, they draw together again
/// after a moment in which more came.
const FOR_EACH: Duration = Duration::from_micros(150);

const LONGEST: Duration = Duration::from_millis(50);

/// The time from the beginning of one that met so many to the beginning of the next.
pub(super) fn pace(met: usize) -> Duration {
    FOR_EACH.saturating_mul(u32::try_from(met).unwrap_or(u32::MAX)).min(LONGEST)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pause that so many events a second come to, where nothing else takes longer than `least`.
    fn settles_at(per_second: f64, least: Duration) -> Duration {
        let next = |pause: Duration| pace((per_second * pause.as_secs_f64()).round() as usize).max(least);
        (0..100).fold(least, |pause, _| next(pause))
    }

    #[test]
    fn a_rate_that_a_look_for_each_few_events_can_meet_is_met_at_once_and_a_higher_one_in_batches() {
        let least = Duration::from_millis(1);
        assert_eq!(settles_at(200.0, least), least);
        assert_eq!(settles_at(2_000.0, least), least);
        assert_eq!(settles_at(10_000.0, least), LONGEST);
    }
}
