-- Statements are separated by an empty line, and each may be repeated: no transaction holds them together.
-- `{uuid}` and `{exact}` are the types that the server has: see docs/mysql.md. Times are in UTC.

CREATE TABLE IF NOT EXISTS outbox_migrations (
    version integer PRIMARY KEY,
    applied_at datetime(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6))
);

-- Every row draws its `seq` when it is inserted, by any writer. The last columns are what the indexes need: an index has
-- no condition, but rows whose column is NULL are all in one part of it, which no query reads.
CREATE TABLE IF NOT EXISTS outbox_events (
    id {uuid} NOT NULL PRIMARY KEY,
    spec_version varchar(10) NOT NULL DEFAULT '1.0',
    event_type varchar(255) COLLATE {exact} NOT NULL,
    source varchar(255) COLLATE {exact} NOT NULL,
    subject varchar(255) COLLATE {exact} NOT NULL DEFAULT '',
    data_content_type varchar(100) NOT NULL DEFAULT 'application/json',
    data_schema varchar(200) NOT NULL DEFAULT '',
    data json,
    status varchar(20) COLLATE {exact} NOT NULL DEFAULT 'pending',
    created_at datetime(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    updated_at datetime(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    scheduled_at datetime(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    published_at datetime(6),
    retry_count integer NOT NULL DEFAULT 0,
    max_retries integer NOT NULL DEFAULT 3,
    last_error longtext NOT NULL DEFAULT (''),
    publisher_backend varchar(100) COLLATE {exact} NOT NULL DEFAULT '',
    publisher_config json NOT NULL DEFAULT ('{}'),
    seq bigint NOT NULL AUTO_INCREMENT,
    retry_at datetime(6),
    cloud_event_id varchar(255) COLLATE {exact} NOT NULL DEFAULT '',
    extensions json NOT NULL DEFAULT ('{}'),
    partition_key varchar(255) COLLATE {exact} NOT NULL DEFAULT '',
    data_binary longblob,
    pending_handlers json,
    errors json,
    event_time datetime(6),
    shard tinyint AS (IF(partition_key = '', CRC32(RTRIM(id)), CRC32(partition_key)) & 31) STORED,
    due_shard tinyint AS (IF(status = 'pending', IF(partition_key = '', CRC32(RTRIM(id)), CRC32(partition_key)) & 31, NULL)) STORED,
    -- RTRIM: the padding of a `char` would depend on the session.
    -- A row that a writer sets to `retry` without `retry_at` is due at its scheduled time.
    due_again_at datetime(6) AS (IF(status = 'retry', COALESCE(retry_at, scheduled_at), NULL)) STORED,
    unsettled_key varchar(255) COLLATE {exact}
        AS (IF(status IN ('pending', 'retry') AND partition_key <> '', partition_key, NULL)) STORED,
    held_key varchar(255) COLLATE {exact}
        AS (IF(status = 'failed' AND partition_key <> '' AND retry_at IS NULL, partition_key, NULL)) STORED,
    -- `failed`, `retry` and others; pending events have an index of their own.
    listed_status varchar(20) COLLATE {exact} AS (IF(status IN ('pending', 'published'), NULL, status)) STORED,
    UNIQUE INDEX outbox_events_seq (seq),
    INDEX outbox_events_due (publisher_backend, due_shard, scheduled_at, seq),
    INDEX outbox_events_retry (publisher_backend, shard, due_again_at),
    INDEX outbox_events_keys (publisher_backend, unsettled_key, scheduled_at, seq),
    INDEX outbox_events_held (publisher_backend, held_key, scheduled_at, seq),
    -- For lists in the console, newest first, and for retention, oldest first.
    INDEX outbox_events_created (created_at),
    INDEX outbox_events_listed (listed_status, created_at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4 ROW_FORMAT = DYNAMIC;

-- One row. The protocol that all workers follow: under 2 a lease ends with its owner's heartbeat.
CREATE TABLE IF NOT EXISTS outbox_meta (
    only_row tinyint NOT NULL DEFAULT 1 PRIMARY KEY CHECK (only_row = 1),
    id {uuid} NOT NULL,
    created_at datetime(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    protocol smallint NOT NULL DEFAULT 2
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

INSERT INTO outbox_meta (id) SELECT REPLACE(UUID(), '-', '') FROM DUAL WHERE NOT EXISTS (SELECT 1 FROM outbox_meta);

-- A commit that has nothing to write, but must wait for what was committed before it, inserts and deletes a row here.
CREATE TABLE IF NOT EXISTS outbox_confirmations (
    id {uuid} NOT NULL PRIMARY KEY
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- Outcomes of events, by minute (span 1) and by hour (span 60).
CREATE TABLE IF NOT EXISTS outbox_history (
    span smallint NOT NULL,
    began_at datetime(6) NOT NULL,
    backend varchar(100) COLLATE {exact} NOT NULL,
    published bigint NOT NULL,
    rejected bigint NOT NULL,
    failed bigint NOT NULL,
    PRIMARY KEY (span, began_at, backend)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;
