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
