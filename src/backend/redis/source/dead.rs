//! Dead letters: added by consumers, listed, retried and deleted by operators.

use async_trait::async_trait;
use redis::{Pipeline, Value, from_redis_value};

use super::streams::SourceStream;
use super::{LinkError, RETRY, RedisSource, Result, SET_ASIDE, entries};
use crate::backend::event_source::{DeadLetter, EntryId, LetterStore, SetAside, SourceUnavailable, StoredLetter};
use crate::backend::redis::stream::entry::entry_fields;

/// The fields that a dead letter has in addition to those of its entry.
const ADDED: [&str; 6] = ["dead_stream", "dead_entry", "dead_group", "dead_consumer", "dead_deliveries", "dead_reason"];

impl RedisSource {
    pub(super) async fn add_letter(&self, letter: &DeadLetter) -> Result<SetAside> {
        let stream = self.streams.get(letter.entry.stream);
        let fields = letter.event.as_ref().and_then(|event| Some(entry_fields(event).ok()?.fields)).unwrap_or_default();
        let entry = letter.entry.id.to_string();
        let deliveries = letter.deliveries.to_string();
        let added = [&stream.origin, &entry, &self.group, &self.name, &deliveries, &letter.reason];
        let Some((leases, fence)) = self.fence(letter.entry.stream, &stream) else { return Ok(SetAside::Lost) };
        let mut request = SET_ASIDE.request();
        request.arg(2 + usize::from(leases.is_some())).arg(&stream.name).arg(&stream.dead).arg(&leases);
        request.arg(&self.group).arg(&self.name).arg(&fence);
        request.arg(&entry).arg(u8::from(self.is_trimmed(letter.entry))).arg(u8::from(stream.is_retry));
        request.arg(2 * fields.len());
        fields.iter().for_each(|(name, value)| _ = request.arg(name.as_ref()).arg(value.as_ref()));
        ADDED.iter().zip(added).for_each(|(name, value)| _ = request.arg(name).arg(value));
        let moved: u8 = match self.control.call(&SET_ASIDE, &request).await {
            Ok(moved) => moved,
            // Other entries of the stream may be handled.
            Err(error) if error.is_refused_for_its_key() || error.is_out_of_memory() => {
                return Ok(SetAside::Refused(SourceUnavailable(format!(
                    "stream `{}`: {}",
                    stream.dead,
                    error.reason()
                ))));
            }
            Err(error) => return Err(self.explain(&error)),
        };
        self.forget_trimmed([letter.entry]);
        Ok(if moved == 1 { SetAside::Moved } else { SetAside::Lost })
    }
}

#[async_trait]
impl LetterStore for RedisSource {
    async fn letters(
        &self,
        dead: &str,
        after: Option<EntryId>,
        most: usize,
    ) -> Result<Vec<StoredLetter>, SourceUnavailable> {
        let mut request = redis::cmd("XRANGE");
        let from = after.map_or_else(|| "-".to_owned(), |after| format!("({after}"));
        request.arg(dead).arg(from).arg("+").arg("COUNT").arg(most);
        let found: Vec<Value> = self.control.query(&request).await.map_err(unavailable)?;
        Ok(found.into_iter().filter_map(|entry| letter(dead, entry)).collect())
    }

    async fn letter(&self, dead: &str, id: EntryId) -> Result<Option<StoredLetter>, SourceUnavailable> {
        let mut request = redis::cmd("XRANGE");
        request.arg(dead).arg(id.to_string()).arg(id.to_string());
        let found: Vec<Value> = self.control.query(&request).await.map_err(unavailable)?;
        Ok(found.into_iter().find_map(|entry| letter(dead, entry)))
    }

    async fn count_letters(&self, dead: &str) -> Result<u64, SourceUnavailable> {
        self.control.query(redis::cmd("XLEN").arg(dead)).await.map_err(unavailable)
    }

    async fn retry_letters(&self, dead: &str, ids: &[EntryId]) -> Result<Vec<EntryId>, SourceUnavailable> {
        let mut request = RETRY.request();
        request.arg(2).arg(dead).arg(super::streams::retry_stream_of(dead)).arg(ADDED.len());
        ids.iter().for_each(|id| _ = request.arg(id.to_string()));
        let moved: Vec<String> = self.call(&RETRY, &request).await?;
        Ok(moved.iter().filter_map(|id| id.parse().ok()).collect())
    }

    async fn delete_letters(&self, dead: &str, ids: &[EntryId]) -> Result<Vec<EntryId>, SourceUnavailable> {
        let mut requests = Pipeline::new();
        ids.iter().for_each(|id| _ = requests.cmd("XDEL").arg(dead).arg(id.to_string()));
        let deleted: Vec<u64> = self.control.pipeline(&requests).await.map_err(unavailable)?;
        Ok(ids.iter().zip(deleted).filter(|(_, count)| *count == 1).map(|(id, _)| *id).collect())
    }

    async fn dead_streams(&self) -> Result<Vec<String>, SourceUnavailable> {
        self.find_streams().await?;
        let streams = self.streams.all();
        let main = streams.iter().map(|(_, stream)| stream).filter(|stream| !stream.is_retry);
        Ok(main.map(|stream: &std::sync::Arc<SourceStream>| stream.dead.clone()).collect())
    }
}

fn unavailable(error: LinkError) -> SourceUnavailable {
    SourceUnavailable(error.reason())
}

fn letter(dead: &str, entry: Value) -> Option<StoredLetter> {
    let (id, fields): (String, Vec<(Vec<u8>, Value)>) = from_redis_value(entry).ok()?;
    let id: EntryId = id.parse().ok()?;
    let text = |name: &str| {
        let value = fields.iter().rev().find(|(field, _)| field == name.as_bytes()).map(|(_, value)| value.clone())?;
        Some(String::from_utf8_lossy(&from_redis_value::<Vec<u8>>(value).ok()?).into_owned())
    };
    let own = fields.len().saturating_sub(ADDED.len());
    let names = fields[..own].iter().map(|(name, _)| field_name(name)).collect();
    let [stream, entry, _, consumer, deliveries, reason] = ADDED.map(|name| text(name).unwrap_or_default());
    let deliveries = deliveries.parse().unwrap_or(0);
    let event = entries::event(id, fields);
    Some(StoredLetter { dead: dead.to_owned(), id, stream, entry, consumer, deliveries, reason, fields: names, event })
}

/// A field's name; one that is not valid UTF-8 is marked.
fn field_name(name: &[u8]) -> String {
    match str::from_utf8(name) {
        Ok(name) => name.to_owned(),
        Err(_) => format!("{} (not UTF-8)", String::from_utf8_lossy(name)),
    }
}
