-- Handlers are announced by their processes and outlive them: events that commit while a service is unavailable are owed to
-- it.
CREATE TABLE outbox_handlers (
  name         TEXT    PRIMARY KEY NOT NULL,
  types        TEXT    NOT NULL,
  generation   INTEGER NOT NULL,
  owed_for     INTEGER NOT NULL,
  announced_at INTEGER NOT NULL,
  seen_at      INTEGER NOT NULL
);

-- The last generation that was drawn; none is used twice.
CREATE TABLE outbox_handler_generations (
  value INTEGER NOT NULL
);

INSERT INTO outbox_handler_generations (value) VALUES (0);

-- Deliveries that an event owes to handlers outside the delivering process. Generation 0: owed even if not announced.
CREATE TABLE outbox_handler_deliveries (
  event_id      BLOB    NOT NULL,
  seq           INTEGER NOT NULL,
  handler       TEXT    NOT NULL,
  generation    INTEGER NOT NULL,
  lane          TEXT    NOT NULL,
  shard         INTEGER NOT NULL DEFAULT 0,
  partition_key TEXT    NOT NULL,
  scheduled_at  INTEGER NOT NULL,
  attempts      INTEGER NOT NULL DEFAULT 0,
  max_attempts  INTEGER NOT NULL,
  next_at       INTEGER NOT NULL,
  last_error    TEXT    NOT NULL DEFAULT '',
  created_at    INTEGER NOT NULL,
  PRIMARY KEY (event_id, seq, handler)
) WITHOUT ROWID;

-- A delivery that waits for another of its key has the same time and sorts after it.
CREATE INDEX outbox_handler_deliveries_due ON outbox_handler_deliveries
  (handler, generation, shard, next_at, scheduled_at, seq);

CREATE INDEX outbox_handler_deliveries_keys ON outbox_handler_deliveries (lane, partition_key, handler, scheduled_at, seq)
  WHERE partition_key <> '';
