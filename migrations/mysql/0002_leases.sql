CREATE TABLE IF NOT EXISTS outbox_workers (
    id {uuid} NOT NULL PRIMARY KEY,
    name text NOT NULL,
    version text NOT NULL,
    backends json NOT NULL,
    handlers json NOT NULL,
    started_at datetime(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    heartbeat_at datetime(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    -- The newest protocol that the worker knows.
    protocol smallint
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- The part of a worker that each heartbeat writes, apart from columns that change rarely.
CREATE TABLE IF NOT EXISTS outbox_heartbeats (
    worker {uuid} NOT NULL PRIMARY KEY,
    beat bigint NOT NULL,
    heartbeat_at datetime(6) NOT NULL,
    ends_at datetime(6) NOT NULL,
    FOREIGN KEY (worker) REFERENCES outbox_workers (id) ON DELETE CASCADE
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

CREATE TABLE IF NOT EXISTS outbox_leases (
    backend varchar(100) COLLATE {exact} NOT NULL,
    shard smallint NOT NULL,
    owner {uuid},
    epoch bigint NOT NULL DEFAULT 0,
    expires_at datetime(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    PRIMARY KEY (backend, shard),
    INDEX outbox_leases_owner (owner)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- The running leases under the protocol in force, by the wall clock of a session in UTC.
CREATE OR REPLACE VIEW outbox_running_leases AS
    SELECT l.backend, l.shard, l.owner, l.epoch
    FROM outbox_leases l CROSS JOIN outbox_meta m LEFT JOIN outbox_heartbeats h ON h.worker = l.owner
    WHERE IF(m.protocol >= 2, h.ends_at, l.expires_at) > SYSDATE(6) AND l.owner IS NOT NULL;
