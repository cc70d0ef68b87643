-- Deletes those of the events that are published, owe nothing, and are not kept, as each `deletes` says. A row that
-- another transaction holds is left to retention.
CREATE OR REPLACE FUNCTION outbox_delete_published(ids uuid[], seqs bigint[], deletes boolean[]) RETURNS void LANGUAGE plpgsql
    SET plan_cache_mode = force_custom_plan SET enable_seqscan = off SET enable_bitmapscan = off SET enable_hashjoin = off
    SET enable_mergejoin = off SET jit = off AS $$
BEGIN
    DELETE FROM outbox_events e USING (
        SELECT o.id, o.seq FROM (SELECT DISTINCT s.id, s.seq FROM unnest(ids, seqs, deletes) AS s(id, seq, deletes)
                WHERE s.deletes) s
            JOIN outbox_events o ON o.id = s.id AND o.seq = s.seq WHERE o.status || '' = 'published'
            FOR UPDATE OF o SKIP LOCKED) d
        WHERE e.id = d.id AND e.seq = d.seq AND NOT EXISTS (
            SELECT FROM outbox_handler_deliveries o WHERE o.event_id = e.id AND o.seq = e.seq);
END $$;

-- As the function of five arguments, which older programs call. Whether an event is deleted is decided when its row is
-- locked and its acceptance is recorded.
CREATE OR REPLACE FUNCTION outbox_record_accepted(ids uuid[], seqs bigint[], asked_sets integer[], asked jsonb, left_to jsonb,
        deletes boolean[]) RETURNS TABLE (held boolean, there boolean, owed jsonb) LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT r.held, r.there, r.owed FROM outbox_record_accepted(ids, seqs, asked_sets, asked, left_to) r;
    PERFORM outbox_delete_published(ids, seqs, deletes);
END $$;

-- As the function of four arguments. The last answer deletes the event.
CREATE OR REPLACE FUNCTION outbox_record_handled(ids uuid[], seqs bigint[], handlers varchar[], waits boolean, deletes boolean[])
        RETURNS TABLE (held boolean, there boolean) LANGUAGE plpgsql AS $$
BEGIN
    RETURN QUERY SELECT r.held, r.there FROM outbox_record_handled(ids, seqs, handlers, waits) r;
    PERFORM outbox_delete_published(ids, seqs, deletes);
END $$;

DO $$
DECLARE
    function regprocedure;
BEGIN
    FOR function IN SELECT p.oid FROM pg_proc p WHERE p.pronamespace = (SELECT n.oid FROM pg_namespace n WHERE n.nspname = current_schema())
            AND p.proname IN ('outbox_delete_published', 'outbox_record_accepted', 'outbox_record_handled') LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', function, current_schema());
    END LOOP;
END $$;
