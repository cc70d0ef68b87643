-- Hash partitioning relies on hashtextextended and uuid_hash_extended, so their values do not change between versions.
CREATE FUNCTION outbox_shard(partition_key varchar, id uuid) RETURNS smallint
    LANGUAGE sql IMMUTABLE PARALLEL SAFE
    AS $$ SELECT ((CASE WHEN partition_key = '' THEN uuid_hash_extended(id, 0) ELSE hashtextextended(partition_key, 0) END) & 31)::smallint $$;

-- Every event leaves a dead row, so vacuum must run early.
ALTER TABLE outbox_events SET (
    autovacuum_vacuum_scale_factor = 0.02,
    autovacuum_vacuum_threshold = 5000,
    autovacuum_analyze_scale_factor = 0.05
);
