//! New events in a transaction of the store's own.

use diesel::mysql::Mysql;

use super::error::Failure;
use super::session::Session;
use crate::publish::{InsertResult, ValidEvent, into_parts};

/// Writes independent events, in as many statements as they need.
pub(super) async fn write(session: &mut Session<'_>, events: &[ValidEvent]) -> Result<Vec<InsertResult>, Failure> {
    let mut outcomes = Vec::with_capacity(events.len());
    for part in into_parts::<Mysql>(events.to_vec()) {
        outcomes.extend(session.insert(part).await?);
    }
    Ok(outcomes)
}

/// Writes events, all or none: if one is not stored, the transaction is rolled back.
pub(super) async fn write_all(session: &mut Session<'_>, events: &[ValidEvent]) -> Result<Vec<InsertResult>, Failure> {
    let outcomes = write(session, events).await?;
    if outcomes.iter().any(Result::is_err) {
        session.rollback().await?;
        session.begin().await?;
    }
    Ok(outcomes)
}
