//! How soon one look follows another, and one wake-up another: at once where little happens, and where much does, so that
//! each is worth its cost.

use std::time::Duration;

/// After one event. At a steady rate the pause settles at this to the fifth power times the rate to the fourth: 1 ms at
/// 2,000 events a second, 16 ms at 4,000, and the longest from 5,300.
const AFTER_ONE: Duration = Duration::from_micros(575);

const LONGEST: Duration = Duration::from_millis(50);

/// The time from the beginning of one that met so many to the beginning of the next. It grows less than what was met, or
/// it would settle nowhere between nothing and the longest.
pub(super) fn pace(met: usize) -> Duration {
    let share = (met as f64).powf(0.8).min(LONGEST.div_duration_f64(AFTER_ONE));
    AFTER_ONE.mul_f64(share)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pause that so many events a second come to, where nothing else takes longer than `least`.
    fn settles_at(per_second: f64, least: Duration) -> Duration {
        let next = |pause: Duration| pace((per_second * pause.as_secs_f64()).round().max(1.0) as usize).max(least);
        (0..100).fold(least, |pause, _| next(pause))
    }

    #[test]
    fn the_pause_grows_with_the_rate_and_never_jumps() {
        let at = |per_second| settles_at(per_second, Duration::from_micros(100)).as_secs_f64() * 1e3;
        let pauses = [200.0, 2_000.0, 3_000.0, 4_000.0, 10_000.0].map(at);
        for (pause, (least, most)) in
            pauses.into_iter().zip([(0.0, 0.6), (0.5, 2.0), (3.0, 8.0), (10.0, 25.0), (50.0, 50.0)])
        {
            assert!((least..=most).contains(&pause), "{pauses:?}");
        }
    }
}
