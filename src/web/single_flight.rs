//! What costs the database much and may be a little old.

use std::fmt::Display;
use std::future::Future;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use actix_rt::time::timeout;
use tokio::sync::OwnedMutexGuard;

/// An answer is asked for again after this, and after so many times as long as it took; after a failure earlier, so that an
/// outage is not outlasted by much.
const SHORTEST_REST: Duration = Duration::from_secs(2);
const REST: u32 = 40;
const REST_AFTER_FAILURE: u32 = 4;

/// An answer is old when nobody has asked again for twice its rest and this.
const GRACE: Duration = Duration::from_secs(10);

/// The last answer. Only one question is under way at a time; who asks meanwhile gets the last answer, or waits for the first.
pub(super) struct SingleFlightCache<T, E> {
    state: Arc<Mutex<State<T, E>>>,
    asking: Arc<tokio::sync::Mutex<()>>,
}

struct State<T, E> {
    known: CachedValue<T, E>,
    /// None: nobody has asked yet.
    rests_until: Option<Instant>,
    /// From when on the answer is too old to be shown without a word.
    stale_at: Option<Instant>,
}

impl<T, E> State<T, E> {
    /// Whoever asks has to wait for an answer.
    fn knows_nothing(&self) -> bool {
        let is_stale = || self.stale_at.is_some_and(|at| Instant::now() >= at);
        self.known.answer.is_none() || (self.known.failure.is_none() && is_stale())
    }
}

/// What is known of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct CachedValue<T, E> {
    /// The last answer.
    pub(super) answer: Option<T>,
    /// Why there is no newer one.
    pub(super) failure: Option<Arc<E>>,
}

impl<T, E> Default for SingleFlightCache<T, E> {
    fn default() -> Self {
        let known = CachedValue { answer: None, failure: None };
        Self { state: Arc::new(Mutex::new(State { known, rests_until: None, stale_at: None })), asking: Arc::default() }
    }
}

impl<T: Clone + 'static, E: Display + 'static> SingleFlightCache<T, E> {
    /// What is known. Where it is time to ask again, that is begun; where there is no answer yet, or an old one alone, it is
    /// waited for.
    pub(super) async fn get<F>(&self, ask: impl FnOnce() -> F, patience: Duration) -> CachedValue<T, E>
    where
        F: Future<Output = Result<T, E>> + 'static,
    {
        let turn = Arc::clone(&self.asking).try_lock_owned();
        let is_waited_for = lock(&self.state).knows_nothing();
        match turn {
            Ok(turn) if self.is_rested() => {
                // Who is out of patience leaves the question under way to whoever comes next.
                let asking = actix_rt::spawn(self.refresh(turn, ask()));
                if is_waited_for {
                    let _ = timeout(patience, asking).await;
                }
            }
            Ok(_) => {}
            Err(_) if is_waited_for => {
                let _ = timeout(patience, self.asking.lock()).await;
            }
            Err(_) => {}
        }
        let state = lock(&self.state);
        let answer = state.known.answer.clone().filter(|_| !state.knows_nothing());
        CachedValue { answer, failure: state.known.failure.clone() }
    }

    fn is_rested(&self) -> bool {
        lock(&self.state).rests_until.is_none_or(|until| Instant::now() >= until)
    }

    fn refresh<F: Future<Output = Result<T, E>>>(
        &self,
        turn: OwnedMutexGuard<()>,
        asking: F,
    ) -> impl Future<Output = ()> + use<T, E, F> {
        let state = Arc::clone(&self.state);
        async move {
            let began = Instant::now();
            let answered = asking.await;
            let mut state = lock(&state);
            let rest = match answered {
                Ok(answer) => {
                    state.known = CachedValue { answer: Some(answer), failure: None };
                    REST
                }
                Err(error) => {
                    tracing::warn!(%error, "the console could not ask what it shows");
                    state.known.failure = Some(Arc::new(error));
                    REST_AFTER_FAILURE
                }
            };
            let rest = SHORTEST_REST.max(began.elapsed() * rest);
            state.rests_until = Some(Instant::now() + rest);
            state.stale_at = Some(Instant::now() + 2 * rest + GRACE);
            drop(turn);
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

    #[actix::test]
    async fn who_is_out_of_patience_leaves_the_question_to_the_next() {
        let cached = SingleFlightCache::default();
        let asked = Rc::new(Cell::new(0));
        let (tell, told) = tokio::sync::oneshot::channel::<()>();
        let first = Rc::clone(&asked);
        let slow = || async move {
            first.set(first.get() + 1);
            told.await.map_err(|_| "nobody answers")?;
            Ok::<_, &str>(7)
        };
        assert_eq!(cached.get(slow, Duration::from_millis(1)).await, known(None, None));
        let never = || ready(Err::<i32, &str>("asked twice"));
        assert_eq!(cached.get(never, Duration::from_millis(1)).await, known(None, None));
        tell.send(()).unwrap();
        assert_eq!(cached.get(never, LONG).await, known(Some(7), None));
        assert_eq!(asked.get(), 1);
    }

    #[actix::test]
    async fn an_old_answer_is_not_taken_for_a_new_one() {
        let cached: SingleFlightCache<i32, &str> = SingleFlightCache::default();
        assert_eq!(cached.get(|| ready(Ok(7)), LONG).await, known(Some(7), None));
        let age = |cached: &SingleFlightCache<i32, &str>| {
            let mut state = lock(&cached.state);
            (state.rests_until, state.stale_at) = (Some(Instant::now()), Some(Instant::now()));
        };
        age(&cached);
        assert_eq!(cached.get(|| ready(Ok(8)), LONG).await, known(Some(8), None));
        age(&cached);
        let (_tell, told) = tokio::sync::oneshot::channel::<i32>();
        let slow = || async move { told.await.map_err(|_| "nobody answers") };
        assert_eq!(cached.get(slow, Duration::from_millis(1)).await, known(None, None));
    }

    #[actix::test]
    async fn a_failure_is_told_and_the_question_rests() {
        let cached = SingleFlightCache::default();
        let rested =
            |cached: &SingleFlightCache<i32, &'static str>| lock(&cached.state).rests_until = Some(Instant::now());
        assert_eq!(cached.get(|| ready(Err("away")), LONG).await, known(None, Some("away")));
        assert_eq!(
            cached.get(|| ready(Ok(7)), LONG).await,
            known(None, Some("away")),
            "it is asked no more for a while"
        );
        rested(&cached);
        assert_eq!(cached.get(|| ready(Ok(7)), LONG).await, known(Some(7), None));
        rested(&cached);
        assert_eq!(cached.get(|| ready(Err("gone")), LONG).await, known(Some(7), None), "nobody waits for a newer one");
        drop(cached.asking.lock().await);
        assert_eq!(cached.get(|| ready(Ok(8)), LONG).await, known(Some(7), Some("gone")));
        rested(&cached);
        cached.get(|| ready(Ok(8)), LONG).await;
        drop(cached.asking.lock().await);
        assert_eq!(cached.get(|| ready(Ok(9)), LONG).await, known(Some(8), None));
    }
}
