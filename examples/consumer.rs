//! A consumer in a group, as in docs/consuming.md:
//! `REDIS_URL=redis://localhost cargo run --example consumer -- events mailer mailer-1`.

use std::convert::Infallible;

use anyhow::Context;
use redis::TypedCommands;
use redis::streams::{StreamAutoClaimOptions, StreamId, StreamReadOptions};

/// Milliseconds after which an unacknowledged entry is assumed to belong to a consumer that died.
const LEFT_AFTER: usize = 60_000;

fn main() -> anyhow::Result<()> {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, stream, group, name] = &arguments[..] else { anyhow::bail!("usage: consumer STREAM GROUP NAME") };
    let mut redis = redis::Client::open(std::env::var("REDIS_URL")?)?.get_connection()?;
    loop {
        match redis.xgroup_create_mkstream(stream, group, "0") {
            Err(error) if error.code() != Some("BUSYGROUP") => return Err(error.into()),
            _ => {}
        }
        let Err(error) = consume(&mut redis, stream, group, name);
        match error.downcast_ref::<redis::RedisError>().and_then(|error| error.code()) {
            // The stream or the group was deleted, so the group begins again.
            Some("NOGROUP" | "UNBLOCKED") => {}
            _ => return Err(error),
        }
    }
}

/// Consumes until an error.
fn consume(redis: &mut redis::Connection, stream: &str, group: &str, name: &str) -> anyhow::Result<Infallible> {
    let some = || StreamAutoClaimOptions::default().count(100);
    let new = StreamReadOptions::default().group(group, name).count(100).block(1_000);
    let mut from = "0-0".to_owned();
    loop {
        let left = redis.xautoclaim_options(stream, group, name, LEFT_AFTER, &from, some())?;
        from = left.next_stream_id;
        let read = redis.xread_options(&[stream], &[">"], &new)?.unwrap_or_default();
        for entry in left.claimed.iter().chain(read.keys.iter().flat_map(|key| &key.ids)) {
            handle(entry)?;
            redis.xack(stream, group, &[&entry.id])?;
        }
    }
}

/// Handles an event. It receives an event again, with the same `event_id`, if a consumer died before acknowledging it.
fn handle(entry: &StreamId) -> anyhow::Result<()> {
    let field = |name| entry.get::<String>(name).with_context(|| format!("{} has no {name}", entry.id));
    let event: serde_json::Value = serde_json::from_str(&field("cloud_event")?)?;
    println!("{} {}", field("event_id")?, event["data"]);
    Ok(())
}
