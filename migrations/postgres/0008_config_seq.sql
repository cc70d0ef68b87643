-- `seq` is a field of the stream entry, so no pair of `publisher_config` may have its name. The function keeps its owner and
-- its rights.
CREATE OR REPLACE FUNCTION outbox_config_problem(config jsonb) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    pairs integer := (SELECT count(*) FROM jsonb_object_keys(config));
    name text;
BEGIN
    IF pairs > 100 THEN
        RETURN pg_catalog.format('`publisher_config` has %s fields; the limit is 100', pairs);
    END IF;
    SELECT e.key INTO name FROM jsonb_each(config) e WHERE jsonb_typeof(e.value) NOT IN ('string', 'number') LIMIT 1;
    IF FOUND THEN
        RETURN pg_catalog.format('`publisher_config.%s` is neither a string nor a number', outbox_shown_name(name));
    END IF;
    SELECT e.key INTO name FROM jsonb_each(config) e
        WHERE jsonb_typeof(e.value) = 'number' AND octet_length(e.value::text) > 4000 LIMIT 1;
    IF FOUND THEN
        RETURN pg_catalog.format('`publisher_config.%s` is a number of more than 4000 digits', outbox_shown_name(name));
    END IF;
    RETURN CASE
        WHEN config ? ''::text THEN '`publisher_config.` has an empty name'
        WHEN config ? 'seq'::text THEN '`publisher_config.seq` is a field that the outbox sets'
    END;
END $$;
