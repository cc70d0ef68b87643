-- Statements are separated by an empty line. Times are microseconds since 1970, of SQLite's own clock.

CREATE TABLE outbox_migrations (
  version    INTEGER PRIMARY KEY NOT NULL,
  applied_at INTEGER NOT NULL DEFAULT (strftime('%s', 'now') * 1000000 + substr(strftime('%f', 'now'), 4) * 1000)
);

CREATE TABLE outbox_events (
  id                BLOB    PRIMARY KEY NOT NULL,
  spec_version      TEXT    NOT NULL DEFAULT '1.0',
  event_type        TEXT    NOT NULL,
  source            TEXT    NOT NULL,
  subject           TEXT    NOT NULL DEFAULT '',
  data_content_type TEXT    NOT NULL DEFAULT 'application/json',
  data_schema       TEXT    NOT NULL DEFAULT '',
  data              TEXT,
  status            TEXT    NOT NULL DEFAULT 'pending',
  created_at        INTEGER NOT NULL DEFAULT (strftime('%s', 'now') * 1000000 + substr(strftime('%f', 'now'), 4) * 1000),
  updated_at        INTEGER NOT NULL DEFAULT (strftime('%s', 'now') * 1000000 + substr(strftime('%f', 'now'), 4) * 1000),
  scheduled_at      INTEGER NOT NULL DEFAULT (strftime('%s', 'now') * 1000000 + substr(strftime('%f', 'now'), 4) * 1000),
  published_at      INTEGER,
  retry_count       INTEGER NOT NULL DEFAULT 0,
  max_retries       INTEGER NOT NULL DEFAULT 3,
  last_error        TEXT    NOT NULL DEFAULT '',
  publisher_backend TEXT    NOT NULL DEFAULT '',
  publisher_config  TEXT    NOT NULL DEFAULT '{}',
  seq               INTEGER,
  retry_at          INTEGER,
  cloud_event_id    TEXT    NOT NULL DEFAULT '',
  extensions        TEXT    NOT NULL DEFAULT '{}',
  partition_key     TEXT    NOT NULL DEFAULT '',
  data_binary       BLOB,
  pending_handlers  TEXT,
  errors            TEXT,
  -- SQLite stores any type in any column; these columns decide an event's identity and when it is due.
  CHECK (typeof(id) = 'blob' AND length(id) = 16),
  CHECK (typeof(seq) IN ('integer', 'null')),
  CHECK (typeof(scheduled_at) = 'integer' AND typeof(retry_at) IN ('integer', 'null')),
  CHECK (typeof(created_at) = 'integer' AND typeof(updated_at) = 'integer')
);

CREATE TABLE outbox_seq (
  value INTEGER NOT NULL
);

INSERT INTO outbox_seq (value) VALUES (0);

CREATE TRIGGER outbox_events_draw_seq AFTER INSERT ON outbox_events WHEN NEW.seq IS NULL
BEGIN
  UPDATE outbox_seq SET value = value + 1;
  UPDATE outbox_events SET seq = (SELECT value FROM outbox_seq) WHERE id = NEW.id;
END;

CREATE INDEX outbox_events_due ON outbox_events (publisher_backend, scheduled_at, seq)
  WHERE status = 'pending';

-- A row that a writer sets to `retry` without `retry_at` is due at its scheduled time.
CREATE INDEX outbox_events_retry ON outbox_events (publisher_backend, coalesce(retry_at, scheduled_at))
  WHERE status = 'retry';

CREATE INDEX outbox_events_keys ON outbox_events (publisher_backend, partition_key, scheduled_at, seq)
  WHERE status IN ('pending', 'retry') AND partition_key <> '';

CREATE INDEX outbox_events_held ON outbox_events (publisher_backend, partition_key, scheduled_at, seq)
  WHERE status = 'failed' AND partition_key <> '' AND retry_at IS NULL;

CREATE INDEX outbox_events_stray ON outbox_events (id)
  WHERE seq IS NULL AND status IN ('pending', 'retry');

CREATE INDEX outbox_events_published ON outbox_events (created_at)
  WHERE status = 'published';

CREATE INDEX outbox_events_unpublished ON outbox_events (status, created_at)
  WHERE status <> 'published';

CREATE TABLE outbox_meta (
  id BLOB NOT NULL
);

INSERT INTO outbox_meta (id) VALUES (randomblob(16));

CREATE TABLE outbox_workers (
  id           BLOB    PRIMARY KEY NOT NULL,
  name         TEXT    NOT NULL,
  version      TEXT    NOT NULL,
  backends     TEXT    NOT NULL,
  handlers     TEXT    NOT NULL,
  started_at   INTEGER NOT NULL,
  heartbeat_at INTEGER NOT NULL
);

CREATE TABLE outbox_leases (
  backend    TEXT    NOT NULL,
  shard      INTEGER NOT NULL,
  owner      BLOB,
  epoch      INTEGER NOT NULL DEFAULT 0,
  expires_at INTEGER NOT NULL DEFAULT 0,
  PRIMARY KEY (backend, shard)
);

-- Outcomes of events, by minute (span 1) and by hour (span 60).
CREATE TABLE outbox_history (
  span      INTEGER NOT NULL,
  began_at  INTEGER NOT NULL,
  backend   TEXT    NOT NULL,
  published INTEGER NOT NULL,
  rejected  INTEGER NOT NULL,
  failed    INTEGER NOT NULL,
  PRIMARY KEY (span, began_at, backend)
) WITHOUT ROWID;
