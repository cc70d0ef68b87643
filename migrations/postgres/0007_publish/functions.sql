-- Checks an event and writes its row. `place` begins the messages about an event of a batch. A stored event with the same id is
-- compared as `publish` does: 3 retries, the default, are not compared, because a caller that gives 3 looks like one that
-- gives none. Such a repetition writes something, so that its commit waits for a synchronous standby.
CREATE OR REPLACE FUNCTION outbox_write(place text, event_type text, source text, data jsonb, bytes bytea, subject text,
        partition_key text, backend text, scheduled_at timestamptz, max_retries integer, publisher_config jsonb, extensions jsonb,
        data_schema text, content_type text, id uuid, cloud_event_id text, event_time timestamptz)
    RETURNS uuid LANGUAGE plpgsql AS $$
#variable_conflict use_column
DECLARE
    clock timestamptz := clock_timestamp();
    is_new boolean := id IS NULL AND cloud_event_id = '';
    data_size integer := octet_length(data::text);
    problem text;
BEGIN
    -- The same rules in one small expression, for events that set little: all of them take half the time of a call.
    IF (char_length(event_type) BETWEEN 1 AND 255 AND char_length(source) BETWEEN 1 AND 255 AND char_length(subject) <= 255
            AND char_length(partition_key) <= 255 AND char_length(content_type) <= 100 AND cloud_event_id = '' AND data_schema = ''
            AND (event_type || source || subject || partition_key || content_type) COLLATE "C" ~ E'^[\\u0020-\\u007E]*$'
            AND char_length(backend) <= 100 AND backend COLLATE "C" ~ '^[a-z0-9_.-]*$' AND max_retries >= 0
            AND scheduled_at IS NULL AND event_time IS NULL AND bytes IS NULL AND publisher_config = '{}'::jsonb
            AND extensions = '{}'::jsonb AND (data_size IS NULL OR data_size < 1000000)) IS NOT TRUE THEN
        problem := outbox_event_problem(event_type, source, data, bytes, subject, partition_key, backend, scheduled_at, max_retries,
            publisher_config, extensions, data_schema, content_type, cloud_event_id, event_time);
    ELSIF data_size > 200 THEN
        problem := '`data` ' || outbox_json_problem(data);
    END IF;
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION '%event field %', place, problem USING ERRCODE = 'invalid_parameter_value';
    END IF;
    IF is_new THEN
        id := outbox_new_id();
    ELSIF cloud_event_id <> '' THEN
        id := coalesce(id, outbox_derived_id(source, cloud_event_id));
        IF cloud_event_id = id::text THEN
            cloud_event_id := '';
        END IF;
    END IF;
    INSERT INTO outbox_events (id, spec_version, event_type, source, subject, data_content_type, data_schema, data, data_binary,
            status, created_at, updated_at, scheduled_at, retry_count, max_retries, last_error, publisher_backend,
            publisher_config, cloud_event_id, extensions, partition_key, event_time)
        VALUES (id, '1.0', event_type, source, subject, content_type, data_schema, data, bytes, 'pending', clock, clock,
            coalesce(scheduled_at, clock), 0, max_retries, '', backend, publisher_config, cloud_event_id, extensions,
            partition_key, event_time)
        ON CONFLICT (id) DO NOTHING;
    IF FOUND THEN
        RETURN id;
    ELSIF is_new THEN
        RAISE EXCEPTION '%the event % was inserted but is not in the table', place, id USING ERRCODE = 'triggered_action_exception';
    END IF;
    IF (SELECT coalesce(bool_and(has_function_privilege(p.oid, 'EXECUTE'::text)), false) FROM pg_catalog.pg_proc p
            WHERE p.proname = 'pg_logical_emit_message'::name AND p.pronamespace = 'pg_catalog'::regnamespace) THEN
        PERFORM pg_logical_emit_message(true, 'actix-outbox'::text, ''::text);
    ELSE
        PERFORM FROM outbox_events e WHERE e.id = outbox_write.id FOR KEY SHARE;
    END IF;
    SELECT CASE
            WHEN e.event_type::text <> outbox_write.event_type THEN 'event_type'
            WHEN e.source::text <> outbox_write.source THEN 'source'
            WHEN e.cloud_event_id::text <> outbox_write.cloud_event_id THEN 'cloud_event_id'
            WHEN e.subject::text <> outbox_write.subject THEN 'subject'
            WHEN nullif(e.data, 'null'::jsonb) IS DISTINCT FROM outbox_write.data THEN 'data'
            WHEN e.data_binary IS DISTINCT FROM outbox_write.bytes THEN 'data_binary'
            WHEN e.data_schema::text <> outbox_write.data_schema THEN 'data_schema'
            WHEN e.data_content_type::text <> outbox_write.content_type THEN 'data_content_type'
            WHEN e.extensions - 'traceparent'::text - 'tracestate'::text
                <> outbox_write.extensions - 'traceparent'::text - 'tracestate'::text THEN 'extensions'
            WHEN e.partition_key::text <> outbox_write.partition_key THEN 'partition_key'
            -- Without a name, a route may have chosen one since.
            WHEN outbox_write.backend <> '' AND e.publisher_backend::text <> outbox_write.backend THEN 'publisher_backend'
            WHEN e.publisher_config <> outbox_write.publisher_config THEN 'publisher_config'
            WHEN e.scheduled_at <> outbox_write.scheduled_at THEN 'scheduled_at'
            WHEN outbox_write.event_time IS NOT NULL AND e.event_time IS DISTINCT FROM outbox_write.event_time THEN 'event_time'
            WHEN outbox_write.max_retries <> 3 AND e.max_retries <> outbox_write.max_retries THEN 'max_retries'
        END INTO problem FROM outbox_events e WHERE e.id = outbox_write.id;
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION '%another event with a different `%` is stored under the id %, so this one was not stored: give it an id of its own, or publish the same content again',
            place, problem, id USING ERRCODE = 'unique_violation', COLUMN = problem;
    END IF;
    RETURN id;
END $$;

-- A time in RFC 3339, to the microsecond; NULL: another text; infinite: the year 0.
CREATE OR REPLACE FUNCTION outbox_event_time(given text) RETURNS timestamptz LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    part text[] := regexp_match(given COLLATE "C", '^([0-9]{4})-(0[1-9]|1[0-2])-([0-3][0-9])[Tt ]'
        '([01][0-9]|2[0-3]):([0-5][0-9]):([0-5][0-9]|60)(?:[.]([0-9]{1,6})[0-9]*)?'
        '(?:[Zz]|([+-])([01][0-9]|2[0-3]):([0-5][0-9]))$');
    year integer := part[1]::integer;
    month integer := part[2]::integer;
    day integer := part[3]::integer;
    ahead interval := '0 s'::interval;
BEGIN
    IF part IS NULL OR day NOT BETWEEN 1 AND (CASE
            WHEN month IN (4, 6, 9, 11) THEN 30
            WHEN month <> 2 THEN 31
            WHEN year % 4 = 0 AND (year % 100 <> 0 OR year % 400 = 0) THEN 29
            ELSE 28 END) THEN
        RETURN NULL;
    ELSIF year = 0 THEN
        RETURN '-infinity'::timestamptz;
    END IF;
    IF part[8] IS NOT NULL THEN
        ahead := make_interval(hours => (part[8] || part[9])::integer, mins => (part[8] || part[10])::integer);
    END IF;
    RETURN (make_timestamp(year, month, day, part[4]::integer, part[5]::integer, 0::double precision) - ahead
        + make_interval(secs => part[6]::double precision) + rpad(coalesce(part[7], ''), 6, '0')::double precision * '1 microsecond'::interval)
        AT TIME ZONE 'UTC'::text;
END $$;

-- Reads a CloudEvent in the JSON format as `NewEvent::from_cloud_event_json` does, and writes it.
CREATE OR REPLACE FUNCTION outbox_write_cloudevent(place text, event jsonb, backend text) RETURNS uuid LANGUAGE plpgsql AS $$
DECLARE
    texts text[] := ARRAY['specversion', 'type', 'source', 'id', 'subject', 'datacontenttype', 'dataschema', 'partitionkey', 'time',
        'data_base64'];
    base64 text := event ->> 'data_base64'::text;
    event_id text := event ->> 'id'::text;
    happened_at text := event ->> 'time'::text;
    problem text;
BEGIN
    IF jsonb_typeof(event) IS DISTINCT FROM 'object' THEN
        problem := '`cloud_event` is JSON, but not an object';
    ELSE
        SELECT CASE WHEN jsonb_typeof(event -> name) <> 'string' THEN pg_catalog.format('`%s` is not a string', name)
                ELSE pg_catalog.format('`%s` is empty', name) END
            INTO problem FROM pg_catalog.unnest(texts) WITH ORDINALITY AS t(name, n)
            WHERE jsonb_typeof(event -> name) NOT IN ('string', 'null') OR (event ->> name) = '' AND name <> 'data_base64'
            ORDER BY n LIMIT 1;
        problem := coalesce(problem, CASE
            WHEN event ->> 'specversion'::text IS NULL THEN '`specversion` is missing'
            WHEN (event ->> 'specversion'::text) <> '1.0' AND NOT starts_with(event ->> 'specversion'::text, '1.0.'::text) THEN
                '`specversion` is a version other than 1.0'
            WHEN event ->> 'type'::text IS NULL THEN '`type` is missing'
            WHEN event ->> 'source'::text IS NULL THEN '`source` is missing'
            WHEN event_id IS NULL THEN '`id` is missing'
            WHEN happened_at IS NOT NULL AND outbox_event_time(happened_at) IS NULL THEN '`time` is not an RFC 3339 timestamp'
            -- Three quarters of this are more than an event may have.
            WHEN octet_length(base64) > 1500000 THEN '`data` makes the event too large; the limit is 1048576 bytes'
            WHEN base64 COLLATE "C" !~ '^([A-Za-z0-9+/]{4})*([A-Za-z0-9+/][AQgw]==|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=)?$' THEN
                '`data_base64` is not valid base64'
        END);
    END IF;
    IF problem IS NOT NULL THEN
        RAISE EXCEPTION '%event field %', place, problem USING ERRCODE = 'invalid_parameter_value';
    END IF;
    RETURN outbox_write(place,
        event ->> 'type'::text, event ->> 'source'::text, nullif(event -> 'data'::text, 'null'::jsonb), decode(base64, 'base64'),
        coalesce(event ->> 'subject'::text, ''), coalesce(event ->> 'partitionkey'::text, ''), coalesce(backend, ''), NULL, 3,
        '{}'::jsonb,
        coalesce((SELECT pg_catalog.jsonb_object_agg(e.key, e.value) FROM jsonb_each(event - texts - 'data'::text) e
            WHERE e.value <> 'null'::jsonb), '{}'::jsonb),
        coalesce(event ->> 'dataschema'::text, ''),
        -- Where the producer gave no content type for bytes, none is stored.
        coalesce(event ->> 'datacontenttype'::text, CASE WHEN base64 IS NULL THEN 'application/json' ELSE '' END),
        -- Only the form with hyphens counts as a UUID.
        CASE WHEN event_id COLLATE "C" ~* '^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$' THEN event_id::uuid END,
        event_id, outbox_event_time(happened_at));
END $$;

CREATE OR REPLACE FUNCTION outbox_publish(event_type text, source text, data jsonb DEFAULT NULL, subject text DEFAULT '',
        partition_key text DEFAULT '', backend text DEFAULT '', scheduled_at timestamptz DEFAULT NULL, max_retries integer DEFAULT 3,
        publisher_config jsonb DEFAULT '{}', extensions jsonb DEFAULT '{}', data_schema text DEFAULT '',
        data_content_type text DEFAULT 'application/json', id uuid DEFAULT NULL, event_time timestamptz DEFAULT NULL)
    RETURNS uuid LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    RETURN outbox_write(''::text, coalesce(event_type, ''), coalesce(source, ''), nullif(data, 'null'::jsonb), NULL::bytea, coalesce(subject, ''),
        coalesce(partition_key, ''), coalesce(backend, ''), scheduled_at, coalesce(max_retries, 3),
        coalesce(publisher_config, '{}'::jsonb), coalesce(extensions, '{}'::jsonb), coalesce(data_schema, ''),
        coalesce(data_content_type, 'application/json'), id, ''::text, event_time);
END $$;

CREATE OR REPLACE FUNCTION outbox_publish_cloudevent(event jsonb, backend text DEFAULT '') RETURNS uuid
    LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    RETURN outbox_write_cloudevent(''::text, event, backend);
END $$;

CREATE OR REPLACE FUNCTION outbox_publish_many(events jsonb, backend text DEFAULT '') RETURNS SETOF uuid
    LANGUAGE plpgsql SECURITY DEFINER AS $$
DECLARE
    event jsonb;
    place bigint;
BEGIN
    IF jsonb_typeof(events) IS DISTINCT FROM 'array' THEN
        RAISE EXCEPTION 'event field `events` is not a JSON array' USING ERRCODE = 'invalid_parameter_value';
    END IF;
    FOR event, place IN SELECT e.value, e.n FROM jsonb_array_elements(events) WITH ORDINALITY AS e(value, n) ORDER BY e.n LOOP
        RETURN NEXT outbox_write_cloudevent(pg_catalog.format('event number %s of the batch: ', place), event, backend);
    END LOOP;
END $$;

-- The payload is that of the trigger: every lane has news.
CREATE OR REPLACE FUNCTION outbox_wake() RETURNS void LANGUAGE plpgsql SECURITY DEFINER AS $$
BEGIN
    PERFORM pg_notify('outbox_' || replace(m.id::text, '-'::text, ''::text), ''::text) FROM outbox_meta m;
END $$;

-- The functions run with the rights of the owner of the table that they use, wherever they are called from, and only for roles
-- that are granted EXECUTE.
DO $$
DECLARE
    function record;
BEGIN
    FOR function IN
        SELECT p.oid::regprocedure AS name, p.prosecdef, t.relowner::regrole AS owner, p.proowner = t.relowner AS is_owned
            FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace AND n.nspname = current_schema()
                JOIN pg_class t ON t.relnamespace = n.oid
                    AND t.relname = CASE p.proname WHEN 'outbox_wake' THEN 'outbox_meta' ELSE 'outbox_events' END
            WHERE p.proname IN ('outbox_publish', 'outbox_publish_cloudevent', 'outbox_publish_many', 'outbox_wake', 'outbox_write',
                'outbox_write_cloudevent', 'outbox_event_time', 'outbox_text_problem', 'outbox_shown_name', 'outbox_pairs_size',
                'outbox_event_problem', 'outbox_extensions_problem', 'outbox_config_problem', 'outbox_schema_problem', 'outbox_json_problem',
                'outbox_sha1', 'outbox_derived_id', 'outbox_new_id')
                -- Not another role's function of the same name: only those that this migration has just written.
                AND p.xmin = pg_current_xact_id()::xid
    LOOP
        EXECUTE pg_catalog.format('REVOKE ALL ON FUNCTION %s FROM PUBLIC', function.name);
        IF function.prosecdef THEN
            EXECUTE pg_catalog.format('ALTER FUNCTION %s SET search_path = %I, pg_temp', function.name, current_schema());
        END IF;
        IF NOT function.is_owned THEN
            EXECUTE pg_catalog.format('ALTER FUNCTION %s OWNER TO %s', function.name, function.owner);
        END IF;
    END LOOP;
END $$;
