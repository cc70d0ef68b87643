-- `seq` is a field of the stream entry, so no pair of `publisher_config` may have its name.
CREATE TRIGGER outbox_publish_config INSTEAD OF INSERT ON outbox_publish
WHEN CASE WHEN typeof(NEW.publisher_config) = 'text' AND json_valid(NEW.publisher_config)
    THEN EXISTS (SELECT 1 FROM json_each(NEW.publisher_config) WHERE key = 'seq') END
BEGIN
  SELECT RAISE(ABORT, 'event field `publisher_config.seq` is a field that the outbox sets');
END;
