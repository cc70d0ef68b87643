-- Publishing from SQL: the rules of `NewEvent`, and the row that `publish` writes. What is compared here has the types of the
-- operators in pg_catalog, and patterns are E'' strings, so that no setting of the caller's session changes a meaning.

-- Without `format`, which is not immutable, so that the planner inlines it.
CREATE OR REPLACE FUNCTION outbox_text_problem(value text, shortest integer, longest integer) RETURNS text
    LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT CASE
        WHEN char_length(value) < shortest THEN 'is empty; it must have ' || shortest::text || ' to ' || longest::text || ' characters'
        WHEN char_length(value) > longest THEN 
            'is ' || char_length(value)::text || ' characters long; the limit is ' || longest::text
        WHEN value COLLATE "C" ~ E'[\\u0001-\\u001F\\u007F-\\u009F]'
            THEN 'contains a control character, which CloudEvents does not allow'
        WHEN value COLLATE "C" ~ E'[\\uFDD0-\\uFDEF\\uFFFE\\uFFFF'
            '\\U0001FFFE\\U0001FFFF\\U0002FFFE\\U0002FFFF\\U0003FFFE\\U0003FFFF\\U0004FFFE\\U0004FFFF'
            '\\U0005FFFE\\U0005FFFF\\U0006FFFE\\U0006FFFF\\U0007FFFE\\U0007FFFF\\U0008FFFE\\U0008FFFF'
            '\\U0009FFFE\\U0009FFFF\\U000AFFFE\\U000AFFFF\\U000BFFFE\\U000BFFFF\\U000CFFFE\\U000CFFFF'
            '\\U000DFFFE\\U000DFFFF\\U000EFFFE\\U000EFFFF\\U000FFFFE\\U000FFFFF\\U0010FFFE\\U0010FFFF]'
            THEN 'contains a Unicode noncharacter, which CloudEvents does not allow'
    END $$;

-- A name, shortened and escaped for a message.
CREATE OR REPLACE FUNCTION outbox_shown_name(name text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce(string_agg(CASE
        WHEN c = E'\t' THEN E'\\t' WHEN c = E'\n' THEN E'\\n' WHEN c = E'\r' THEN E'\\r'
        WHEN c IN (E'\\', '''', '"') THEN E'\\' || c
        WHEN c COLLATE "C" ~ E'[\\u0020-\\u007E]' THEN c
        ELSE E'\\u{' || to_hex(ascii(c)) || '}'
    END, '' ORDER BY n), '')
        FROM regexp_split_to_table(left(name, 40), '') WITH ORDINALITY AS s(c, n) WHERE c <> '' $$;

-- The size of a JSON object of texts and numbers, as `OutboxEvent::size` counts it.
CREATE OR REPLACE FUNCTION outbox_pairs_size(pairs jsonb) RETURNS bigint LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT 2 + coalesce(sum(octet_length(key) + coalesce(octet_length(value), 4) + 8), 0)::bigint
        FROM jsonb_each_text(pairs) $$;

CREATE OR REPLACE FUNCTION outbox_extensions_problem(extensions jsonb) RETURNS text
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    name text;
    value jsonb;
    problem text;
BEGIN
    FOR name, value IN SELECT e.key, e.value FROM jsonb_each(extensions) e LOOP
        problem := CASE
            WHEN name COLLATE "C" !~ '^[a-z0-9]+$' THEN
                'has a name that is not lower-case ASCII letters and digits, at least one'
            WHEN name IN ('specversion', 'type', 'source', 'id', 'time', 'subject', 'datacontenttype', 'dataschema',
                'data') THEN
                'has a name that CloudEvents reserves'
            WHEN name = 'partitionkey' THEN 'is set by `partition_key`'
            WHEN jsonb_typeof(value) = 'string' THEN outbox_text_problem(value #>> '{}'::text[], 0, 2147483647)
            WHEN jsonb_typeof(value) = 'boolean' THEN NULL
            WHEN jsonb_typeof(value) = 'number' AND value::text COLLATE "C" ~ '^-?[0-9]{1,10}$' THEN
                CASE WHEN value::text::bigint NOT BETWEEN -2147483648 AND 2147483647 THEN
                    'is not a string, a boolean or a 32-bit integer' END
            ELSE 'is not a string, a boolean or a 32-bit integer'
        END;
        IF problem IS NOT NULL THEN
            RETURN pg_catalog.format('`extensions.%s` %s', outbox_shown_name(name), problem);
        END IF;
    END LOOP;
    RETURN NULL;
END $$;

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
    RETURN CASE WHEN config ? ''::text THEN '`publisher_config.` has an empty name' END;
END $$;

-- An absolute URI as browsers read it: some schemes need a host.
CREATE OR REPLACE FUNCTION outbox_schema_problem(uri text) RETURNS text LANGUAGE sql IMMUTABLE PARALLEL SAFE AS $$
    SELECT coalesce(outbox_text_problem(uri, 0, 200), CASE
        WHEN uri COLLATE "C" ~ E'[\\u0020\\u00A0\\u1680\\u2000-\\u200A\\u2028\\u2029\\u202F\\u205F\\u3000]'
            OR uri COLLATE "C" !~ '^[A-Za-z][A-Za-z0-9+.-]*:'
            OR uri COLLATE "C" ~* '^(https?|wss?|ftp):' AND uri COLLATE "C" !~*
                E'^[a-z]+:[/\\\\]*([^/\\\\?#]*@)?'
                '([^/\\\\?#@:<>|^%\\[\\]]+|\\[[0-9a-f:.]+\\])'
                '(:([0-9]{0,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]))?'
                '([/\\\\?#]|$)'
            THEN 'is not an absolute URI such as `https://example.com/schema.json`' END) $$;

-- Limits on JSON that readers in other languages have.
CREATE OR REPLACE FUNCTION outbox_json_problem(data jsonb) RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
BEGIN
    IF jsonb_path_exists(data, 'strict $.**{100} ? (@.type() == "array" || @.type() == "object")'::jsonpath) THEN
        RETURN 'nests deeper than 100 levels';
    ELSIF octet_length(data::text) > 4000 AND EXISTS (
            SELECT FROM jsonb_path_query(data, 'strict $.** ? (@.type() == "number")'::jsonpath) n WHERE octet_length(n::text) > 4000) THEN
        RETURN 'contains a number of more than 4000 digits';
    END IF;
    RETURN NULL;
END $$;

-- The SHA-1 digest, which PostgreSQL has only in an extension.
CREATE OR REPLACE FUNCTION outbox_sha1(message bytea) RETURNS bytea LANGUAGE plpgsql IMMUTABLE STRICT PARALLEL SAFE AS $$
DECLARE
    padded bytea := message || E'\\x80'::bytea || decode(repeat('00', (119 - length(message) % 64) % 64), 'hex')
        || int8send(length(message)::bigint * 8);
    h bigint[] := ARRAY[1732584193, 4023233417, 2562383102, 271733878, 3285377520];
    w bigint[] := pg_catalog.array_fill(0::bigint, ARRAY[80]);
    a bigint; b bigint; c bigint; d bigint; e bigint; x bigint; at integer;
BEGIN
    FOR start IN 0 .. length(padded) - 64 BY 64 LOOP
        FOR t IN 1 .. 16 LOOP
            at := start + t * 4 - 4;
            w[t] := get_byte(padded, at) * 16777216::bigint + get_byte(padded, at + 1) * 65536 + get_byte(padded, at + 2) * 256
                + get_byte(padded, at + 3);
        END LOOP;
        FOR t IN 17 .. 80 LOOP
            x := w[t - 3] # w[t - 8] # w[t - 14] # w[t - 16];
            w[t] := ((x << 1) | (x >> 31)) & 4294967295;
        END LOOP;
        a := h[1]; b := h[2]; c := h[3]; d := h[4]; e := h[5];
        FOR t IN 1 .. 80 LOOP
            x := ((((a << 5) | (a >> 27)) & 4294967295) + e + w[t] + CASE
                WHEN t <= 20 THEN (d # (b & (c # d))) + 1518500249
                WHEN t <= 40 THEN (b # c # d) + 1859775393
                WHEN t <= 60 THEN ((b & c) | (d & (b | c))) + 2400959708
                ELSE (b # c # d) + 3395469782 END) & 4294967295;
            e := d; d := c; c := ((b << 30) | (b >> 2)) & 4294967295; b := a; a := x;
        END LOOP;
        h := ARRAY[(h[1] + a) & 4294967295, (h[2] + b) & 4294967295, (h[3] + c) & 4294967295, (h[4] + d) & 4294967295,
            (h[5] + e) & 4294967295];
    END LOOP;
    RETURN substr(int8send(h[1]), 5) || substr(int8send(h[2]), 5) || substr(int8send(h[3]), 5) || substr(int8send(h[4]), 5)
        || substr(int8send(h[5]), 5);
END $$;

-- The id of the row for a CloudEvent whose id is not a UUID: a UUID of version 5.
CREATE OR REPLACE FUNCTION outbox_derived_id(source text, id text) RETURNS uuid LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    hash bytea := outbox_sha1(E'\\x92c7ef9c847348929e649b5a1af2e369'::bytea || convert_to(source || E'\n' || id, 'UTF8'));
BEGIN
    hash := set_byte(hash, 6, (get_byte(hash, 6) & 15) | 80);
    hash := set_byte(hash, 8, (get_byte(hash, 8) & 63) | 128);
    RETURN encode(substr(hash, 1, 16), 'hex')::uuid;
END $$;

-- A UUID of version 7: milliseconds since 1970, and random bits of one of version 4.
CREATE OR REPLACE FUNCTION outbox_new_id() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE AS $$
    SELECT encode(set_bit(set_bit(
        substr(int8send((extract(epoch FROM clock_timestamp()) * 1000::numeric)::bigint), 3) || substr(uuid_send(gen_random_uuid()), 7),
        52::bigint, 1), 53::bigint, 1), 'hex')::uuid $$;

-- What is wrong with an event, in the words of `InvalidEvent`; NULL: nothing.
CREATE OR REPLACE FUNCTION outbox_event_problem(event_type text, source text, data jsonb, bytes bytea, subject text,
        partition_key text, backend text, scheduled_at timestamptz, max_retries integer, publisher_config jsonb, extensions jsonb,
        data_schema text, content_type text, cloud_event_id text, event_time timestamptz)
    RETURNS text LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    data_size integer := coalesce(octet_length(data::text), octet_length(bytes), 0);
    size bigint;
BEGIN
    IF jsonb_typeof(extensions) <> 'object' THEN
        RETURN '`extensions` is not a JSON object';
    ELSIF jsonb_typeof(publisher_config) <> 'object' THEN
        RETURN '`publisher_config` is not a JSON object';
    END IF;
    size := data_size + octet_length(event_type) + octet_length(source) + octet_length(subject)
        + CASE WHEN publisher_config = '{}'::jsonb THEN 2 ELSE outbox_pairs_size(publisher_config) END
        + CASE WHEN extensions = '{}'::jsonb THEN 2 ELSE outbox_pairs_size(extensions) END;
    RETURN coalesce(
        '`event_type` ' || outbox_text_problem(event_type, 1, 255),
        '`source` ' || outbox_text_problem(source, 1, 255),
        '`subject` ' || outbox_text_problem(subject, 0, 255),
        '`partition_key` ' || outbox_text_problem(partition_key, 0, 255),
        '`cloud_event_id` ' || outbox_text_problem(cloud_event_id, 0, 255),
        '`data_content_type` ' || outbox_text_problem(content_type, 0, 100),
        CASE WHEN data_schema <> '' THEN '`data_schema` ' || outbox_schema_problem(data_schema) END,
        CASE WHEN backend <> '' THEN '`publisher_backend` ' || coalesce(outbox_text_problem(backend, 0, 100),
            CASE WHEN backend COLLATE "C" !~ '^[a-z0-9_.-]*$' THEN
                'contains a character other than a-z, 0-9, `_`, `.` and `-`' END) END,
        CASE WHEN scheduled_at NOT BETWEEN '0001-01-01 00:00:00+00'::timestamptz AND '9999-12-31 23:59:59.999999+00'::timestamptz THEN
            '`scheduled_at` is out of range; it can be in the years 1 to 9999' END,
        CASE WHEN event_time NOT BETWEEN '0001-01-01 00:00:00+00'::timestamptz AND '9999-12-31 23:59:59.999999+00'::timestamptz THEN
            '`time` is out of range; it can be in the years 1 to 9999' END,
        CASE WHEN max_retries < 0 THEN '`max_retries` is negative; it can be 0 to 2147483647' END,
        CASE WHEN data IS NOT NULL AND bytes IS NOT NULL THEN
            '`data` is both JSON and binary; it can be one of them' END,
        CASE WHEN size > 1048576 THEN '`data` makes the event ' || size::text || ' bytes large; the limit is 1048576' END,
        CASE WHEN extensions <> '{}'::jsonb THEN outbox_extensions_problem(extensions) END,
        CASE WHEN publisher_config <> '{}'::jsonb THEN outbox_config_problem(publisher_config) END,
        -- Shorter text is neither deep nor has long numbers.
        CASE WHEN data_size > 200 AND data IS NOT NULL THEN '`data` ' || outbox_json_problem(data) END);
END $$;
