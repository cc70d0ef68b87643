-- Publishing from SQL: an INSERT into this view is checked by the rules of `NewEvent`, has its defaults, and writes the row that
-- `publish` writes. The view has no rows.
CREATE VIEW outbox_publish (event_type, source, data, subject, partition_key, backend, scheduled_at, max_retries,
    publisher_config, extensions, data_schema, data_content_type, id, event_time, data_binary) AS
  SELECT NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL WHERE false;

-- A message is a constant, as SQLite before 3.47 needs it, so it names the field and the rule and not the value's length.
CREATE TRIGGER outbox_publish_insert INSTEAD OF INSERT ON outbox_publish
BEGIN
  -- `forbidden` are the control characters and noncharacters, which CloudEvents does not allow; U+0000 ends a text in patterns.
  SELECT CASE
    WHEN typeof(NEW.event_type) <> 'text' OR length(NEW.event_type) NOT BETWEEN 1 AND 255 OR NEW.event_type GLOB forbidden
        OR instr(CAST(NEW.event_type AS BLOB), x'00') > 0
      THEN RAISE(ABORT, 'event field `event_type` is not a text of 1 to 255 characters without control characters')
    WHEN typeof(NEW.source) <> 'text' OR length(NEW.source) NOT BETWEEN 1 AND 255 OR NEW.source GLOB forbidden
        OR instr(CAST(NEW.source AS BLOB), x'00') > 0
      THEN RAISE(ABORT, 'event field `source` is not a text of 1 to 255 characters without control characters')
    WHEN typeof(NEW.subject) NOT IN ('text', 'null') OR length(NEW.subject) > 255 OR NEW.subject GLOB forbidden
        OR instr(CAST(NEW.subject AS BLOB), x'00') > 0
      THEN RAISE(ABORT, 'event field `subject` is not a text of up to 255 characters without control characters')
    WHEN typeof(NEW.partition_key) NOT IN ('text', 'null') OR length(NEW.partition_key) > 255
        OR NEW.partition_key GLOB forbidden OR instr(CAST(NEW.partition_key AS BLOB), x'00') > 0
      THEN RAISE(ABORT, 'event field `partition_key` is not a text of up to 255 characters without control characters')
    WHEN typeof(NEW.backend) NOT IN ('text', 'null') OR length(NEW.backend) > 100 OR NEW.backend GLOB '*[^a-z0-9_.-]*'
        OR instr(CAST(NEW.backend AS BLOB), x'00') > 0
      THEN RAISE(ABORT, 'event field `publisher_backend` is not a text of up to 100 characters of a-z, 0-9, `_`, `.` and `-`')
    WHEN typeof(NEW.data_content_type) NOT IN ('text', 'null') OR length(NEW.data_content_type) > 100
        OR NEW.data_content_type GLOB forbidden OR instr(CAST(NEW.data_content_type AS BLOB), x'00') > 0
      THEN RAISE(ABORT, 'event field `data_content_type` is not a text of up to 100 characters without control characters')
    WHEN typeof(NEW.data_schema) NOT IN ('text', 'null') OR length(NEW.data_schema) > 200
        OR NEW.data_schema NOT GLOB '[a-zA-Z]*:?*' AND NEW.data_schema <> '' OR instr(NEW.data_schema, ' ') > 0
        OR NEW.data_schema GLOB forbidden OR instr(CAST(NEW.data_schema AS BLOB), x'00') > 0
      THEN RAISE(ABORT, 'event field `data_schema` is not an absolute URI of up to 200 characters')
    WHEN NEW.data IS NOT NULL AND NEW.data_binary IS NOT NULL
      THEN RAISE(ABORT, 'event field `data` is both JSON and binary; it can be one of them')
    WHEN typeof(NEW.data) NOT IN ('text', 'null') OR NOT json_valid(coalesce(NEW.data, '0'))
      THEN RAISE(ABORT, 'event field `data` is not JSON, as text')
    WHEN typeof(NEW.data_binary) NOT IN ('blob', 'null')
      THEN RAISE(ABORT, 'event field `data_binary` is not a blob')
    WHEN typeof(NEW.publisher_config) NOT IN ('text', 'null') OR NOT json_valid(coalesce(NEW.publisher_config, '{}'))
        OR json_type(NEW.publisher_config) <> 'object'
      THEN RAISE(ABORT, 'event field `publisher_config` is not a JSON object, as text')
    WHEN (SELECT count(*) > 100 OR sum(key = '' OR type NOT IN ('text', 'integer', 'real')) > 0
        FROM json_each(NEW.publisher_config))
      THEN RAISE(ABORT, 'event field `publisher_config` has more than 100 fields, or one that is not a string or a number')
    WHEN typeof(NEW.extensions) NOT IN ('text', 'null') OR NOT json_valid(coalesce(NEW.extensions, '{}'))
        OR json_type(NEW.extensions) <> 'object'
      THEN RAISE(ABORT, 'event field `extensions` is not a JSON object, as text')
    WHEN EXISTS (SELECT 1 FROM json_each(NEW.extensions) WHERE key = '' OR key GLOB '*[^a-z0-9]*' OR key IN ('specversion',
        'type', 'source', 'id', 'time', 'subject', 'datacontenttype', 'dataschema', 'data', 'database64', 'partitionkey'))
      THEN RAISE(ABORT, 'event field `extensions` has a name that is not lower-case ASCII letters and digits, or is reserved')
    WHEN EXISTS (SELECT 1 FROM json_each(NEW.extensions) WHERE CASE type WHEN 'text' THEN atom GLOB forbidden
        WHEN 'integer' THEN atom NOT BETWEEN -2147483648 AND 2147483647 ELSE type NOT IN ('true', 'false') END)
      THEN RAISE(ABORT, 'event field `extensions` has a value that is not a string, a boolean or a 32-bit integer')
    WHEN length(CAST(coalesce(NEW.data, NEW.data_binary, '') AS BLOB)) + length(CAST(coalesce(NEW.extensions, '') AS BLOB))
        + length(CAST(coalesce(NEW.publisher_config, '') AS BLOB)) > 1048576
      THEN RAISE(ABORT, 'event field `data` makes the event larger than the limit of 1048576 bytes')
    WHEN typeof(NEW.scheduled_at) NOT IN ('integer', 'null')
        OR NEW.scheduled_at NOT BETWEEN -62135596800000000 AND 253402300799999999
      THEN RAISE(ABORT, 'event field `scheduled_at` is not a number of microseconds since 1970, in the years 1 to 9999')
    WHEN typeof(NEW.event_time) NOT IN ('integer', 'null')
        OR NEW.event_time NOT BETWEEN -62135596800000000 AND 253402300799999999
      THEN RAISE(ABORT, 'event field `time` is not a number of microseconds since 1970, in the years 1 to 9999')
    WHEN typeof(NEW.max_retries) NOT IN ('integer', 'null') OR NEW.max_retries NOT BETWEEN 0 AND 2147483647
      THEN RAISE(ABORT, 'event field `max_retries` is not a number from 0 to 2147483647')
    WHEN NEW.id IS NOT NULL AND (typeof(NEW.id) <> 'blob' OR length(NEW.id) <> 16)
      THEN RAISE(ABORT, 'event field `id` is not a blob of 16 bytes')
    END
    FROM (SELECT '*[' || char(1) || '-' || char(31, 127) || '-' || char(159, 64976) || '-' || char(65007, 65534, 65535,
      131070, 131071, 196606, 196607, 262142, 262143, 327678, 327679, 393214, 393215, 458750, 458751, 524286, 524287, 589822,
      589823, 655358, 655359, 720894, 720895, 786430, 786431, 851966, 851967, 917502, 917503, 983038, 983039, 1048574, 1048575,
      1114110, 1114111) || ']*' AS forbidden);
  -- The same id again: the same content, except what the caller left to the outbox and the trace context.
  SELECT RAISE(ABORT, 'another event with different content is stored under this id, so this one was not stored')
    FROM outbox_events e WHERE e.id = NEW.id AND (e.event_type, e.source, e.cloud_event_id, e.subject, e.partition_key,
      e.publisher_backend, e.data_schema, e.data_content_type, json(nullif(e.data, 'null')), e.data_binary,
      json(e.publisher_config), json_remove(e.extensions, '$.traceparent', '$.tracestate'))
      IS NOT (NEW.event_type, NEW.source, '', coalesce(NEW.subject, ''), coalesce(NEW.partition_key, ''),
      -- Without a name, a route may have chosen one since.
      coalesce(nullif(NEW.backend, ''), e.publisher_backend), coalesce(NEW.data_schema, ''), coalesce(NEW.data_content_type,
      CASE WHEN NEW.data_binary IS NULL THEN 'application/json' ELSE 'application/octet-stream' END),
      nullif(json(NEW.data), 'null'), NEW.data_binary, json(coalesce(NEW.publisher_config, '{}')),
      json_remove(coalesce(NEW.extensions, '{}'), '$.traceparent', '$.tracestate'))
      OR e.id = NEW.id AND (e.scheduled_at <> NEW.scheduled_at OR NEW.event_time IS NOT NULL AND e.event_time IS NOT NEW.event_time
        OR e.max_retries <> NEW.max_retries);
  INSERT INTO outbox_events (id, event_type, source, subject, data_content_type, data_schema, data, data_binary, scheduled_at,
      max_retries, publisher_backend, publisher_config, extensions, partition_key, event_time)
    SELECT coalesce(NEW.id, randomblob(16)), NEW.event_type, NEW.source, coalesce(NEW.subject, ''),
      coalesce(NEW.data_content_type,
        CASE WHEN NEW.data_binary IS NULL THEN 'application/json' ELSE 'application/octet-stream' END),
      coalesce(NEW.data_schema, ''), CASE WHEN json(NEW.data) <> 'null' THEN NEW.data END, NEW.data_binary,
      coalesce(NEW.scheduled_at, CAST(strftime('%s', 'now') AS INTEGER) * 1000000
        + CAST(substr(strftime('%f', 'now'), 4) AS INTEGER) * 1000),
      coalesce(NEW.max_retries, 3), coalesce(NEW.backend, ''), json(coalesce(NEW.publisher_config, '{}')),
      json(coalesce(NEW.extensions, '{}')), coalesce(NEW.partition_key, ''), NEW.event_time
    WHERE NOT EXISTS (SELECT 1 FROM outbox_events WHERE id = NEW.id);
END;
