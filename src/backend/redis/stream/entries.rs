//! The whole meta key, for operators: lists its fields by owner, and removes some.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::streams::{FIELD, Streams};
use super::{REMOVE, RedisStream, errors};
use crate::backend::BackendError;
use crate::backend::journal;
use crate::backend::session::JournalEntry;
use crate::store::Shard;

/// The most fields in one command, so that none delays other clients.
const PAGE: usize = 1_000;

impl RedisStream {
    pub(super) async fn read_entries(&mut self) -> Result<Vec<JournalEntry>, BackendError> {
        let fields = self.read_fields().await?;
        Ok(fields.into_iter().filter_map(|(field, value)| record(field, value)).collect())
    }

    /// The streams that events went to.
    pub(super) async fn read_streams(&mut self) -> Result<Vec<String>, BackendError> {
        if !matches!(self.streams, Streams::ByTemplate { .. }) {
            return Ok(self.streams.fixed().to_vec());
        }
        let fields = self.read_fields().await?.into_keys();
        Ok(fields.filter_map(|field| field.strip_prefix(FIELD).map(str::to_owned)).collect())
    }

    async fn read_fields(&mut self) -> Result<BTreeMap<String, Vec<u8>>, BackendError> {
        let (mut cursor, mut fields) = (0_u64, BTreeMap::new());
        loop {
            let mut scan = redis::cmd("HSCAN");
            scan.arg(&self.meta).arg(cursor).arg("COUNT").arg(PAGE);
            let answer = scan.query_async(self.client.connection().await?).await;
            let (next, page): (u64, Vec<(String, Vec<u8>)>) = answer.map_err(|error| errors::unavailable(&error))?;
            fields.extend(page);
            if next == 0 {
                return Ok(fields);
            }
            cursor = next;
        }
    }

    pub(super) async fn remove_entries(&mut self, entries: &[JournalEntry]) -> Result<usize, BackendError> {
        let mut removed = 0;
        for page in entries.chunks(PAGE) {
            let mut request = REMOVE.request();
            request.arg(1).arg(&self.meta);
            for record in page {
                request.arg(&record.field).arg(&record.value);
            }
            let answer = self.client.call(&REMOVE, &request).await?;
            removed += redis::from_redis_value::<usize>(answer).map_err(|error| errors::unavailable(&error.into()))?;
        }
        Ok(removed)
    }
}

/// Parses `owner/<outbox>/<lane>/<shard>` or `sent/<outbox>/<lane>/<shard>/…`; `None` for other fields.
fn record(field: String, value: Vec<u8>) -> Option<JournalEntry> {
    let mut parts = field.split('/');
    let (kind, outbox, lane) = (parts.next()?, parts.next()?.parse().ok()?, parts.next()?);
    let shard = Shard { lane: Arc::from(lane), number: parts.next()?.parse().ok()? };
    let sent = match kind {
        "owner" => None,
        "sent" => Some(journal::parse(&value)),
        _ => return None,
    };
    Some(JournalEntry { outbox, shard, sent, field, value })
}
