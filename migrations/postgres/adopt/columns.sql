CREATE SEQUENCE outbox_events_seq AS bigint CACHE 1;

-- Constant defaults are stored in the catalog. A computed default would rewrite every row, so seq gets its default once the
-- column exists.
ALTER TABLE outbox_events
    ADD COLUMN seq bigint,
    ADD COLUMN retry_at timestamptz,
    ADD COLUMN cloud_event_id varchar(255) NOT NULL DEFAULT '',
    ADD COLUMN extensions jsonb NOT NULL DEFAULT '{}',
    ADD COLUMN partition_key varchar(255) NOT NULL DEFAULT '',
    ADD COLUMN data_binary bytea,
    ADD COLUMN pending_handlers jsonb,
    ADD COLUMN errors jsonb;

ALTER TABLE outbox_events
    ALTER COLUMN spec_version SET DEFAULT '1.0',
    ALTER COLUMN subject SET DEFAULT '',
    ALTER COLUMN data_content_type SET DEFAULT 'application/json',
    ALTER COLUMN data_schema SET DEFAULT '',
    ALTER COLUMN status SET DEFAULT 'pending',
    ALTER COLUMN created_at SET DEFAULT clock_timestamp(),
    ALTER COLUMN updated_at SET DEFAULT clock_timestamp(),
    ALTER COLUMN scheduled_at SET DEFAULT clock_timestamp(),
    ALTER COLUMN retry_count SET DEFAULT 0,
    ALTER COLUMN max_retries SET DEFAULT 3,
    ALTER COLUMN last_error SET DEFAULT '',
    ALTER COLUMN publisher_backend SET DEFAULT '',
    ALTER COLUMN publisher_config SET DEFAULT '{}',
    ALTER COLUMN seq SET DEFAULT nextval('outbox_events_seq');

ALTER SEQUENCE outbox_events_seq OWNED BY outbox_events.seq;
