//! The receivers' hosts: how many requests each has at a time, and which are unavailable. One that is holds up no other.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tokio::sync::{OwnedMutexGuard, OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;

/// How long a host is left alone after its first failure, and at most: unless it says for how long.
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(60);

/// The most hosts that are remembered.
const MOST_HOSTS: usize = 10_000;

pub(super) struct Hosts {
    concurrency: usize,
    /// However long a host says.
    longest_pause: Duration,
    hosts: Mutex<HashMap<String, Arc<HostState>>>,
}

pub(super) struct HostState {
    permits: Arc<Semaphore>,
    longest_pause: Duration,
    /// Held by the one request that tries a host that was unavailable.
    trying: Arc<tokio::sync::Mutex<()>>,
    circuit: Mutex<Circuit>,
}

/// Whether a host is left alone.
#[derive(Debug, Clone, Default)]
struct Circuit {
    failures: u32,
    since: Option<Instant>,
    /// When it is tried again; none: it is available.
    until: Option<Instant>,
    reason: String,
}

/// The right to send one request to a host.
pub(super) enum Turn {
    Usual {
        _permit: Option<OwnedSemaphorePermit>,
    },
    /// The request shows whether the host is available again.
    Trial {
        _alone: OwnedMutexGuard<()>,
    },
}

/// A host that is left alone for this time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Closed {
    pub(super) wait: Duration,
    /// For how long it has been unavailable.
    pub(super) lasts: Duration,
    pub(super) reason: String,
}

impl Hosts {
    pub(super) fn new(concurrency: usize, longest_pause: Duration) -> Self {
        Self { concurrency, longest_pause: longest_pause.max(LONGEST_PAUSE), hosts: Mutex::default() }
    }

    pub(super) fn get(&self, host: &str) -> Arc<HostState> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = hosts.get(host) {
            return Arc::clone(known);
        }
        if hosts.len() >= MOST_HOSTS {
            hosts.retain(|_, state| Arc::strong_count(state) > 1 || state.circuit().is_left_alone());
            if hosts.len() >= MOST_HOSTS {
                hosts.retain(|_, state| Arc::strong_count(state) > 1);
            }
        }
        let state = Arc::new(HostState {
            permits: Arc::new(Semaphore::new(self.concurrency)),
            longest_pause: self.longest_pause,
            trying: Arc::default(),
            circuit: Mutex::default(),
        });
        hosts.insert(host.to_owned(), Arc::clone(&state));
        state
    }
}

impl Circuit {
    fn is_left_alone(&self) -> bool {
        self.until.is_some_and(|until| Instant::now() < until)
    }

    fn closed(&self, wait: Duration) -> Closed {
        let lasts = self.since.map_or(Duration::ZERO, |since| since.elapsed());
        Closed { wait, lasts, reason: self.reason.clone() }
    }
}

impl HostState {
    fn circuit(&self) -> MutexGuard<'_, Circuit> {
        self.circuit.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits for the turn of a request. While one request tries an unavailable host, the others wait for its outcome.
    pub(super) async fn turn(&self) -> Result<Turn, Closed> {
        loop {
            let until = self.circuit().until;
            match until {
                None => {
                    // Closed never.
                    let permit = Arc::clone(&self.permits).acquire_owned().await.ok();
                    if self.circuit().until.is_none() {
                        return Ok(Turn::Usual { _permit: permit });
                    }
                }
                Some(until) if Instant::now() < until => return Err(self.closed(until)),
                Some(until) => {
                    let alone = Arc::clone(&self.trying).lock_owned().await;
                    if self.circuit().until == Some(until) {
                        return Ok(Turn::Trial { _alone: alone });
                    }
                }
            }
        }
    }

    fn closed(&self, until: Instant) -> Closed {
        self.circuit().closed(until.saturating_duration_since(Instant::now()))
    }

    pub(super) fn succeeded(&self) {
        *self.circuit() = Circuit::default();
    }

    /// Notes that the host accepts nothing, for this time if it said so.
    pub(super) fn failed(&self, reason: &str, retry_after: Option<Duration>) -> Closed {
        let (mut circuit, now) = (self.circuit(), Instant::now());
        // Requests that were on their way together are one failure.
        if circuit.until.is_none_or(|until| until <= now) {
            circuit.failures = circuit.failures.saturating_add(1);
        }
        let by_count = FIRST_PAUSE.saturating_mul(1 << circuit.failures.saturating_sub(1).min(6)).min(LONGEST_PAUSE);
        let pause = by_count.max(retry_after.unwrap_or_default()).min(self.longest_pause);
        circuit.since.get_or_insert(now);
        circuit.until = circuit.until.max(now.checked_add(pause));
        circuit.reason = reason.to_owned();
        circuit.closed(pause)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: Duration = Duration::from_secs(24 * 3600);

    #[tokio::test(start_paused = true)]
    async fn a_host_that_fails_is_left_alone_and_then_tried_by_one_request() {
        let hosts = Hosts::new(2, DAY);
        let host = hosts.get("h.example");
        assert!(matches!(host.turn().await, Ok(Turn::Usual { .. })));
        assert_eq!(host.failed("503", None).wait, FIRST_PAUSE);
        assert_eq!(host.failed("503", None).wait, FIRST_PAUSE, "it was sent before the failure");
        assert_eq!(host.turn().await.err().unwrap().reason, "503");
        assert!(matches!(hosts.get("other.example").turn().await, Ok(Turn::Usual { .. })));

        tokio::time::advance(FIRST_PAUSE).await;
        let trial = host.turn().await.unwrap();
        assert!(matches!(trial, Turn::Trial { .. }));
        let second = {
            let host = Arc::clone(&host);
            tokio::spawn(async move { host.turn().await.err() })
        };
        tokio::task::yield_now().await;
        assert!(!second.is_finished(), "it waits for the trial's outcome");
        let closed = host.failed("503", None);
        drop(trial);
        assert_eq!(closed.wait, 2 * FIRST_PAUSE);
        assert_eq!(second.await.unwrap(), Some(closed));

        tokio::time::advance(2 * FIRST_PAUSE).await;
        let trial = host.turn().await.unwrap();
        host.succeeded();
        drop(trial);
        assert!(matches!(host.turn().await, Ok(Turn::Usual { .. })));
    }

    #[tokio::test(start_paused = true)]
    async fn a_host_says_for_how_long_and_otherwise_it_is_a_minute_at_most() {
        let host = Hosts::new(1, DAY).get("h.example");
        assert_eq!(host.failed("429", Some(Duration::from_secs(300))).wait, Duration::from_secs(300));
        let other = Hosts::new(1, DAY).get("h.example");
        assert_eq!(other.failed("429", Some(Duration::MAX)).wait, DAY, "a day at most");
        for n in 0..20 {
            let closed = host.turn().await.err().unwrap();
            assert!(closed.lasts >= Duration::from_secs(n), "it counts from the first failure: {closed:?}");
            tokio::time::advance(closed.wait).await;
            let _trial = host.turn().await.unwrap();
            assert!(host.failed("500", None).wait <= LONGEST_PAUSE);
        }
        assert_eq!(host.turn().await.err().unwrap().wait, LONGEST_PAUSE);
    }

    #[tokio::test]
    async fn a_host_has_so_many_requests_at_a_time() {
        let host = Hosts::new(1, DAY).get("h.example");
        let first = host.turn().await.unwrap();
        let second = {
            let host = Arc::clone(&host);
            tokio::spawn(async move { host.turn().await.is_ok() })
        };
        tokio::task::yield_now().await;
        assert!(!second.is_finished());
        drop(first);
        assert!(second.await.unwrap());
    }

    #[tokio::test(start_paused = true)]
    async fn the_memory_for_hosts_has_an_end() {
        let hosts = Hosts::new(1, DAY);
        let kept = hosts.get("kept");
        hosts.get("closed").failed("503", Some(DAY));
        for n in 2..MOST_HOSTS {
            hosts.get(&n.to_string()).failed("503", None);
        }
        tokio::time::advance(FIRST_PAUSE).await;
        for n in 0..MOST_HOSTS / 2 {
            hosts.get(&format!("other {n}"));
        }
        let known = |host: &str| hosts.hosts.lock().unwrap().contains_key(host);
        assert!(known("closed") && known("kept") && !known("2"));
        for n in 0..3 * MOST_HOSTS {
            hosts.get(&format!("closed {n}")).failed("503", Some(DAY));
        }
        assert!(hosts.hosts.lock().unwrap().len() <= MOST_HOSTS + 1);
        assert!(Arc::ptr_eq(&hosts.get("kept"), &kept));
    }
}
