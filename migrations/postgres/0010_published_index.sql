-- An index of published events alone: that of all events cost each insert a tenth of its processor time, and events that are
-- not published are in another one. On a table in use it was built before this, while others wrote.
CREATE INDEX IF NOT EXISTS outbox_events_published ON outbox_events (created_at) WHERE status = 'published';

DROP INDEX IF EXISTS outbox_events_created;
