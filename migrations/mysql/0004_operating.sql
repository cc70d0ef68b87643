-- Backends that an operator has paused, by the publisher's name.
CREATE TABLE IF NOT EXISTS outbox_pauses (
    backend varchar(100) COLLATE {exact} NOT NULL,
    -- A part of the backend, such as a webhook's host; empty: all of it.
    host varchar(255) COLLATE {exact} NOT NULL DEFAULT '',
    reason text NOT NULL DEFAULT (''),
    paused_by text NOT NULL DEFAULT (''),
    paused_at datetime(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    PRIMARY KEY (backend, host)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;

-- Changes that operators made to events, one row for each transaction.
CREATE TABLE IF NOT EXISTS outbox_audit (
    id bigint NOT NULL AUTO_INCREMENT PRIMARY KEY,
    at datetime(6) NOT NULL DEFAULT (UTC_TIMESTAMP(6)),
    who text NOT NULL,
    from_where text NOT NULL,
    action text NOT NULL,
    filter text,
    events bigint NOT NULL,
    ids json NOT NULL,
    reason text NOT NULL,
    INDEX outbox_audit_at (at)
) ENGINE = InnoDB DEFAULT CHARSET = utf8mb4;
