//! Throwaway servers and other programs for tests.
//!
//! Both the integration tests and the unit tests inside the crate include this folder, so it uses nothing of the crate.
//! One PostgreSQL and one Redis are started per test process, when first asked for; each test gets a database and a
//! stream of its own. `OUTBOX_TEST_DATABASE_URL` and `OUTBOX_TEST_REDIS_URL` name existing servers to use instead.
//! Tests that stop, restart or empty a server start one for themselves.
//!
//! Whatever is started here ends with the value that stands for it, also when a test panics, and ends with the test
//! process, also when that is killed (see `process::Watchdog`).

#![allow(dead_code, reason = "each test crate uses its own part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test has no better answer to an error than to fail")]

pub(crate) mod clock;
#[cfg(feature = "postgres")]
pub(crate) mod pooler;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
pub(crate) mod process;
pub(crate) mod proxy;
#[cfg(feature = "redis")]
pub(crate) mod redis;
pub(crate) mod tls;

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use uuid::Uuid;

/// How long anything may take that normally takes moments, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Polls `condition` until it holds; panics, saying `what` did not come about, when it still does not after `timeout`.
pub(crate) async fn eventually(what: &str, timeout: Duration, mut condition: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < timeout, "not within {timeout:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A name that no other test uses, in this process or another.
pub(crate) fn unique(prefix: &str) -> String {
    format!("{prefix}_{}", Uuid::new_v4().simple())
}

/// A loopback port that is free now. Below the range that systems give to outgoing connections, so that a server which
/// is stopped for a while finds it free again.
pub(crate) fn free_port() -> u16 {
    static NEXT: AtomicU16 = AtomicU16::new(0);
    const FIRST: u16 = 20_000;
    const COUNT: u16 = 10_000;
    let start = Uuid::new_v4().as_u128() as u16;
    (0..COUNT)
        .map(|_| FIRST + start.wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed)) % COUNT)
        .find(|port| TcpListener::bind((Ipv4Addr::LOCALHOST, *port)).is_ok())
        .expect("a free port")
}
