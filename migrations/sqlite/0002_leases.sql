-- A file that was merged with another has two rows; journals name the first.
DELETE FROM outbox_meta WHERE rowid <> (SELECT min(rowid) FROM outbox_meta);

-- The protocol that all workers follow: 1 as in version 0.1; under 2 a lease ends with its owner's heartbeat.
ALTER TABLE outbox_meta ADD COLUMN protocol INTEGER NOT NULL DEFAULT 1;

ALTER TABLE outbox_meta ADD COLUMN only_row INTEGER NOT NULL DEFAULT 1 CHECK (only_row = 1);

CREATE UNIQUE INDEX outbox_meta_one_row ON outbox_meta (only_row);

-- The newest protocol that the worker knows; NULL: 1.
ALTER TABLE outbox_workers ADD COLUMN protocol INTEGER;

CREATE TABLE outbox_heartbeats (
  worker       BLOB    PRIMARY KEY NOT NULL,
  beat         INTEGER NOT NULL,
  heartbeat_at INTEGER NOT NULL,
  ends_at      INTEGER NOT NULL
);

CREATE TRIGGER outbox_workers_forget AFTER DELETE ON outbox_workers
BEGIN
  DELETE FROM outbox_heartbeats WHERE worker = OLD.id;
END;

-- Under protocol 2 each lease names an owner and never expires by itself: a worker of version 0.1 can acquire none of them,
-- nor one whose row it inserts.
CREATE TRIGGER outbox_leases_make AFTER INSERT ON outbox_leases
  WHEN NEW.owner IS NULL AND (SELECT protocol FROM outbox_meta) >= 2
BEGIN
  UPDATE outbox_leases SET owner = zeroblob(16), expires_at = 9223372036854775807
    WHERE backend = NEW.backend AND shard = NEW.shard;
END;

-- The running leases under the protocol in force.
CREATE VIEW outbox_running_leases AS
  SELECT l.backend, l.shard, l.owner, l.epoch
  FROM outbox_leases l CROSS JOIN outbox_meta m LEFT JOIN outbox_heartbeats h ON h.worker = l.owner
  WHERE CASE WHEN m.protocol >= 2 THEN h.ends_at ELSE l.expires_at END
      > strftime('%s', 'now') * 1000000 + substr(strftime('%f', 'now'), 4) * 1000
    AND l.owner IS NOT NULL;
