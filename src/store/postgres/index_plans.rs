//! Connections on which a plan that is made once stays right.
//!
//! The server keeps a worker's statements for reading and settling, and their plans. A plan that was made while the table
//! was empty may scan all of it, which costs nothing then, and would do so with a million rows (R4). So these connections
//! rule out every plan without an index; those for reading also every plan that does not use its order. They do so in the
//! connection's options: a pooler that shares connections would pass a later SET on to the next client. If the options are
//! refused or ignored, statements are planned for each call, and the options are retried after a while: the address may
//! lead elsewhere by then.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use super::connect::Target;

/// Options of a connection that rule out plans without an index.
#[derive(Debug, Clone, Copy)]
pub(super) struct PlannerOptions {
    pub(super) options: &'static str,
    /// One of the settings, which is `off` for hardly any other reason.
    pub(super) witness: &'static str,
}

/// For reading. JIT is off because a plan that needs a forbidden step counts as expensive and would be compiled.
pub(super) const READING: PlannerOptions = PlannerOptions {
    options: "-c enable_seqscan=off -c enable_bitmapscan=off -c enable_sort=off \
    -c enable_incremental_sort=off -c enable_hashjoin=off -c enable_mergejoin=off -c jit=off \
    -c max_parallel_workers_per_gather=0",
    witness: "enable_sort",
};

/// For settling: rows by their ids, however many, and joins between long lists.
pub(super) const SETTLING: PlannerOptions = PlannerOptions {
    options: "-c enable_seqscan=off -c enable_bitmapscan=off -c jit=off",
    witness: "enable_bitmapscan",
};

/// The wait before the options are tried again.
const PAUSE: Duration = Duration::from_secs(300);

/// The number of connections in a row that must end silently while others succeed: a pooler's way to refuse. A single one is
/// the network's fault.
const SILENT_REFUSALS: u32 = 3;

/// Whether the server accepts planner options.
#[derive(Default)]
pub(super) struct IndexPlans(Mutex<State>);

#[derive(Default)]
struct State {
    /// The options were refused or ignored: not tried again before this time.
    disabled_until: Option<Instant>,
    ended_silently: u32,
}

impl IndexPlans {
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn enable(&self) {
        *self.state() = State::default();
    }

    /// A connection with options has succeeded; whether they reached the server is not known.
    pub(super) fn note_success(&self) {
        self.state().ended_silently = 0;
    }

    pub(super) fn disable(&self, why: &str) {
        *self.state() = State { disabled_until: Some(Instant::now() + PAUSE), ended_silently: 0 };
        tracing::debug!(
            why,
            "connection options do not reach the server, as through a pooler; statements are planned for each call; \
             retrying the options in {PAUSE:?}"
        );
    }

    /// Whether a connection that ended silently was the last of too many.
    pub(super) fn is_refused_silently(&self) -> bool {
        let mut state = self.state();
        state.ended_silently += 1;
        state.ended_silently >= SILENT_REFUSALS
    }
}

impl Target {
    /// Whether statements may be cached between calls.
    pub(super) fn can_cache_statements(&self) -> bool {
        self.index_plans.state().disabled_until.is_none()
    }

    /// Whether the next connection asks for planner options.
    pub(super) fn tries_index_plans(&self) -> bool {
        self.index_plans.state().disabled_until.is_none_or(|until| until <= Instant::now())
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;
    use std::sync::Arc;
    use std::sync::atomic::{AtomicUsize, Ordering};

    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};

    use super::*;
    use crate::store::conformance::Fixture;
    use crate::store::postgres::fixture::{PostgresFixture, SCHEMA};

    /// The fixture's database behind a proxy that ends connections with options, up to this number.
    async fn target_behind(fixture: &PostgresFixture, ended: usize) -> Arc<Target> {
        let mut url = url::Url::parse(&fixture.database.url).unwrap();
        let server = url.port().unwrap();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        url.set_port(Some(listener.local_addr().unwrap().port())).unwrap();
        let left = Arc::new(AtomicUsize::new(ended));
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass(client, server, Arc::clone(&left)));
            }
        });
        Arc::new(Target::from_url(url.as_str()).unwrap().in_schema(SCHEMA))
    }

    async fn pass(mut client: TcpStream, server: u16, left: Arc<AtomicUsize>) {
        let mut start = vec![0; 4096];
        let count = client.read(&mut start).await.unwrap();
        let has_options = start[..count].windows(14).any(|part| part == b"enable_seqscan");
        if has_options && left.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1)).is_ok() {
            return;
        }
        let mut server = TcpStream::connect((Ipv4Addr::LOCALHOST, server)).await.unwrap();
        server.write_all(&start[..count]).await.unwrap();
        drop(tokio::io::copy_bidirectional(&mut client, &mut server).await);
    }

    #[tokio::test]
    async fn one_error_of_the_network_gives_nothing_up() {
        let fixture = PostgresFixture::empty().await;
        let target = target_behind(&fixture, 1).await;
        assert!(target.open_session(Some(READING)).await.is_err());
        assert!(target.can_cache_statements());
        assert!(target.open_session(Some(READING)).await.is_ok_and(|session| session.index_plans));
    }

    #[tokio::test]
    async fn a_pooler_that_drops_connections_with_options_is_detected_and_retried() {
        let fixture = PostgresFixture::empty().await;
        let target = target_behind(&fixture, 3).await;
        for _ in 1..SILENT_REFUSALS {
            assert!(target.open_session(Some(READING)).await.is_err());
        }
        assert!(target.open_session(Some(READING)).await.is_ok_and(|session| !session.index_plans));
        assert!(!target.can_cache_statements() && !target.tries_index_plans());
        assert!(target.open_session(Some(READING)).await.is_ok_and(|session| !session.index_plans));

        target.index_plans.state().disabled_until = Some(Instant::now());
        assert!(target.tries_index_plans() && !target.can_cache_statements());
        assert!(target.open_session(Some(READING)).await.is_ok_and(|session| session.index_plans));
        assert!(target.can_cache_statements());
    }
}
