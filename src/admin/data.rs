//! Events whose data may be large.

use std::ops::Range;

use uuid::Uuid;

use super::{DataPart, OutboxAdmin, Result, Unreadable};
use crate::error::StoreError;
use crate::event::{JsonText, OutboxEvent};

impl OutboxAdmin {
    /// One event without its data, or why its row is not a valid event. `data` and `data_binary` are not read and are `None`.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]: no event has this id. Other errors of the database.
    pub async fn get_row_without_data(&self, id: Uuid) -> Result<Result<OutboxEvent, Unreadable>> {
        self.store.load_without_data(&[id]).await?.into_iter().next().ok_or(StoreError::NotFound(id))
    }

    /// One event, or why its row is not a valid event, and the length of its data in bytes. `data` and `data_binary` are `None`
    /// if they have more than `most` bytes, and are not read then; see [`data`](Self::data).
    ///
    /// # Errors
    /// [`StoreError::NotFound`]: no event has this id. Other errors of the database.
    pub async fn get_row_up_to(&self, id: Uuid, most: u64) -> Result<(Result<OutboxEvent, Unreadable>, u64)> {
        let (mut row, part) = tokio::try_join!(self.get_row_without_data(id), self.data(id, 0..most))?;
        if let Ok(event) = &mut row
            && part.is_whole()
            && part.total > 0
        {
            if part.is_binary {
                event.data_binary = Some(part.bytes);
            } else {
                event.data = Some(JsonText::new(String::from_utf8_lossy(&part.bytes).into_owned()));
            }
        }
        Ok((row, part.total))
    }

    /// The bytes in this range of an event's data: of `data_binary`, or of the text of `data`; none beyond its end.
    ///
    /// # Errors
    /// [`StoreError::NotFound`]: no event has this id. Other errors of the database.
    pub async fn data(&self, id: Uuid, range: Range<u64>) -> Result<DataPart> {
        // No database stores a value of 2 GiB.
        let bounded = |n: u64| i32::try_from(n).unwrap_or(i32::MAX - 1);
        let (from, length) = (bounded(range.start), bounded(range.end.saturating_sub(range.start)));
        self.store.data_part(id, from, length).await?.ok_or(StoreError::NotFound(id))
    }
}
