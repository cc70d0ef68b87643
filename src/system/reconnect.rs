//! How the actors retry while the database or a backend is unavailable: soon at first, and never after a long pause, since
//! it may be available again at any moment.

use std::time::Duration;

use crate::error::StoreError;
use crate::store::Care;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);

/// The pause after this many earlier failures in a row: a random part of it, at least half. Otherwise workers that lost
/// their connections together would all retry together, and all miss the same moment.
pub(super) fn pause_after(failures: u32) -> Duration {
    longest_after(failures).mul_f64(rand::random_range(0.5..=1.0))
}

fn longest_after(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.min(5)).min(LONGEST_PAUSE)
}

/// Retries until the database has recorded something that has happened; there is no other end. After an error the statement
/// may have been executed without being durable, so its repetition says so.
pub(super) async fn retry_until_recorded<T, F>(what: &'static str, events: usize, write: impl Fn(Care) -> F) -> T
where
    F: Future<Output = Result<T, StoreError>>,
{
    let mut failures = 0;
    loop {
        let care = if failures == 0 { Care::Usual } else { Care::AfterDoubt };
        match write(care).await {
            Ok(written) => {
                if failures > 0 {
                    tracing::info!(events, "{what} recorded");
                }
                return written;
            }
            Err(error) => {
                if failures == 0 {
                    tracing::warn!(%error, events, "{what} not recorded; retrying");
                }
                tokio::time::sleep(pause_after(failures)).await;
                failures = failures.saturating_add(1);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn pauses_double_up_to_a_second_and_differ() {
        for failures in [0, 1, 5, 6, 100, u32::MAX] {
            let longest = longest_after(failures);
            let pauses: HashSet<Duration> = (0..100).map(|_| pause_after(failures)).collect();
            assert!(pauses.iter().all(|pause| (longest / 2..=longest).contains(pause)), "{pauses:?} of {longest:?}");
            assert!(pauses.len() > 50, "{pauses:?}");
        }
        assert_eq!([0, 1, 4, 5].map(longest_after).map(|pause| pause.as_millis()), [50, 100, 800, 1_000]);
    }
}
