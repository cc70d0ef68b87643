//! The node of a Redis Cluster that has a stream's slot.

use redis::aio::MultiplexedConnection;
use redis::{Value, cmd, from_redis_value};

use super::Endpoint;
use crate::backend::redis::errors;

/// Asks a node, by commands that every version of Redis Cluster knows.
pub(super) async fn master_of_slot(mut node: MultiplexedConnection, stream: &str) -> Result<Endpoint, String> {
    let slot: u16 = ask(&mut node, &["KEYSLOT", stream]).await?;
    let ranges: Vec<Vec<Value>> = ask(&mut node, &["SLOTS"]).await?;
    let serving = ranges.into_iter().find_map(|range| master_in(range, slot));
    serving.ok_or_else(|| format!("no node serves the slot {slot}"))
}

async fn ask<T: redis::FromRedisValue>(node: &mut MultiplexedConnection, words: &[&str]) -> Result<T, String> {
    cmd("CLUSTER").arg(words).query_async(node).await.map_err(|error| errors::reason(&error))
}

/// A range is its first slot, its last, its master, and its replicas; a server begins with its host and its port.
fn master_in(range: Vec<Value>, slot: u16) -> Option<Endpoint> {
    let mut parts = range.into_iter();
    let (first, last): (u16, u16) = (from_redis_value(parts.next()?).ok()?, from_redis_value(parts.next()?).ok()?);
    let Value::Array(master) = parts.next().filter(|_| (first..=last).contains(&slot))? else { return None };
    let mut master = master.into_iter();
    let host: Option<String> = from_redis_value(master.next()?).ok()?;
    let port = from_redis_value(master.next()?).ok()?;
    // A node that does not know its own host leaves it out; one that should give its hostname and has none says `?`.
    Some(Endpoint { host: host.filter(|host| !host.is_empty() && host != "?"), port })
}
