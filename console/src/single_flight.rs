//! A cache for values that are expensive to load and may be slightly old.

use std::fmt::Display;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use actix_rt::time::timeout;
use tokio::sync::OwnedMutexGuard;

/// How often a value is loaded.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pace {
    /// A value is loaded again after this time.
    pub(super) min_interval: Duration,
    /// Or after this many times the time that loading took, if that is longer.
    pub(super) factor: u32,
    /// A value is stale if it has not been loaded again for twice its interval and this time; none: after its interval.
    pub(super) grace: Option<Duration>,
}

impl Default for Pace {
    fn default() -> Self {
        Self { min_interval: Duration::from_secs(2), factor: 40, grace: Some(Duration::from_secs(10)) }
    }
}

/// After a failure the factor is lower, so that a failure is not shown for long after an outage.
const MAX_FACTOR_AFTER_FAILURE: u32 = 4;

/// Keeps the last value. Only one load runs at a time; concurrent callers get the last value, or wait for the first one.
pub(super) struct SingleFlightCache<T, E> {
    pace: Pace,
    state: Arc<Mutex<State<T, E>>>,
    loading: Arc<tokio::sync::Mutex<()>>,
}

struct State<T, E> {
    known: CachedValue<T, E>,
    /// None before the first load.
    refresh_at: Option<Instant>,
    /// When the value becomes too old to be shown without a notice.
    stale_at: Option<Instant>,
}

impl<T, E> State<T, E> {
    /// Whether a caller has to wait for a value.
    fn must_wait(&self) -> bool {
        let is_stale = || self.stale_at.is_some_and(|at| Instant::now() >= at);
        self.known.answer.is_none() || (self.known.failure.is_none() && is_stale())
    }
}

/// The last value and the last failure.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CachedValue<T, E> {
    /// The last value.
    pub(super) answer: Option<T>,
    /// Why there is no newer value.
    pub(super) failure: Option<Arc<E>>,
}

impl<T, E> Default for SingleFlightCache<T, E> {
    fn default() -> Self {
        Self::new(Pace::default())
    }
}

impl<T, E> SingleFlightCache<T, E> {
    pub(super) fn new(pace: Pace) -> Self {
        let known = CachedValue { answer: None, failure: None };
        let state = Arc::new(Mutex::new(State { known, refresh_at: None, stale_at: None }));
        Self { pace, state, loading: Arc::default() }
    }
}

impl<T: Clone + 'static, E: Display + 'static> SingleFlightCache<T, E> {
    /// The cached value. Starts a load if one is due. Waits for it, up to `patience`, if there is no value yet or only a
    /// stale one.
    pub(super) async fn get<F>(&self, load: impl FnOnce() -> F, patience: Duration) -> CachedValue<T, E>
    where
        F: Future<Output = Result<T, E>> + 'static,
    {
        let permit = Arc::clone(&self.loading).try_lock_owned();
        let must_wait = lock(&self.state).must_wait();
        match permit {
            Ok(permit) if self.is_refresh_due() => {
                // A load that takes longer than `patience` continues for later callers.
                let loading = actix_rt::spawn(self.refresh(permit, load()));
                if must_wait {
                    let _ = timeout(patience, loading).await;
                }
            }
            Ok(_) => {}
            Err(_) if must_wait => {
                let _ = timeout(patience, self.loading.lock()).await;
            }
            Err(_) => {}
        }
        let state = lock(&self.state);
        // A value that was not stale when it was asked for is an answer.
        let answer = state.known.answer.clone().filter(|_| !must_wait || !state.must_wait());
        CachedValue { answer, failure: state.known.failure.clone() }
    }

    fn is_refresh_due(&self) -> bool {
        lock(&self.state).refresh_at.is_none_or(|until| Instant::now() >= until)
    }

    fn refresh<F: Future<Output = Result<T, E>>>(
        &self,
        permit: OwnedMutexGuard<()>,
        loading: F,
    ) -> impl Future<Output = ()> + use<T, E, F> {
        let (state, pace) = (Arc::clone(&self.state), self.pace);
        async move {
            let began = Instant::now();
            let answered = loading.await;
            let mut state = lock(&state);
            let factor = match answered {
                Ok(answer) => {
                    state.known = CachedValue { answer: Some(answer), failure: None };
                    pace.factor
                }
                Err(error) => {
                    tracing::warn!(%error, "console could not load the overview; retrying when it is next requested");
                    state.known.failure = Some(Arc::new(error));
                    pace.factor.min(MAX_FACTOR_AFTER_FAILURE)
                }
            };
            let interval = pace.min_interval.max(began.elapsed() * factor);
            let refresh_at = Instant::now() + interval;
            state.refresh_at = Some(refresh_at);
            state.stale_at = Some(pace.grace.map_or(refresh_at, |grace| refresh_at + interval + grace));
            drop(permit);
        }
    }
}

fn lock<T>(state: &Mutex<T>) -> MutexGuard<'_, T> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use std::cell::Cell;
    use std::future::ready;
    use std::rc::Rc;

    use super::*;

    const LONG: Duration = Duration::from_secs(10);

    fn known(answer: Option<i32>, failure: Option<&'static str>) -> CachedValue<i32, &'static str> {
        CachedValue { answer, failure: failure.map(Arc::new) }
    }

    #[actix_rt::test]
    async fn who_is_out_of_patience_leaves_the_question_to_the_next() {
        let cached = SingleFlightCache::default();
        let asked = Rc::new(Cell::new(0));
        let (tell, told) = tokio::sync::oneshot::channel::<()>();
        let first = Rc::clone(&asked);
        let slow = || async move {
            first.set(first.get() + 1);
            told.await.map_err(|_| "no answer")?;
            Ok::<_, &str>(7)
        };
        assert_eq!(cached.get(slow, Duration::from_millis(1)).await, known(None, None));
        let never = || ready(Err::<i32, &str>("asked twice"));
        assert_eq!(cached.get(never, Duration::from_millis(1)).await, known(None, None));
        tell.send(()).unwrap();
        assert_eq!(cached.get(never, LONG).await, known(Some(7), None));
        assert_eq!(asked.get(), 1);
    }

    #[actix_rt::test]
    async fn an_old_answer_is_not_taken_for_a_new_one() {
        let cached: SingleFlightCache<i32, &str> = SingleFlightCache::default();
        assert_eq!(cached.get(|| ready(Ok(7)), LONG).await, known(Some(7), None));
        let age = |cached: &SingleFlightCache<i32, &str>| {
            let mut state = lock(&cached.state);
            (state.refresh_at, state.stale_at) = (Some(Instant::now()), Some(Instant::now()));
        };
        age(&cached);
        assert_eq!(cached.get(|| ready(Ok(8)), LONG).await, known(Some(8), None));
        age(&cached);
        let (_tell, told) = tokio::sync::oneshot::channel::<i32>();
        let slow = || async move { told.await.map_err(|_| "no answer") };
        assert_eq!(cached.get(slow, Duration::from_millis(1)).await, known(None, None));
    }

    #[actix_rt::test]
    async fn without_grace_an_answer_is_never_older_than_its_interval() {
        let cached = SingleFlightCache::new(Pace { min_interval: LONG, factor: 0, grace: None });
        assert_eq!(cached.get(|| ready(Ok::<_, &str>(7)), LONG).await, known(Some(7), None));
        assert_eq!(cached.get(|| ready(Ok(8)), LONG).await, known(Some(7), None));
        lock(&cached.state).refresh_at = Some(Instant::now());
        lock(&cached.state).stale_at = Some(Instant::now());
        assert_eq!(cached.get(|| ready(Ok(8)), LONG).await, known(Some(8), None));
    }

    #[actix_rt::test]
    async fn a_failure_is_told_and_the_question_rests() {
        let cached = SingleFlightCache::default();
        let make_due =
            |cached: &SingleFlightCache<i32, &'static str>| lock(&cached.state).refresh_at = Some(Instant::now());
        assert_eq!(cached.get(|| ready(Err("away")), LONG).await, known(None, Some("away")));
        assert_eq!(
            cached.get(|| ready(Ok(7)), LONG).await,
            known(None, Some("away")),
            "no load before the interval is over"
        );
        make_due(&cached);
        assert_eq!(cached.get(|| ready(Ok(7)), LONG).await, known(Some(7), None));
        make_due(&cached);
        assert_eq!(
            cached.get(|| ready(Err("gone")), LONG).await,
            known(Some(7), None),
            "a caller with a value does not wait for a newer one"
        );
        drop(cached.loading.lock().await);
        assert_eq!(cached.get(|| ready(Ok(8)), LONG).await, known(Some(7), Some("gone")));
        make_due(&cached);
        cached.get(|| ready(Ok(8)), LONG).await;
        drop(cached.loading.lock().await);
        assert_eq!(cached.get(|| ready(Ok(9)), LONG).await, known(Some(8), None));
    }
}
