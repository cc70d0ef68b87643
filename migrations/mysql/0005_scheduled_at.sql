-- The wall clock, in UTC whatever the session's time zone is: within a function or a trigger, UTC_TIMESTAMP is the start of
-- the outermost statement, and SYSDATE is the time of the row. A change of the session's zone to or from summer time meanwhile
-- is left out: it is a multiple of half an hour, or negative.
ALTER TABLE outbox_events ALTER COLUMN scheduled_at SET DEFAULT (UTC_TIMESTAMP(6)
    + INTERVAL GREATEST(0, TIMESTAMPDIFF(MICROSECOND, NOW(6), SYSDATE(6))) % 1800000000 MICROSECOND);
