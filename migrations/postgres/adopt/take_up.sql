-- Events that django-broadcaster's worker was about to publish when it ended; it would never read them again.
WITH taken_up AS (
    UPDATE outbox_events SET status = 'pending', updated_at = clock_timestamp() WHERE status = 'processing' RETURNING id
)
SELECT count(*) FROM taken_up;
