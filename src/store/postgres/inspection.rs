//! What the server says about itself, for `outbox doctor`.

use std::collections::BTreeMap;
use std::time::Duration;

use chrono::DateTime;
use diesel::dsl::sql;
use diesel::result::QueryResult;
use diesel::sql_types::{BigInt, Bool, Nullable, Text};
use diesel_async::RunQueryDsl;
use futures_util::FutureExt;

use super::schema_connection::SchemaConnection;
use super::{PostgresStore, Result};
use crate::store::{ConnectionFacts, DatabaseFacts};

const SETTINGS: &str = "SELECT name, setting FROM pg_settings WHERE name IN ('fsync', 'full_page_writes', \
    'synchronous_commit', 'autovacuum', 'statement_timeout', 'lock_timeout', 'transaction_timeout', \
    'idle_in_transaction_session_timeout', 'idle_session_timeout', 'default_transaction_read_only', 'track_activities')";

/// Of this application name are the connections of this program.
const CONNECTIONS: &str = "SELECT current_setting('max_connections')::bigint \
        - current_setting('superuser_reserved_connections')::bigint \
        - coalesce(nullif(current_setting('reserved_connections', true), ''), '0')::bigint, \
    (SELECT nullif(rolconnlimit, -1)::bigint FROM pg_roles WHERE rolname = current_user), \
    (SELECT count(*) FROM pg_stat_activity WHERE backend_type = 'client backend' \
        AND application_name IS DISTINCT FROM current_setting('application_name'))";

const OLDEST_TRANSACTION: &str = "SELECT (extract(epoch FROM clock_timestamp() - began) * 1000)::bigint, what FROM (\
    SELECT xact_start AS began, format('process %s of role %s', pid, usename) AS what FROM pg_stat_activity \
        WHERE datname = current_database() AND pid <> pg_backend_pid() AND xact_start IS NOT NULL \
    UNION ALL SELECT prepared, format('prepared transaction %L of role %s', gid, owner) FROM pg_prepared_xacts \
        WHERE database = current_database()) t WHERE began IS NOT NULL ORDER BY began LIMIT 1";

const CASCADES: &str = "SELECT format('%s (%s)', conrelid::regclass, conname) FROM pg_constraint \
    WHERE contype = 'f' AND confrelid = to_regclass('outbox_events') AND confdeltype IN ('c', 'n', 'd') ORDER BY 1";

const WITHOUT_AUTOVACUUM: &str = "SELECT relname::text FROM pg_class WHERE relnamespace = \
        (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('outbox_events')) AND starts_with(relname::text, 'outbox_') \
        AND EXISTS (SELECT FROM unnest(reloptions) o WHERE lower(o) IN ('autovacuum_enabled=false', 'autovacuum_enabled=off', \
            'autovacuum_enabled=0', 'autovacuum_enabled=no')) ORDER BY 1";

const INDEXES: &str = "SELECT wanted FROM unnest(ARRAY['outbox_events_due', 'outbox_events_retry', 'outbox_events_keys', \
        'outbox_events_held', 'outbox_events_stray', 'outbox_events_published', 'outbox_events_unpublished', \
        'outbox_handler_deliveries_due', 'outbox_handler_deliveries_keys']) AS wanted WHERE NOT EXISTS (\
            SELECT FROM pg_class c JOIN pg_index i ON i.indexrelid = c.oid WHERE c.relname = wanted AND i.indisvalid \
                AND c.relnamespace = (SELECT relnamespace FROM pg_class WHERE oid = to_regclass('outbox_events'))) ORDER BY 1";

const NO_SEQ_DEFAULT: &str = "SELECT NOT atthasdef FROM pg_attribute \
    WHERE attrelid = to_regclass('outbox_events') AND attname = 'seq'";

/// A standby whose state this role may not see counts as one.
const LACKS_STANDBY: &str = "SELECT current_setting('synchronous_standby_names') <> '' AND NOT EXISTS (\
    SELECT FROM pg_stat_replication WHERE sync_state IS NULL OR sync_state IN ('sync', 'quorum'))";

pub(super) async fn inspect(store: &PostgresStore) -> Result<DatabaseFacts> {
    store.run("inspect the database", |conn| read(conn).boxed()).await
}

async fn read(conn: &mut SchemaConnection) -> QueryResult<DatabaseFacts> {
    let clock: i64 =
        sql::<BigInt>("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint").get_result(conn).await?;
    let settings: Vec<(String, String)> = sql::<(Text, Text)>(SETTINGS).load(conn).await?;
    let (most, role_limit, of_others): (i64, Option<i64>, i64) =
        sql::<(BigInt, Nullable<BigInt>, BigInt)>(CONNECTIONS).get_result(conn).await?;
    let oldest: Vec<(i64, String)> = sql::<(BigInt, Text)>(OLDEST_TRANSACTION).load(conn).await?;
    Ok(DatabaseFacts {
        clock: DateTime::from_timestamp_micros(clock),
        settings: settings.into_iter().collect::<BTreeMap<_, _>>(),
        connections: Some(ConnectionFacts { most, role_limit, of_others }),
        oldest_transaction: oldest
            .into_iter()
            .next()
            .map(|(age, what)| (Duration::from_millis(age.unsigned_abs()), what)),
        missing_indexes: sql::<Text>(INDEXES).load(conn).await?,
        cascades: sql::<Text>(CASCADES).load(conn).await?,
        without_autovacuum: sql::<Text>(WITHOUT_AUTOVACUUM).load(conn).await?,
        has_no_seq_default: sql::<Bool>(NO_SEQ_DEFAULT).get_result(conn).await?,
        lacks_standby: sql::<Bool>(LACKS_STANDBY).get_result(conn).await?,
    })
}
