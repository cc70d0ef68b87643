//! Replicas that have what was written, before it counts as written.

use redis::aio::MultiplexedConnection;

use super::errors;
use crate::backend::session::Unavailable;
use crate::settings::WaitReplicas;

/// Waits until as many replicas as are wanted have everything that the server took up to this connection's last command,
/// and so also what earlier connections wrote.
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
