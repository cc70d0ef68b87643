-- The inbox of consumers: one row for each event that a consumer has handled. It is written in the transaction of the
-- consumer's own changes, and does not need the other tables.
CREATE TABLE IF NOT EXISTS outbox_inbox (
    consumer varchar(100) COLLATE {exact} NOT NULL,
    source varchar(255) COLLATE {exact} NOT NULL,
    -- The CloudEvent's id.
    event_id varchar(255) COLLATE {exact} NOT NULL,
    -- Another one for an event that was published again on purpose; 0 if the event carries none.
    seq bigint NOT NULL,
    handled_at datetime(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    PRIMARY KEY (consumer, source, event_id, seq),
    -- For retention.
    INDEX outbox_inbox_handled_at (handled_at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 ROW_FORMAT = DYNAMIC;
