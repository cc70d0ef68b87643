-- Changes that operators made to events, one row for each transaction. Inserting needs no right on the column's sequence.
CREATE TABLE outbox_audit (
    id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    at timestamptz NOT NULL DEFAULT clock_timestamp(),
    who text NOT NULL,
    from_where text NOT NULL,
    action text NOT NULL,
    filter text,
    events bigint NOT NULL,
    ids uuid[] NOT NULL,
    reason text NOT NULL
);

CREATE INDEX outbox_audit_at ON outbox_audit (at);
