-- The inbox of consumers: one row for each event that a consumer has handled. It is written in the transaction of the
-- consumer's own changes, and does not need the other tables.
CREATE TABLE IF NOT EXISTS outbox_inbox (
    consumer TEXT NOT NULL,
    source TEXT NOT NULL,
    -- The CloudEvent's id.
    event_id TEXT NOT NULL,
    -- Another one for an event that was published again on purpose; 0 if the event carries none.
    seq INTEGER NOT NULL,
    -- In microseconds since 1970.
    handled_at INTEGER NOT NULL DEFAULT (CAST(strftime('%s', 'now') AS INTEGER) * 1000000
        + CAST(substr(strftime('%f', 'now'), 4) AS INTEGER) * 1000),
    PRIMARY KEY (consumer, source, event_id, seq)
);

-- For retention.
CREATE INDEX IF NOT EXISTS outbox_inbox_handled_at ON outbox_inbox (handled_at);
