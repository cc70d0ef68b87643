//! What costs the database much and may be a little old.

use std::future::Future;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use actix_rt::time::timeout;
use tokio::sync::OwnedMutexGuard;

/// An answer is asked for again after this, and after so many times as long as it took.
const SHORTEST_AGE: Duration = Duration::from_secs(2);
const REST: u32 = 40;

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

impl<T: Clone + 'static> Cached<T> {
    /// The last answer; where there is none yet, the first one, if it comes in time.
    ///
    /// # Errors
    /// What `ask` says, where there is no answer yet; later failures leave the last answer as it is.
    pub(super) async fn get<E, F>(&self, ask: impl FnOnce() -> F, patience: Duration) -> Result<Option<T>, E>
    where
        F: Future<Output = Result<T, E>> + 'static,
        E: std::fmt::Display + 'static,
    {
        if let Some(Answer { value, stale_at }) = self.last() {
            if Instant::now() >= stale_at
                && let Ok(turn) = Arc::clone(&self.asking).try_lock_owned()
            {
                let asking = self.refresh(turn, ask());
                actix_rt::spawn(async move {
                    if let Err(error) = asking.await {
                        tracing::debug!(%error, "what was counted last stands");
                    }
                });
            }
            return Ok(Some(value));
        }
        // Who is out of patience leaves the question under way to whoever comes next.
        let Ok(turn) = timeout(patience, Arc::clone(&self.asking).lock_owned()).await else { return Ok(None) };
        if let Some(Answer { value, .. }) = self.last() {
            return Ok(Some(value));
        }
        match timeout(patience, actix_rt::spawn(self.refresh(turn, ask()))).await {
            Ok(Ok(answer)) => answer.map(Some),
            // Too late, or the thread ends.
            Ok(Err(_)) | Err(_) => Ok(None),
        }
    }

    fn refresh<E, F: Future<Output = Result<T, E>>>(
        &self,
        turn: OwnedMutexGuard<()>,
        asking: F,
    ) -> impl Future<Output = Result<T, E>> + use<T, E, F> {
        let last = Arc::clone(&self.last);
        async move {
            let began = Instant::now();
            let value = asking.await?;
            let stale_at = Instant::now() + SHORTEST_AGE.max(began.elapsed() * REST);
            *last.lock().unwrap_or_else(PoisonError::into_inner) = Some(Answer { value: value.clone(), stale_at });
            drop(turn);
            Ok(value)
        }
    }

    fn last(&self) -> Option<Answer<T>> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::rc::Rc;

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    #[actix::test]
    async fn who_is_out_of_patience_leaves_the_question_to_the_next() {
        let cached = Cached::default();
        let asked = Rc::new(Cell::new(0));
        let (tell, told) = tokio::sync::oneshot::channel::<()>();
        let first = Rc::clone(&asked);
        let slow = || async move {
            first.set(first.get() + 1);
            told.await.map_err(|_| "nobody answers")?;
            Ok::<_, &str>(7)
        };
        assert_eq!(cached.get(slow, Duration::from_millis(1)).await, Ok(None));
        let never = || std::future::ready(Err::<i32, &str>("asked twice"));
        assert_eq!(cached.get(never, Duration::from_millis(1)).await, Ok(None));
        tell.send(()).unwrap();
        assert_eq!(cached.get(never, LONG).await, Ok(Some(7)));
        assert_eq!(asked.get(), 1);
    }

    #[actix::test]
    async fn the_first_failure_is_told_and_asked_again() {
        let cached = Cached::default();
        assert_eq!(cached.get(|| std::future::ready(Err::<i32, _>("away")), LONG).await, Err("away"));
        assert_eq!(cached.get(|| std::future::ready(Ok::<_, &str>(7)), LONG).await, Ok(Some(7)));
    }
}
