-- What was applied. Diesel's own table of migrations is the application's.
CREATE TABLE outbox_migrations (
    version integer PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE SEQUENCE outbox_events_seq AS bigint CACHE 1;

CREATE TABLE outbox_events (
    id uuid PRIMARY KEY,
    spec_version varchar(10) NOT NULL DEFAULT '1.0',
    event_type varchar(255) NOT NULL,
    source varchar(255) NOT NULL,
    subject varchar(255) NOT NULL DEFAULT '',
    data_content_type varchar(100) NOT NULL DEFAULT 'application/json',
    data_schema varchar(200) NOT NULL DEFAULT '',
    data jsonb,
    status varchar(20) NOT NULL DEFAULT 'pending',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    updated_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    scheduled_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    published_at timestamptz,
    retry_count integer NOT NULL DEFAULT 0,
    max_retries integer NOT NULL DEFAULT 3,
    last_error text NOT NULL DEFAULT '',
    publisher_backend varchar(100) NOT NULL DEFAULT '',
    publisher_config jsonb NOT NULL DEFAULT '{}',
    seq bigint DEFAULT nextval('outbox_events_seq'),
    retry_at timestamptz,
    cloud_event_id varchar(255) NOT NULL DEFAULT '',
    extensions jsonb NOT NULL DEFAULT '{}',
    partition_key varchar(255) NOT NULL DEFAULT '',
    data_binary bytea,
    pending_handlers jsonb,
    errors jsonb
);

ALTER SEQUENCE outbox_events_seq OWNED BY outbox_events.seq;

-- hashtextextended and uuid_hash_extended are what hash partitioning stands on, so their values do not change between versions.
CREATE FUNCTION outbox_shard(partition_key varchar, id uuid) RETURNS smallint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT ((CASE WHEN partition_key = '' THEN uuid_hash_extended(id, 0) ELSE hashtextextended(partition_key, 0) END) & 31)::smallint $$;

CREATE INDEX outbox_events_due ON outbox_events
    (publisher_backend, outbox_shard(partition_key, id), scheduled_at, seq) WHERE status = 'pending';
CREATE INDEX outbox_events_retry ON outbox_events
    (publisher_backend, outbox_shard(partition_key, id), retry_at) WHERE status = 'retry';
CREATE INDEX outbox_events_keys ON outbox_events
    (publisher_backend, partition_key, scheduled_at, seq) WHERE status IN ('pending', 'retry') AND partition_key <> '';
CREATE INDEX outbox_events_held ON outbox_events
    (publisher_backend, partition_key, scheduled_at, seq) WHERE status = 'failed' AND partition_key <> '';
-- Rows whose writer set seq to NULL on purpose; empty in practice.
CREATE INDEX outbox_events_stray ON outbox_events
    (id) WHERE seq IS NULL AND status IN ('pending', 'retry');
-- Lists for people, newest first, and retention, oldest first.
CREATE INDEX outbox_events_created ON outbox_events (created_at);
CREATE INDEX outbox_events_failed ON outbox_events (created_at) WHERE status = 'failed';

-- Every event leaves one dead row behind, so vacuum comes early and does not pause.
ALTER TABLE outbox_events SET (
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_analyze_scale_factor = 0.05,
    autovacuum_vacuum_cost_delay = 0
);

CREATE TABLE outbox_meta (
    id uuid NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
INSERT INTO outbox_meta (id) VALUES (gen_random_uuid());

CREATE TABLE outbox_workers (
    id uuid PRIMARY KEY,
    name text NOT NULL,
    version text NOT NULL,
    backends jsonb NOT NULL,
    handlers jsonb NOT NULL,
    started_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    heartbeat_at timestamptz NOT NULL DEFAULT clock_timestamp()
);

CREATE TABLE outbox_leases (
    backend varchar(100) NOT NULL,
    shard smallint NOT NULL,
    owner uuid,
    epoch bigint NOT NULL DEFAULT 0,
    expires_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (backend, shard)
);
