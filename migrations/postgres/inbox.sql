-- The inbox of consumers: one row for each event that a consumer has handled. It is written in the transaction of the
-- consumer's own changes, and does not need the other tables.
CREATE TABLE IF NOT EXISTS outbox_inbox (
    consumer varchar(100) NOT NULL,
    source varchar(255) NOT NULL,
    -- The CloudEvent's id.
    event_id varchar(255) NOT NULL,
    -- Another one for an event that was published again on purpose; 0 if the event carries none.
    seq bigint NOT NULL,
    handled_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (consumer, source, event_id, seq)
);

-- For retention. A BRIN index would cost half of it when notes are written, but new rows take the places of deleted ones, so
-- it would soon name every block.
CREATE INDEX IF NOT EXISTS outbox_inbox_handled_at ON outbox_inbox (handled_at);
