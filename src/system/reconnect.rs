//! How the actors try again where the database or a backend is away: soon at first, never with a long pause, since it may
//! be back at any moment.

use std::time::Duration;

use crate::error::StoreError;
use crate::store::Care;

const FIRST_PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// The pause after this many earlier failures in a row.
pub(super) fn pause_after(failures: u32) -> Duration {
    FIRST_PAUSE.saturating_mul(1 << failures.min(6)).min(LONGEST_PAUSE)
}

/// Writes until the database has it. What it is about has happened, so there is no other end. After an error the statement
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
                    tracing::info!(events, "{what} were recorded");
                }
                return written;
            }
            Err(error) => {
                if failures == 0 {
                    tracing::warn!(%error, events, "{what} cannot be recorded; trying on");
                }
                tokio::time::sleep(pause_after(failures)).await;
                failures = failures.saturating_add(1);
            }
        }
    }
}
