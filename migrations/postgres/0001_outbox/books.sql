-- Applied migrations. Diesel's own table of migrations belongs to the application.
CREATE TABLE outbox_migrations (
    version integer PRIMARY KEY,
    applied_at timestamptz NOT NULL DEFAULT clock_timestamp()
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

-- Outcomes of events, by minute (span 1) and by hour (span 60).
CREATE TABLE outbox_history (
    span smallint NOT NULL,
    began_at timestamptz NOT NULL,
    backend varchar(100) NOT NULL,
    published bigint NOT NULL,
    rejected bigint NOT NULL,
    failed bigint NOT NULL,
    PRIMARY KEY (span, began_at, backend)
);
