//! Temporary servers and other programs for tests.
//!
//! Both the integration tests and the unit tests inside the crate include this folder, so it does not use the crate.
//! Each test process starts one PostgreSQL, one MariaDB and one Redis on first use; each test gets its own database and
//! stream. `OUTBOX_TEST_DATABASE_URL`, `OUTBOX_TEST_MYSQL_URL` and `OUTBOX_TEST_REDIS_URL` name existing servers to use
//! instead.
//! Tests that stop, restart or empty a server start their own.
//!
//! A program started here ends when its value is dropped, also when a test panics, and when the test process ends, also
//! when it is killed (see `process::Watchdog`).

#![allow(dead_code, reason = "each test crate uses its own part")]
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test has no better answer to an error than to fail")]

pub(crate) mod clock;
#[cfg(feature = "mysql")]
pub(crate) mod mysql;
#[cfg(feature = "nats")]
pub(crate) mod nats;
pub(crate) mod nginx;
#[cfg(feature = "postgres")]
pub(crate) mod pooler;
#[cfg(feature = "postgres")]
pub(crate) mod postgres;
pub(crate) mod process;
pub(crate) mod proxy;
pub(crate) mod python;
#[cfg(feature = "rabbitmq")]
pub(crate) mod rabbitmq;
#[cfg(feature = "redis")]
pub(crate) mod redis;
pub(crate) mod tls;

use std::net::{Ipv4Addr, TcpListener};
use std::sync::atomic::{AtomicU16, Ordering};
use std::time::{Duration, Instant};

use uuid::Uuid;

/// The timeout for operations that normally take moments, on a busy machine.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Polls `condition` until it holds. Panics with `what` if it does not hold within `timeout`.
pub(crate) async fn eventually(what: &str, timeout: Duration, mut condition: impl AsyncFnMut() -> bool) {
    let started = Instant::now();
    while !condition().await {
        assert!(started.elapsed() < timeout, "not within {timeout:?}: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

/// A name that no other test uses, in any process.
pub(crate) fn unique(prefix: &str) -> String {
    format!("{prefix}_{}", Uuid::new_v4().simple())
}

/// A free loopback port. It is below the range for outgoing connections, so that a stopped server finds it free when it
/// starts again.
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
