//! Waits for replicas before a write counts as done.

use redis::aio::MultiplexedConnection;

use super::errors;
use crate::backend::session::Unavailable;
use crate::settings::WaitReplicas;

/// Waits until the required number of replicas has everything that the server accepted up to this connection's last command,
/// and so also the writes of earlier connections.
pub(super) async fn confirm(
    connection: &mut MultiplexedConnection,
    wanted: Option<WaitReplicas>,
) -> Result<(), Unavailable> {
    let Some(WaitReplicas { count, timeout }) = wanted else { return Ok(()) };
    let mut wait = redis::cmd("WAIT");
    wait.arg(count).arg(u64::try_from(timeout.as_millis()).unwrap_or(u64::MAX));
    let confirmed: u32 = wait.query_async(connection).await.map_err(|error| errors::unavailable_for_events(&error))?;
    if confirmed >= count {
        return Ok(());
    }
    let reason =
        format!("Redis: {confirmed} of its replicas confirmed within {timeout:?}, and `wait_replicas` wants {count}");
    Err(Unavailable { reason, is_its_state: true })
}
