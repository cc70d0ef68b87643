//! How the actors retry while the database or a backend is unavailable: soon at first, and never after a long pause, since
//! it may be available again at any moment.

pub(super) use crate::backoff::pause_after;
use crate::error::StoreError;
use crate::store::Care;

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
