//! What the consumers of the settings have not handled.

use actix_outbox::{ConsumerStatus, Settings, StreamStatus};
use futures_util::future::join_all;

use crate::output;

/// Those whose servers answer; the others are in the log.
pub(super) async fn read(settings: &Settings) -> Vec<ConsumerStatus> {
    let asked = settings.consumers.keys().map(async |name| (name, ConsumerStatus::of(settings, name).await));
    let mut read = Vec::new();
    for (name, status) in join_all(asked).await {
        match status {
            Ok(status) => read.push(status),
            Err(error) => tracing::warn!(consumer = name, "{error}"),
        }
    }
    read
}

pub(super) fn print(consumers: &[ConsumerStatus]) -> anyhow::Result<()> {
    let rows = consumers.iter().flat_map(|consumer| consumer.streams.iter().map(|stream| row(&consumer.name, stream)));
    Ok(output::table(&["CONSUMER", "STREAM", "UNREAD", "PENDING", "OLDEST PENDING", "DEAD LETTERS"], rows)?)
}

fn row(consumer: &str, stream: &StreamStatus) -> Vec<String> {
    let unread = stream.unread.map_or_else(|| "unknown".to_owned(), |unread| unread.to_string());
    let oldest = stream.oldest_pending_seconds.map_or_else(String::new, |seconds| format!("{seconds:.1} s"));
    let names = [consumer, &stream.stream].map(output::printable);
    let rest = [unread, stream.pending.to_string(), oldest, stream.dead_letters.to_string()];
    names.into_iter().chain(rest).collect()
}
