-- Changes that operators made to events, one row for each transaction.
CREATE TABLE outbox_audit (
  id         INTEGER PRIMARY KEY,
  at         INTEGER NOT NULL,
  who        TEXT    NOT NULL,
  from_where TEXT    NOT NULL,
  action     TEXT    NOT NULL,
  filter     TEXT,
  events     INTEGER NOT NULL,
  ids        TEXT    NOT NULL,
  reason     TEXT    NOT NULL
);

CREATE INDEX outbox_audit_at ON outbox_audit (at);
