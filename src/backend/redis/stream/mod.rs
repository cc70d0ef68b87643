//! `redis_stream`: XADD under sessions, with a journal next to the stream.
//!
//! A session is the lifetime of one connection. Any doubt about what Redis did ends it; the next session fences it shard by
//! shard and reads from the journal what was sent. docs/protocol.md describes the protocol and why it publishes every event
//! once.

use async_trait::async_trait;
use redis::Cmd;
use uuid::Uuid;

use super::{Client, Reply, Script, errors};
use crate::backend::BackendError;
use crate::backend::inspection::BackendFacts;
use crate::backend::session::{
    BackendSession, BatchResult, JournalEntry, OutgoingEvent, SendResult, ShardsOpened, Unavailable, next_token,
};
use crate::settings::PublisherSettings;
use crate::settings::check::has_hash_tag;
use crate::settings::name_template::NameTemplate;
use crate::store::Shard;

pub(crate) mod batch;
mod entries;
pub(crate) mod entry;
mod ignored_seq;
mod inspection;
mod journal;
#[cfg(feature = "bench-api")]
pub(crate) mod raw_stream;
pub(crate) mod streams;

use batch::EncodedBatch;
use ignored_seq::IgnoredSeq;
use journal::Journal;
use streams::Streams;

static OPEN: Script = Script::new(concat!(include_str!("refusal.lua"), include_str!("open.lua")));
static PROBE: Script = Script::new(concat!(include_str!("refusal.lua"), include_str!("probe.lua")));
#[cfg(not(feature = "fault-injection"))]
static PUBLISH: Script = Script::new(include_str!("publish.lua"));
/// With fencing switched off by a test, every session passes.
#[cfg(feature = "fault-injection")]
static PUBLISH: std::sync::LazyLock<Script> = std::sync::LazyLock::new(|| {
    let (script, refusal) = (include_str!("publish.lua"), "return { 'closed' }");
    let fenced = !crate::fault_injection::is_off(crate::fault_injection::ProtocolRule::Fencing);
    Script::new(if fenced { script } else { script.replace(refusal, "").leak() })
});
static REGISTER: Script = Script::new(include_str!("register.lua"));
static REMOVE: Script = Script::new(include_str!("remove.lua"));

/// One stream, its partitions, or several by template, as one worker writes to them.
pub(crate) struct RedisStream {
    client: Client,
    streams: Streams,
    meta: String,
    outbox: Uuid,
    max_len: u64,
    /// In milliseconds; 0: no entry is too old.
    max_age: u64,
    journal: Journal,
    ignored_seq: IgnoredSeq,
}

impl RedisStream {
    /// Reads the address; nothing is connected before the first open.
    pub(crate) fn new(settings: &PublisherSettings, outbox: Uuid) -> Result<Self, String> {
        Ok(Self {
            client: Client::new(settings)?,
            meta: meta_key(&NameTemplate::new(&settings.stream_name).pattern()),
            streams: Streams::new(settings),
            outbox,
            max_len: settings.max_len,
            max_age: settings.max_age.map_or(0, |age| u64::try_from(age.as_millis()).unwrap_or(u64::MAX)),
            journal: Journal::default(),
            ignored_seq: IgnoredSeq::default(),
        })
    }

    /// Ends the session: its shards must be opened again on a new connection.
    fn end(&mut self) {
        self.client.end();
        self.journal.close_all();
        self.streams.forget();
    }

    async fn try_open(&mut self, request: &Cmd) -> Result<OpenAnswer, BackendError> {
        let answer = self.client.call(&OPEN, request).await?;
        redis::from_redis_value(answer).map_err(|error| errors::unavailable(&error.into()))
    }

    async fn drop_fields(&mut self, fields: &[String]) -> Result<(), BackendError> {
        let mut request = redis::cmd("HDEL");
        request.arg(&self.meta).arg(fields);
        let dropped = request.query_async(self.client.connection().await?).await;
        dropped.map_err(|error| errors::unavailable(&error))
    }

    /// Tests a write under the conditions of a batch, since a server may answer and refuse every write.
    async fn probe(&mut self) -> Result<(), BackendError> {
        let mut request = PROBE.request();
        self.streams.add_keys(&self.meta, &mut request);
        request.arg(u8::from(self.max_age > 0));
        self.client.call(&PROBE, &request).await?;
        Ok(())
    }
}

/// The refused shards with the epochs that Redis has for them, and the journal of the others.
type OpenAnswer = (Vec<(String, i64)>, Vec<(String, Vec<u8>)>);

/// The hash next to the stream, in the same cluster slot: the settings refuse a name for which there is none.
fn meta_key(stream: &str) -> String {
    if has_hash_tag(stream) { format!("{stream}:outbox") } else { format!("{{{stream}}}:outbox") }
}

#[async_trait]
impl BackendSession for RedisStream {
    async fn open(&mut self, shards: &[(Shard, i64)]) -> Result<ShardsOpened, BackendError> {
        let counter = next_token();
        let mut request = OPEN.request();
        self.streams.add_keys(&self.meta, &mut request);
        request.arg(self.outbox.to_string()).arg(u8::from(self.max_age > 0));
        for (shard, epoch) in shards {
            request.arg(journal::place(shard)).arg(*epoch).arg(counter);
        }
        let (refused, found) = self.try_open(&request).await.inspect_err(|_| self.end())?;
        let refused: Vec<(Shard, i64)> = refused
            .into_iter()
            .filter_map(|(place, epoch)| {
                let (shard, _) = shards.iter().find(|(shard, _)| journal::place(shard) == place)?;
                Some((shard.clone(), epoch))
            })
            .collect();
        for (shard, epoch) in shards {
            if !refused.iter().any(|(other, _)| other == shard) {
                self.journal.open(self.outbox, shard, *epoch, counter);
            }
        }
        let sent = found.into_iter().flat_map(|(field, value)| self.journal.inherit(&field, &value)).collect();
        Ok(ShardsOpened { refused, sent })
    }

    async fn send(&mut self, outgoing: &[OutgoingEvent]) -> BatchResult {
        let streams = match self.streams_of(outgoing).await {
            Ok(streams) => streams,
            Err(unavailable) => {
                self.end();
                let answers = vec![SendResult::NotSent; outgoing.len()];
                return BatchResult { answers, unavailable: Some(unavailable), closed: batch_shards(outgoing) };
            }
        };
        let mut batch = EncodedBatch::encode(outgoing, &streams);
        batch.ignoring_seq().for_each(|event| self.ignored_seq.warn(event));
        if batch.is_empty() {
            return batch.into_sent(None, Vec::new());
        }
        let Some(journal_entries) = self.journal.entries(batch.shards(), batch.events()) else {
            return batch.into_sent(None, batch_shards(outgoing));
        };
        let settled = self.journal.take_settled();
        let journal: usize = journal_entries.iter().map(|entry| entry.value.len()).sum();
        let mut request = PUBLISH.large_request(batch.bytes() + journal);
        batch.write_keys(self.streams.only(), &self.meta, &mut request);
        request.arg(self.max_len);
        request.arg(journal_entries.len()).arg(batch.len()).arg(settled.len()).arg(self.max_age);
        for entry in &journal_entries {
            request.arg(&entry.owner).arg(&entry.token).arg(&entry.field).arg(&entry.value);
        }
        request.arg(&settled);
        batch.write_to(&mut request);
        let answer = match self.client.call(&PUBLISH, &request).await {
            Ok(answer) => answer,
            Err(unavailable) => {
                self.end();
                return batch.into_sent(Some(unavailable), batch_shards(outgoing));
            }
        };
        match Reply::read(answer) {
            Some(Reply::Sent) => {
                self.journal.record(journal_entries);
                batch.accept(usize::MAX);
                batch.into_sent(None, Vec::new())
            }
            Some(Reply::Stopped { sent, error }) => {
                self.journal.put_back_settled(settled);
                self.journal.record_first(journal_entries, &batch.first_of_each_shard(sent));
                batch.accept(sent);
                let mut unavailable = batch.fail(sent, &error);
                if let Some(unavailable) = unavailable.as_mut().filter(|_| errors::is_out_of_memory(&error)) {
                    unavailable.is_its_state = !self.client.is_too_small_for(batch.bytes()).await;
                }
                self.journal.close(&batch_shards(outgoing));
                batch.into_sent(unavailable, batch_shards(outgoing))
            }
            // Another session has one of the shards, or Redis lost its data: the next open shows which.
            Some(Reply::Closed) => {
                self.streams.forget();
                self.journal.put_back_settled(settled);
                self.journal.close(&batch_shards(outgoing));
                batch.into_sent(None, batch_shards(outgoing))
            }
            None => {
                self.end();
                let reason = "the publish script returned an unknown answer".to_owned();
                batch.into_sent(Some(Unavailable { reason, is_its_state: true }), batch_shards(outgoing))
            }
        }
    }

    fn settled(&mut self, events: &[(Uuid, i64)]) {
        self.journal.settle(events);
    }

    async fn flush(&mut self) -> Result<(), BackendError> {
        let settled = self.journal.take_settled();
        if settled.is_empty() || !self.client.is_connected() {
            self.journal.put_back_settled(settled);
            return Ok(());
        }
        self.drop_fields(&settled).await.inspect_err(|_| {
            self.journal.put_back_settled(settled);
            self.end();
        })
    }

    async fn health_check(&mut self) -> Result<(), BackendError> {
        self.probe().await.inspect_err(|_| self.end())
    }

    fn proves_writing(&self) -> bool {
        true
    }

    async fn is_alive(&mut self) -> Result<(), BackendError> {
        self.client.ping().await.inspect_err(|_| self.end())
    }

    async fn inspect(&mut self) -> Result<BackendFacts, BackendError> {
        self.read_facts().await.inspect_err(|_| self.end())
    }

    async fn streams(&mut self) -> Result<Vec<String>, BackendError> {
        self.read_streams().await.inspect_err(|_| self.end())
    }

    async fn entries(&mut self) -> Result<Vec<JournalEntry>, BackendError> {
        self.read_entries().await.inspect_err(|_| self.end())
    }

    async fn remove(&mut self, entries: &[JournalEntry]) -> Result<usize, BackendError> {
        self.remove_entries(entries).await.inspect_err(|_| self.end())
    }
}

fn batch_shards(outgoing: &[OutgoingEvent]) -> Vec<Shard> {
    let mut shards: Vec<Shard> = outgoing.iter().map(|outgoing_event| outgoing_event.shard.clone()).collect();
    shards.sort_unstable();
    shards.dedup();
    shards
}

#[cfg(test)]
mod tests;
