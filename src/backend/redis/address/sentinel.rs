//! The master that Redis Sentinel watches.

use redis::aio::MultiplexedConnection;
use redis::{Value, cmd, from_redis_value};

use super::Endpoint;
use crate::backend::redis::errors;

pub(super) async fn address_of(mut node: MultiplexedConnection, master: &str) -> Result<Endpoint, String> {
    let mut question = cmd("SENTINEL");
    question.arg("get-master-addr-by-name").arg(master);
    let known: Option<(String, u16)> = question.query_async(&mut node).await.map_err(|error| errors::reason(&error))?;
    let (host, port) = known.ok_or_else(|| format!("it watches no master named `{master}`"))?;
    Ok(Endpoint { host: Some(host), port })
}

/// Checks that a server is a master: during a failover, a sentinel may name one that is no longer a master, or not yet.
pub(super) async fn require_master(server: &mut MultiplexedConnection, master: &str) -> Result<(), String> {
    let role: Vec<Value> = cmd("ROLE").query_async(server).await.map_err(|error| errors::reason(&error))?;
    match role.into_iter().next().map(from_redis_value::<String>) {
        Some(Ok(role)) if role == "master" => Ok(()),
        _ => Err(format!("the server that the sentinels name as `{master}` is not a master now")),
    }
}
