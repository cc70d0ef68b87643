//! What the server says about itself, for `outbox doctor`. What this user may not see is missing.

use std::time::Duration;

use chrono::DateTime;
use diesel::dsl::sql;
use diesel::sql_types::{BigInt, Text};

use super::clock::read_now;
use super::error::Failure;
use super::session::Session;
use super::statement::Statement;
use crate::store::{ConnectionFacts, DatabaseFacts};

/// Connections of other users: without the right PROCESS a user sees its own alone.
const CONNECTIONS: &str = "SELECT CAST(@@global.max_connections AS signed), \
    (SELECT COUNT(*) FROM information_schema.processlist WHERE user <> SUBSTRING_INDEX(CURRENT_USER(), '@', 1)), \
    CAST(@@session.max_user_connections AS signed)";

/// Those that a server does not have are missing.
const SETTINGS: &str = "SHOW GLOBAL VARIABLES WHERE variable_name IN ('auto_increment_increment', \
    'innodb_flush_log_at_trx_commit', 'log_bin', 'sync_binlog')";

/// It needs the right PROCESS. The times of this table are in the server's own time zone.
const OLDEST_TRANSACTION: &str = "SELECT TIMESTAMPDIFF(MICROSECOND, t.trx_started, \
            CONVERT_TZ(UTC_TIMESTAMP(6), '+00:00', 'SYSTEM')) DIV 1000, \
        CONCAT('connection ', t.trx_mysql_thread_id) \
    FROM information_schema.innodb_trx t WHERE t.trx_mysql_thread_id <> CONNECTION_ID() ORDER BY t.trx_started LIMIT 1";

const CASCADES: &str = "SELECT CONCAT(table_name, ' (', constraint_name, ')') \
    FROM information_schema.referential_constraints \
    WHERE unique_constraint_schema = DATABASE() AND referenced_table_name = 'outbox_events' \
        AND delete_rule IN ('CASCADE', 'SET NULL', 'SET DEFAULT') ORDER BY 1";

const INDEXES: &str = "SELECT DISTINCT index_name FROM information_schema.statistics \
    WHERE table_schema = DATABASE() AND table_name IN ('outbox_events', 'outbox_handler_deliveries')";

/// The indexes that queries name.
const WANTED: [&str; 9] = [
    "outbox_events_seq",
    "outbox_events_due",
    "outbox_events_retry",
    "outbox_events_keys",
    "outbox_events_held",
    "outbox_events_created",
    "outbox_events_listed",
    "outbox_handler_deliveries_due",
    "outbox_handler_deliveries_keys",
];

const NO_SEQ_DEFAULT: &str = "SELECT COUNT(*) FROM information_schema.columns WHERE table_schema = DATABASE() \
    AND table_name = 'outbox_events' AND column_name = 'seq' AND extra NOT LIKE '%auto_increment%'";

pub(super) async fn inspect(session: &mut Session<'_>) -> Result<DatabaseFacts, Failure> {
    let clock = read_now(session).await?;
    let (most, of_others, role_limit): (i64, i64, i64) =
        session.load_one(Statement::<(BigInt, BigInt, BigInt)>::new(CONNECTIONS, [])).await?;
    let role_limit = Some(role_limit).filter(|limit| *limit > 0);
    let indexes: Vec<String> = session.load(Statement::<Text>::new(INDEXES, [])).await?;
    let missing = WANTED.into_iter().filter(|wanted| !indexes.iter().any(|index| index == wanted));
    let without_default: i64 = session.load_one(Statement::<BigInt>::new(NO_SEQ_DEFAULT, [])).await?;
    Ok(DatabaseFacts {
        clock: DateTime::from_timestamp_micros(clock),
        settings: session.load::<_, (String, String)>(sql::<(Text, Text)>(SETTINGS)).await?.into_iter().collect(),
        connections: Some(ConnectionFacts { most, role_limit, of_others }),
        oldest_transaction: oldest_transaction(session).await?,
        missing_indexes: missing.map(str::to_owned).collect(),
        cascades: session.load(Statement::<Text>::new(CASCADES, [])).await?,
        has_no_seq_default: without_default > 0,
        ..DatabaseFacts::default()
    })
}

async fn oldest_transaction(session: &mut Session<'_>) -> Result<Option<(Duration, String)>, Failure> {
    match session.load::<_, (i64, String)>(Statement::<(BigInt, Text)>::new(OLDEST_TRANSACTION, [])).await {
        Ok(rows) => Ok(rows.into_iter().next().map(|(age, what)| (Duration::from_millis(age.unsigned_abs()), what))),
        Err(failure) if failure.is_refusal() => Ok(None),
        Err(failure) => Err(failure),
    }
}

#[cfg(test)]
mod tests {
    use crate::store::conformance::Fixture;
    use crate::store::mysql::fixture::MysqlFixture;

    #[tokio::test]
    async fn a_missing_index_and_a_cascade_are_found() {
        let fixture = MysqlFixture::fresh().await;
        let facts = fixture.store().inspect().await.unwrap();
        assert!(facts.missing_indexes.is_empty() && facts.cascades.is_empty(), "{facts:?}");
        assert!(facts.clock.is_some() && !facts.has_no_seq_default, "{facts:?}");
        assert_eq!(facts.settings["auto_increment_increment"], "1");
        assert!(
            facts.settings.contains_key("innodb_flush_log_at_trx_commit") && facts.settings.contains_key("log_bin")
        );
        assert!(facts.connections.is_some_and(|connections| connections.most > 0), "{facts:?}");
        fixture.execute("DROP INDEX outbox_events_listed ON outbox_events").await;
        fixture
            .execute(&format!(
                "CREATE TABLE refers (event {}, CONSTRAINT goes_too FOREIGN KEY (event) \
                 REFERENCES outbox_events (id) ON DELETE CASCADE)",
                fixture.id_type().await
            ))
            .await;
        let facts = fixture.store().inspect().await.unwrap();
        assert_eq!(facts.missing_indexes, ["outbox_events_listed"]);
        assert_eq!(facts.cascades, ["refers (goes_too)"]);
    }
}
