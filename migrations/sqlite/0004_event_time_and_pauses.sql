-- A CloudEvent's own time; NULL: the time of writing.
ALTER TABLE outbox_events ADD COLUMN event_time INTEGER;

-- Backends that an operator has paused, by the publisher's name.
CREATE TABLE outbox_pauses (
  backend   TEXT    NOT NULL,
  -- A part of the backend, such as a webhook's host; empty: all of it.
  host      TEXT    NOT NULL DEFAULT '',
  reason    TEXT    NOT NULL DEFAULT '',
  paused_by TEXT    NOT NULL DEFAULT '',
  paused_at INTEGER NOT NULL DEFAULT (strftime('%s', 'now') * 1000000 + substr(strftime('%f', 'now'), 4) * 1000),
  PRIMARY KEY (backend, host)
) WITHOUT ROWID;
