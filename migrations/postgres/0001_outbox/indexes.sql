CREATE INDEX outbox_events_due ON outbox_events
    (publisher_backend, outbox_shard(partition_key, id), scheduled_at, seq) WHERE status = 'pending';

CREATE INDEX outbox_events_retry ON outbox_events
    (publisher_backend, outbox_shard(partition_key, id), retry_at) WHERE status = 'retry';

CREATE INDEX outbox_events_keys ON outbox_events
    (publisher_backend, partition_key, scheduled_at, seq) WHERE status IN ('pending', 'retry') AND partition_key <> '';

CREATE INDEX outbox_events_held ON outbox_events
    (publisher_backend, partition_key, scheduled_at, seq) WHERE status = 'failed' AND partition_key <> '' AND retry_at IS NULL;

-- Rows whose writer set seq to NULL explicitly; empty in practice.
CREATE INDEX outbox_events_stray ON outbox_events
    (id) WHERE seq IS NULL AND status IN ('pending', 'retry');

-- For lists in the console, newest first, and for retention, oldest first. An event is in one of the two indexes at a time.
CREATE INDEX outbox_events_published ON outbox_events (created_at) WHERE status = 'published';

CREATE INDEX outbox_events_unpublished ON outbox_events (status, created_at) WHERE status <> 'published';
