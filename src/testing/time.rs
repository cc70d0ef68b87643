//! Time that a test lets pass.

use std::time::Duration;

use diesel_async::AsyncConnection;

use crate::error::StoreError;
use crate::publish::sealed::Insert;
use crate::publish::{OutboxDatabase, store_error};

/// Longer than any event can be scheduled.
const FOREVER: Duration = Duration::from_secs(10_000 * 31_556_952);

/// Lets this time pass for all events that wait: those that are scheduled later, retries, and deliveries to handlers. What
/// becomes due is due now, in its order. A running worker finds it at its next poll, or after
/// [`Outbox::wake`](crate::Outbox::wake).
///
/// # Errors
/// Errors of the database.
pub async fn advance<C>(conn: &mut C, time: Duration) -> Result<(), StoreError>
where
    C: AsyncConnection,
    C::Backend: OutboxDatabase,
{
    let micros = i64::try_from(time.min(FOREVER).as_micros()).unwrap_or(i64::MAX);
    let advanced = <C::Backend as Insert>::advance(conn, micros).await;
    advanced.map_err(|error| store_error("let time pass", &error))
}

/// Makes all events due that wait.
///
/// # Errors
/// Errors of the database.
pub async fn make_due<C>(conn: &mut C) -> Result<(), StoreError>
where
    C: AsyncConnection,
    C::Backend: OutboxDatabase,
{
    advance(conn, FOREVER).await
}
