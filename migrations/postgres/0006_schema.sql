-- The functions' own statements find the tables of their schema, whatever search path their caller has. A later migration that
-- replaces one of them sets it again.
DO $$
DECLARE
    function regprocedure;
BEGIN
    FOR function IN SELECT p.oid FROM pg_proc p WHERE p.pronamespace = (SELECT n.oid FROM pg_namespace n WHERE n.nspname = current_schema())
            AND p.proname IN ('outbox_record_accepted', 'outbox_record_handled', 'outbox_record_rejected', 'outbox_fail') LOOP
        EXECUTE format('ALTER FUNCTION %s SET search_path = %I, pg_temp', function, current_schema());
    END LOOP;
END $$;
