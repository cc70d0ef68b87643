-- A restore into a database that had its own row leaves two; journals name the older one.
DELETE FROM outbox_meta WHERE ctid <> (SELECT ctid FROM outbox_meta ORDER BY created_at, id LIMIT 1);

-- The protocol that all workers follow: 1 as in version 0.1; under 2 a lease ends with its owner's heartbeat.
ALTER TABLE outbox_meta ADD PRIMARY KEY (id), ADD COLUMN protocol smallint NOT NULL DEFAULT 1;

CREATE UNIQUE INDEX outbox_meta_one_row ON outbox_meta ((true));

-- The newest protocol that the worker knows; NULL: 1.
ALTER TABLE outbox_workers ADD COLUMN protocol smallint;

-- The part of a worker that each heartbeat writes, apart from columns that change rarely. No indexed column changes, and a
-- page holds many versions, so a heartbeat leaves few dead rows while a transaction holds vacuum back.
CREATE TABLE outbox_heartbeats (
    worker uuid PRIMARY KEY REFERENCES outbox_workers ON DELETE CASCADE,
    beat bigint NOT NULL,
    heartbeat_at timestamptz NOT NULL,
    ends_at timestamptz NOT NULL
) WITH (fillfactor = 90, autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 2000);

-- Under protocol 2 each lease names an owner and never expires by itself: a worker of version 0.1 can acquire none of them,
-- nor one whose row it inserts.
CREATE FUNCTION outbox_lease_owner() RETURNS uuid LANGUAGE sql STABLE
    RETURN (SELECT CASE WHEN protocol >= 2 THEN '00000000-0000-0000-0000-000000000000'::uuid END FROM outbox_meta);

CREATE FUNCTION outbox_lease_end() RETURNS timestamptz LANGUAGE sql VOLATILE
    RETURN (SELECT CASE WHEN protocol >= 2 THEN 'infinity'::timestamptz ELSE clock_timestamp() END FROM outbox_meta);

ALTER TABLE outbox_leases
    ALTER COLUMN owner SET DEFAULT outbox_lease_owner(),
    ALTER COLUMN expires_at SET DEFAULT outbox_lease_end();

-- The running leases under the protocol in force.
CREATE VIEW outbox_running_leases AS
    SELECT l.backend, l.shard, l.owner, l.epoch
    FROM outbox_leases l CROSS JOIN outbox_meta m LEFT JOIN outbox_heartbeats h ON h.worker = l.owner
    WHERE CASE WHEN m.protocol >= 2 THEN h.ends_at ELSE l.expires_at END > clock_timestamp() AND l.owner IS NOT NULL;
