//! The columns of `outbox_events`, declared once.

/// Passes the columns and their kinds to a database's macro, which makes its row and its lists of columns. The names are the
/// fields of [`OutboxEvent`](crate::event::OutboxEvent).
macro_rules! with_columns {
    ($make:ident) => {
        $make! {
            id: Id,
            spec_version: Text,
            event_type: Text,
            source: Text,
            subject: Text,
            data_content_type: Text,
            data_schema: Text,
            data: Json,
            status: Status,
            created_at: Time,
            updated_at: Time,
            scheduled_at: Time,
            published_at: OptionalTime,
            retry_count: Count,
            max_retries: Count,
            last_error: Text,
            publisher_backend: Text,
            publisher_config: Object,
            seq: Seq,
            retry_at: OptionalTime,
            cloud_event_id: Text,
            extensions: Object,
            partition_key: Text,
            data_binary: Bytes,
            pending_handlers: Names,
            errors: Json,
            event_time: OptionalTime,
        }
    };
}
pub(crate) use with_columns;
