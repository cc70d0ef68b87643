-- Handlers are announced by their processes and outlive them: events that commit while a service is unavailable are owed to
-- it. `owed_for` is in microseconds.
CREATE TABLE IF NOT EXISTS outbox_handlers (
    name varchar(255) COLLATE {exact} NOT NULL PRIMARY KEY,
    types json NOT NULL,
    generation bigint NOT NULL,
    owed_for bigint NOT NULL,
    announced_at datetime(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    seen_at datetime(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6))
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- The last generation that was drawn; none is used twice.
CREATE TABLE IF NOT EXISTS outbox_handler_generations (
    only_row tinyint NOT NULL DEFAULT 1 PRIMARY KEY CHECK (only_row = 1),
    value bigint NOT NULL
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

INSERT INTO outbox_handler_generations (value) SELECT 0 FROM DUAL WHERE NOT EXISTS (SELECT 1 FROM outbox_handler_generations);

-- Deliveries that an event owes to handlers outside the delivering process. Generation 0: owed whether the handler is
-- announced or not. No foreign key: retention and other writers delete events; their deliveries are dropped when they are
-- found.
CREATE TABLE IF NOT EXISTS outbox_handler_deliveries (
    event_id {uuid} NOT NULL,
    seq bigint NOT NULL,
    handler varchar(255) COLLATE {exact} NOT NULL,
    generation bigint NOT NULL,
    lane varchar(100) COLLATE {exact} NOT NULL,
    shard smallint NOT NULL,
    partition_key varchar(255) COLLATE {exact} NOT NULL,
    scheduled_at datetime(6) NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    max_attempts integer NOT NULL,
    -- '9999-12-31 23:59:59.999999': the handler has failed the event permanently, and later ones of its key wait until an
    -- operator decides.
    next_at datetime(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    last_error text NOT NULL DEFAULT (''),
    created_at datetime(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    PRIMARY KEY (event_id, seq, handler),
    -- A delivery that waits for another of its key has the same time and sorts after it.
    INDEX outbox_handler_deliveries_due (handler, generation, shard, next_at, scheduled_at, seq),
    INDEX outbox_handler_deliveries_keys (lane, partition_key, handler, scheduled_at, seq)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 ROW_FORMAT = DYNAMIC;
