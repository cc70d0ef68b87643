-- A CloudEvent's own time; NULL: the time of writing. Only the catalog changes.
ALTER TABLE outbox_events ADD COLUMN event_time timestamptz;

-- Backends that an operator has paused, by the publisher's name.
CREATE TABLE outbox_pauses (
    backend varchar(100) COLLATE "C" NOT NULL,
    -- A part of the backend, such as a webhook's host; empty: all of it.
    host varchar(255) COLLATE "C" NOT NULL DEFAULT '',
    reason text NOT NULL DEFAULT '',
    paused_by text NOT NULL DEFAULT '',
    paused_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (backend, host)
);
