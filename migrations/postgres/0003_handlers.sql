CREATE SEQUENCE outbox_handler_generations AS bigint;

-- Handlers are announced by their processes and outlive them: events that commit while a service is unavailable are owed to
-- it. No index contains the columns that change when a handler is seen.
CREATE TABLE outbox_handlers (
    name varchar(255) COLLATE "C" PRIMARY KEY,
    types jsonb NOT NULL,
    generation bigint NOT NULL DEFAULT nextval('outbox_handler_generations'),
    owed_for interval NOT NULL,
    announced_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 200);

ALTER SEQUENCE outbox_handler_generations OWNED BY outbox_handlers.generation;

-- Deliveries that an event owes to handlers outside the delivering process. Generation 0: owed whether the handler is
-- announced or not. No foreign key: retention and other writers delete events; their deliveries are dropped when they are
-- found.
CREATE TABLE outbox_handler_deliveries (
    event_id uuid NOT NULL,
    seq bigint NOT NULL,
    handler varchar(255) COLLATE "C" NOT NULL,
    generation bigint NOT NULL,
    lane varchar(100) NOT NULL,
    shard smallint NOT NULL,
    partition_key varchar(255) NOT NULL,
    scheduled_at timestamptz NOT NULL,
    attempts integer NOT NULL DEFAULT 0,
    max_attempts integer NOT NULL,
    -- 'infinity': the handler has failed the event permanently, and later ones of its key wait until an operator decides.
    next_at timestamptz NOT NULL DEFAULT now(),
    last_error text NOT NULL DEFAULT '',
    created_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (event_id, seq, handler)
) WITH (autovacuum_vacuum_scale_factor = 0.02, autovacuum_vacuum_threshold = 5000, autovacuum_analyze_scale_factor = 0.05);

-- A delivery that waits for another of its key has the same time and sorts after it.
CREATE INDEX outbox_handler_deliveries_due ON outbox_handler_deliveries
    (handler, generation, shard, next_at, scheduled_at, seq);

CREATE INDEX outbox_handler_deliveries_keys ON outbox_handler_deliveries
    (lane, partition_key, handler, scheduled_at, seq) WHERE partition_key <> '';

-- Matches an exact type, or a prefix that ends in "*".
CREATE FUNCTION outbox_type_matches(types jsonb, event_type varchar) RETURNS boolean
    LANGUAGE plpgsql IMMUTABLE PARALLEL SAFE AS $$
DECLARE
    pattern text;
BEGIN
    IF types ?| ARRAY['*', event_type::text] THEN
        RETURN true;
    END IF;
    FOR i IN 0 .. jsonb_array_length(types) - 1 LOOP
        pattern := types ->> i;
        IF right(pattern, 1) = '*' AND starts_with(event_type, left(pattern, -1)) THEN
            RETURN true;
        END IF;
    END LOOP;
    RETURN false;
END $$;

-- The handlers to which an event of this type is owed, by their announcements.
CREATE FUNCTION outbox_announced_for(event_type varchar) RETURNS jsonb LANGUAGE sql STABLE
    RETURN (SELECT jsonb_agg(h.name ORDER BY h.name) FROM outbox_handlers h
        WHERE h.seen_at + h.owed_for > now() AND (SELECT protocol FROM outbox_meta) >= 2
            AND outbox_type_matches(h.types, event_type));

-- Events that their backends have accepted. Each statement after the first has a snapshot from after the rows were locked: a
-- late call adds nothing to what the first one fixed, and sees the last answer. left_to: id -> names; asked: arrays of
-- names, by asked_set. Planned again each time: a plan that was made while the tables were empty may read all of them.
CREATE FUNCTION outbox_record_accepted(ids uuid[], seqs bigint[], asked_sets integer[], asked jsonb, left_to jsonb)
    RETURNS TABLE (held boolean, there boolean, owed jsonb) LANGUAGE plpgsql
    SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off
    SET enable_mergejoin = off SET jit = off AS $$
DECLARE
    mine uuid[];
    mine_sets integer[];
    locked jsonb;
    made jsonb;
BEGIN
    SELECT array_agg(l.id), array_agg(l.asked_set), coalesce(jsonb_object_agg(l.id, l.seq), '{}') INTO mine, mine_sets, locked
        FROM (SELECT e.id, e.seq, s.asked_set FROM unnest(ids, seqs, asked_sets) AS s(id, seq, asked_set)
            JOIN outbox_events e ON e.id = s.id AND e.seq = s.seq FOR NO KEY UPDATE OF e SKIP LOCKED) l;
    -- Retried: the handler whose failure held later events decides again.
    DELETE FROM outbox_handler_deliveries d USING unnest(mine) AS m(id) JOIN outbox_events e ON e.id = m.id
        WHERE d.event_id = e.id AND d.seq = e.seq AND d.next_at = 'infinity' AND e.status IN ('pending', 'retry');
    WITH accepted AS MATERIALIZED (
        SELECT e.id, e.seq, e.event_type, e.publisher_backend, e.partition_key, e.scheduled_at, e.max_retries,
                e.published_at IS NULL AS is_first, m.asked_set, CASE WHEN e.published_at IS NOT NULL
                    AND jsonb_typeof(e.pending_handlers) = 'array' THEN e.pending_handlers ELSE '[]' END AS pending
            FROM unnest(mine, mine_sets) AS m(id, asked_set) JOIN outbox_events e ON e.id = m.id
            WHERE e.published_at IS NULL OR e.status IN ('pending', 'retry')),
    wanted AS MATERIALIZED (
        SELECT k.event_type, k.asked_set, h.name, h.generation
            FROM (SELECT DISTINCT a.event_type, a.asked_set FROM accepted a WHERE a.is_first) k JOIN outbox_handlers h
                ON h.seen_at + h.owed_for > now() AND (SELECT protocol FROM outbox_meta) >= 2 AND NOT (asked -> k.asked_set) ? h.name::text
                AND outbox_type_matches(h.types, k.event_type)),
    owing AS (
        SELECT a.id, w.name, w.generation FROM accepted a JOIN wanted w
            ON a.is_first AND w.event_type = a.event_type AND w.asked_set = a.asked_set
        UNION
        SELECT a.id, l.name, coalesce(h.generation, 0) FROM accepted a
            CROSS JOIN LATERAL jsonb_array_elements_text(left_to -> a.id::text) AS l(name)
            LEFT JOIN outbox_handlers h ON h.name = l.name::varchar
        UNION
        -- A process that read the event before these handlers became pending does not know of them.
        SELECT a.id, p.name, coalesce(h.generation, 0) FROM accepted a
            CROSS JOIN LATERAL jsonb_array_elements_text(a.pending) AS p(name)
            LEFT JOIN outbox_handlers h ON h.name = p.name::varchar
            WHERE NOT (asked -> a.asked_set) ? p.name),
    written AS (
        INSERT INTO outbox_handler_deliveries
                (event_id, seq, handler, generation, lane, shard, partition_key, scheduled_at, max_attempts)
            SELECT e.id, e.seq, o.name, o.generation, e.publisher_backend, outbox_shard(e.partition_key, e.id),
                    e.partition_key, e.scheduled_at, e.max_retries
                FROM owing o JOIN outbox_events e ON e.id = o.id ORDER BY e.scheduled_at, e.seq
            ON CONFLICT DO NOTHING RETURNING event_id, handler)
    SELECT coalesce(jsonb_object_agg(n.event_id, n.names), '{}') INTO made FROM (
        SELECT w.event_id, jsonb_agg(w.handler ORDER BY w.handler) AS names FROM written w GROUP BY w.event_id) n;
    -- An event that failed after its backend accepted it stays failed.
    UPDATE outbox_events e SET status = CASE WHEN d.names IS NULL THEN 'published' ELSE 'processing' END,
            pending_handlers = d.names, published_at = coalesce(e.published_at, now()), updated_at = now()
        FROM unnest(mine) AS m(id) CROSS JOIN LATERAL (
            SELECT jsonb_agg(o.handler ORDER BY o.handler) AS names FROM outbox_handler_deliveries o
                WHERE o.event_id = m.id AND o.seq = (locked ->> m.id::text)::bigint) d
        WHERE e.id = m.id AND (e.published_at IS NULL OR e.status <> 'failed'
            AND (e.status <> CASE WHEN d.names IS NULL THEN 'published' ELSE 'processing' END
                OR e.pending_handlers IS DISTINCT FROM d.names));
    RETURN QUERY SELECT coalesce((locked ->> s.id::text)::bigint = s.seq, false),
            EXISTS (SELECT FROM outbox_events e WHERE e.id = s.id AND e.seq = s.seq), made -> s.id::text
        FROM unnest(ids, seqs) WITH ORDINALITY AS s(id, seq, n) ORDER BY s.n;
END $$;

-- Answers by (event, handler), recorded from any process. The last one publishes the event, decided as above. Rows are found
-- by their ids: an expression keeps the planner from an index on the status, which may hold a million.
CREATE FUNCTION outbox_record_handled(ids uuid[], seqs bigint[], handlers varchar[], waits boolean)
    RETURNS TABLE (held boolean, there boolean) LANGUAGE plpgsql
    SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off
    SET enable_mergejoin = off SET jit = off AS $$
DECLARE
    locked jsonb;
BEGIN
    IF waits THEN
        SELECT coalesce(jsonb_object_agg(l.id, l.seq), '{}') INTO locked
            FROM (SELECT e.id, e.seq FROM (SELECT DISTINCT s.id, s.seq FROM unnest(ids, seqs) AS s(id, seq) ORDER BY s.id) s
                JOIN outbox_events e ON e.id = s.id AND e.seq = s.seq FOR NO KEY UPDATE OF e) l;
    ELSE
        SELECT coalesce(jsonb_object_agg(l.id, l.seq), '{}') INTO locked
            FROM (SELECT e.id, e.seq FROM unnest(ids, seqs) AS s(id, seq)
                JOIN outbox_events e ON e.id = s.id AND e.seq = s.seq FOR NO KEY UPDATE OF e SKIP LOCKED) l;
    END IF;
    DELETE FROM outbox_handler_deliveries d USING unnest(ids, seqs, handlers) AS s(id, seq, handler)
        WHERE d.event_id = s.id AND d.seq = s.seq AND d.handler = s.handler
            AND ((locked ->> s.id::text)::bigint = s.seq
                OR NOT EXISTS (SELECT FROM outbox_events e WHERE e.id = s.id AND e.seq = s.seq));
    UPDATE outbox_events e SET status = CASE WHEN d.names IS NULL THEN 'published' ELSE 'processing' END,
            pending_handlers = d.names, updated_at = now()
        FROM (SELECT l.key::uuid AS id, l.value::bigint AS seq FROM jsonb_each_text(locked) AS l) m CROSS JOIN LATERAL (
            SELECT jsonb_agg(o.handler ORDER BY o.handler) AS names FROM outbox_handler_deliveries o
                WHERE o.event_id = m.id AND o.seq = m.seq) d
        WHERE e.id = m.id AND e.status || '' = 'processing' AND e.published_at IS NOT NULL
            AND (d.names IS NULL OR e.pending_handlers IS DISTINCT FROM d.names);
    RETURN QUERY SELECT coalesce((locked ->> s.id::text)::bigint = s.seq, false),
            EXISTS (SELECT FROM outbox_events e WHERE e.id = s.id AND e.seq = s.seq)
        FROM unnest(ids, seqs) WITH ORDINALITY AS s(id, seq, n) ORDER BY s.n;
END $$;

-- Rejections by handlers, each under the lease of the handler's lane and of the attempt that it answers. A rejection that
-- gives up fails its event; if handlers of the delivering process still have to answer, it is retried.
CREATE FUNCTION outbox_record_rejected(worker uuid, rejections jsonb)
    RETURNS TABLE (recorded boolean, held boolean, there boolean) LANGUAGE plpgsql
    SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off
    SET enable_mergejoin = off SET jit = off AS $$
DECLARE
    locked jsonb;
    accepted jsonb;
    numbers jsonb;
BEGIN
    SELECT coalesce(jsonb_object_agg(l.id, l.seq), '{}') INTO locked
        FROM (SELECT e.id, e.seq FROM jsonb_to_recordset(rejections) AS r(id uuid, seq bigint)
            JOIN outbox_events e ON e.id = r.id AND e.seq = r.seq FOR NO KEY UPDATE OF e SKIP LOCKED) l;
    SELECT coalesce(jsonb_agg(a.*), '[]'), coalesce(jsonb_object_agg(a.n, true), '{}') INTO accepted, numbers FROM (
        SELECT r.n, r.id, r.seq, r.handler, r.attempts, r.delay, r.error, r.holds,
                r.gives_up AND e.status IN ('processing', 'failed') AS ends
            FROM jsonb_to_recordset(rejections) AS r(n bigint, id uuid, seq bigint, handler varchar, lane varchar, shard smallint,
                    epoch bigint, fetched integer, attempts integer, delay bigint, error text, gives_up boolean, holds boolean)
                JOIN outbox_events e ON e.id = r.id AND e.seq = r.seq
                JOIN outbox_handler_deliveries d ON d.event_id = r.id AND d.seq = r.seq AND d.handler = r.handler
                JOIN outbox_leases l ON l.backend = r.lane AND l.shard = r.shard
            WHERE (locked ->> r.id::text)::bigint = r.seq AND d.attempts = r.fetched
                AND l.owner = worker AND l.epoch = r.epoch) a;
    RETURN QUERY SELECT numbers ? r.n::text
                OR coalesce((locked ->> r.id::text)::bigint = r.seq AND CASE WHEN d.event_id IS NULL
                    THEN r.gives_up AND e.status = 'failed' AND e.pending_handlers ? r.handler::text
                    ELSE d.attempts = r.attempts AND r.attempts <> r.fetched END, false),
            coalesce((locked ->> r.id::text)::bigint = r.seq, false), e.id IS NOT NULL
        FROM jsonb_to_recordset(rejections) AS r(n bigint, id uuid, seq bigint, handler varchar, fetched integer,
                attempts integer, gives_up boolean)
            LEFT JOIN outbox_events e ON e.id = r.id AND e.seq = r.seq
            LEFT JOIN outbox_handler_deliveries d ON d.event_id = r.id AND d.seq = r.seq AND d.handler = r.handler
        ORDER BY r.n;
    UPDATE outbox_handler_deliveries d SET attempts = a.attempts, last_error = a.error,
            next_at = CASE WHEN a.ends THEN 'infinity' ELSE now() + a.delay * interval '1 microsecond' END
        FROM jsonb_to_recordset(accepted) AS a(id uuid, seq bigint, handler varchar, attempts integer, delay bigint, error text,
            ends boolean, holds boolean)
        WHERE d.event_id = a.id AND d.seq = a.seq AND d.handler = a.handler AND (a.holds OR NOT a.ends);
    DELETE FROM outbox_handler_deliveries d
        USING jsonb_to_recordset(accepted) AS a(id uuid, seq bigint, handler varchar, ends boolean, holds boolean)
        WHERE d.event_id = a.id AND d.seq = a.seq AND d.handler = a.handler AND a.ends AND NOT a.holds;
    -- With a retry_at a failed event does not hold its key: its backend has accepted it.
    UPDATE outbox_events e SET status = 'failed', retry_at = now(), updated_at = now(), last_error = f.last_error,
            pending_handlers = CASE WHEN e.status = 'failed' AND jsonb_typeof(e.pending_handlers) = 'array'
                THEN (SELECT jsonb_agg(DISTINCT p.name) FROM jsonb_array_elements_text(e.pending_handlers || f.names) AS p(name))
                ELSE f.names END,
            errors = (SELECT jsonb_agg(o.entry ORDER BY o.n) FROM (
                SELECT k.entry, k.n FROM jsonb_array_elements(CASE WHEN jsonb_typeof(e.errors) = 'array' THEN e.errors
                        ELSE '[]' END || f.entries) WITH ORDINALITY AS k(entry, n) ORDER BY k.n DESC LIMIT 10) o)
        FROM (SELECT g.id, jsonb_agg(g.handler ORDER BY g.handler) AS names, (array_agg(g.said ORDER BY g.n DESC))[1] AS last_error,
                jsonb_agg(jsonb_build_object('error', g.said, 'at',
                    to_char(now() AT TIME ZONE 'UTC', 'YYYY-MM-DD"T"HH24:MI:SS.US"Z"')) ORDER BY g.n) AS entries
            FROM (SELECT a.n, a.id, a.handler, left('handler `' || a.handler || '`: ' || a.error, 2000) AS said
                FROM jsonb_to_recordset(accepted) AS a(n bigint, id uuid, handler varchar, error text, ends boolean)
                WHERE a.ends) g GROUP BY g.id) f
        WHERE e.id = f.id;
END $$;

-- An operator fails events: their deliveries are dropped in a snapshot from after they were locked.
CREATE FUNCTION outbox_fail(ids uuid[], reason text) RETURNS SETOF uuid LANGUAGE plpgsql
    SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off
    SET enable_mergejoin = off SET jit = off AS $$
DECLARE
    failed uuid[];
BEGIN
    -- A failed event with a retry_at holds no key.
    WITH written AS (
        UPDATE outbox_events e SET status = 'failed', retry_at = now(), last_error = reason, updated_at = now()
            FROM unnest(ids) AS s(id) WHERE e.id = s.id AND e.status || '' <> 'published' RETURNING e.id)
    SELECT array_agg(w.id) INTO failed FROM written w;
    DELETE FROM outbox_handler_deliveries d USING unnest(failed) AS f(id) WHERE d.event_id = f.id;
    RETURN QUERY SELECT unnest(failed);
END $$;
