-- An index of published events alone: events that are not published are in another one.
CREATE INDEX IF NOT EXISTS outbox_events_published ON outbox_events (created_at)
  WHERE status = 'published';

DROP INDEX IF EXISTS outbox_events_created;
