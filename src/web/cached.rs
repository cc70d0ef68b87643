//! What costs the database much and may be a little old.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

/// An answer is asked for again after this, and after so many times as long as it took.
const SHORTEST_AGE: Duration = Duration::from_secs(2);
const REST: u32 = 20;

/// The last answer. Only one question is under way at a time; who asks meanwhile gets the last answer, or waits for the first.
pub(super) struct Cached<T> {
    last: Arc<Mutex<Option<Answer<T>>>>,
    asking: Arc<tokio::sync::Mutex<()>>,
}

#[derive(Clone)]
struct Answer<T> {
    value: T,
    stale_at: Instant,
}

impl<T> Default for Cached<T> {
    fn default() -> Self {
        Self { last: Arc::default(), asking: Arc::default() }
    }
}

impl<T: Clone + Send + 'static> Cached<T> {
    /// # Errors
    /// What `ask` says, where there is no answer yet; later failures leave the last answer as it is.
    pub(super) async fn get<E, F>(&self, ask: impl FnOnce() -> F) -> Result<T, E>
    where
        F: Future<Output = Result<T, E>> + 'static,
        E: std::fmt::Display + 'static,
    {
        if let Some(Answer { value, stale_at }) = self.last() {
            if Instant::now() >= stale_at
                && let Ok(turn) = Arc::clone(&self.asking).try_lock_owned()
            {
                let (last, asking) = (Arc::clone(&self.last), ask());
                actix_rt::spawn(async move {
                    if let Err(error) = refresh(&last, asking).await {
                        tracing::debug!(%error, "what was counted last stands");
                    }
                    drop(turn);
                });
            }
            return Ok(value);
        }
        let _turn = self.asking.lock().await;
        // Another may have had the first answer meanwhile.
        match self.last() {
            Some(answer) => Ok(answer.value),
            None => refresh(&self.last, ask()).await,
        }
    }

    fn last(&self) -> Option<Answer<T>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

async fn refresh<T: Clone, E>(
    last: &Mutex<Option<Answer<T>>>,
    asking: impl Future<Output = Result<T, E>>,
) -> Result<T, E> {
    let began = Instant::now();
    let value = asking.await?;
    let stale_at = Instant::now() + SHORTEST_AGE.max(began.elapsed() * REST);
    *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Answer { value: value.clone(), stale_at });
    Ok(value)
}
