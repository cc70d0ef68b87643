//! Reading streams without a group.

use async_trait::async_trait;
use redis::Value;

use super::streams::start_id;
use super::{PAGE, RedisSource, Result, entries, millis};
use crate::backend::event_source::{EntryId, Positions, Received, SourceUnavailable, TailSource};
use crate::settings::StartAt;

#[async_trait]
impl TailSource for RedisSource {
    async fn read_after(&self, positions: &mut Positions, start: StartAt) -> Result<Vec<Received>> {
        self.find_streams().await?;
        let streams: Vec<_> = self.streams.all().into_iter().filter(|(_, stream)| !stream.is_retry).collect();
        for (number, stream) in &streams {
            if !positions.contains_key(number) {
                positions.insert(
                    *number,
                    self.first_position(&stream.name, if stream.begins_at_first { StartAt::First } else { start })
                        .await?,
                );
            }
        }
        if streams.is_empty() {
            tokio::time::sleep(self.patience).await;
            return Ok(Vec::new());
        }
        let mut request = redis::cmd("XREAD");
        request.arg("COUNT").arg(PAGE).arg("BLOCK").arg(millis(self.patience)).arg("STREAMS");
        streams.iter().for_each(|(_, stream)| _ = request.arg(&stream.name));
        streams.iter().for_each(|(number, _)| _ = request.arg(&positions[number]));
        let read: Value = self.reading.query(&request).await.map_err(|error| SourceUnavailable(error.reason()))?;
        let mut all = Vec::new();
        for (name, read) in entries::by_stream(read).map_err(SourceUnavailable)? {
            let Some((number, _)) = streams.iter().find(|(_, stream)| stream.name == name) else { continue };
            let read = entries::new(*number, &name, read);
            if let Some(last) = read.last() {
                positions.insert(*number, last.entry.id.to_string());
            }
            all.extend(read);
        }
        Ok(all)
    }
}

impl RedisSource {
    async fn first_position(&self, stream: &str, start: StartAt) -> Result<String> {
        if start != StartAt::Next {
            return Ok(start_id(start));
        }
        let mut request = redis::cmd("XREVRANGE");
        request.arg(stream).arg(&["+", "-", "COUNT", "1"]);
        let last: Vec<(EntryId, Value)> = self
            .control
            .query::<Vec<(String, Value)>>(&request)
            .await
            .map_err(|error| SourceUnavailable(error.reason()))?
            .into_iter()
            .filter_map(|(id, fields)| Some((id.parse().ok()?, fields)))
            .collect();
        Ok(last.first().map_or_else(|| "0".to_owned(), |(id, _)| id.to_string()))
    }
}
