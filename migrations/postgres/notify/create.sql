CREATE OR REPLACE FUNCTION outbox_notify() RETURNS trigger
    LANGUAGE plpgsql
    AS $$ BEGIN PERFORM pg_catalog.pg_notify(TG_ARGV[0], ''); RETURN NULL; END $$;

-- The channel is an argument, so that an insert needs no privilege to read outbox_meta.
DO $$ BEGIN
    EXECUTE format(
        'CREATE OR REPLACE TRIGGER outbox_events_notify AFTER INSERT ON outbox_events
            FOR EACH STATEMENT EXECUTE FUNCTION outbox_notify(%L)',
        (SELECT 'outbox_' || replace(id::text, '-', '') FROM outbox_meta));
END $$;
