-- By pages, so that the table is read once from start to end: an index on the status would find the finished rows again with
-- every batch.
SET LOCAL enable_indexscan = off;

SET LOCAL enable_bitmapscan = off;

UPDATE outbox_events SET seq = nextval('outbox_events_seq')
    WHERE ctid >= '(:from,0)' AND ctid < '(:to,0)'
        AND seq IS NULL AND status IN ('pending', 'processing', 'retry', 'failed');
