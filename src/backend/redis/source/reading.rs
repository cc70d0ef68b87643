//! Reading new entries of shared streams.

use redis::{Pipeline, Value};

use super::{PAGE, RedisSource, Result, entries, millis};
use crate::backend::event_source::{Content, EntryRef, Received, SourceUnavailable};

/// The most entries of one read.
const MOST: usize = 1_000;

impl RedisSource {
    /// Entries whose reply is lost stay pending for this consumer, and are claimed like those of others.
    pub(super) async fn read_new(&self, most: usize) -> Result<Vec<Received>> {
        self.prepare(&self.reading).await?;
        let streams = self.awake(self.streams.shared()).await?;
        if streams.is_empty() {
            tokio::time::sleep(self.patience).await;
            return Ok(Vec::new());
        }
        let main = streams.iter().filter(|(_, stream)| !stream.is_retry).count().max(1);
        let mut request = redis::Cmd::with_capacity(12 + 2 * streams.len(), PAGE);
        request.arg("XREADGROUP").arg("GROUP").arg(&self.group).arg(&self.name);
        let most = self.limit.of(most.min(MOST));
        request.arg("COUNT").arg((most / main).max(1)).arg("BLOCK").arg(millis(self.patience));
        request.arg("STREAMS");
        streams.iter().for_each(|(_, stream)| _ = request.arg(&stream.name));
        streams.iter().for_each(|_| _ = request.arg(">"));
        let read: Value = match self.reading.query(&request).await {
            Ok(read) => read,
            Err(error) => {
                self.note_late(most, &error);
                if error.is_refused_for_its_key() {
                    self.find_refusing(streams.iter().cloned()).await?;
                }
                return Err(self.explain(&error));
            }
        };
        let read = entries::by_stream(read).map_err(SourceUnavailable)?;
        let number_of = |name: &str| streams.iter().find(|(_, stream)| stream.name == name).map(|(number, _)| *number);
        let read = read.into_iter().filter_map(|(name, read)| Some(entries::new(number_of(&name)?, &name, read)));
        let read: Vec<Received> = read.flatten().collect();
        self.limit.was_in_time(read.len());
        Ok(read)
    }

    /// Reads entries of one stream again.
    pub(super) async fn read_again(&self, entries: &[EntryRef]) -> Result<Result<Vec<Option<Content>>>> {
        let Some(first) = entries.first() else { return Ok(Ok(Vec::new())) };
        let stream = self.streams.get(first.stream);
        let mut questions = Pipeline::new();
        for EntryRef { id, .. } in entries {
            questions.cmd("XRANGE").arg(&stream.name).arg(id.to_string()).arg(id.to_string());
        }
        let found: Vec<Vec<(String, Value)>> = match self.control.pipeline(&questions).await {
            Ok(found) => found,
            Err(error) => return Ok(Err(self.refusal(first.stream, &error)?)),
        };
        let content = |(found, entry): (Vec<(String, Value)>, &EntryRef)| {
            let fields = found.into_iter().next().map_or(Value::Nil, |(_, fields)| fields);
            entries::content(entry.id, &stream.name, fields)
        };
        Ok(Ok(found.into_iter().zip(entries).map(content).collect()))
    }
}
