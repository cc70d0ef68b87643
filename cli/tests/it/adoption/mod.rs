//! Adopting the table of a Django application with django-broadcaster.

mod django;
mod interrupted;
mod mysql;
mod refused;
mod same_entries;
mod there_and_back;
mod writer;

use std::process::Output;

use tokio_postgres::Client;

use crate::support::postgres::{self, Database};
use crate::support::redis;
use crate::test_outbox::TestOutbox;
use django::Django;

/// An application whose tables were created by django-broadcaster's migration.
struct Adoption {
    test: TestOutbox,
    django: Django,
}

impl Adoption {
    async fn new() -> Self {
        Self::on(postgres::database().await).await
    }

    async fn on(database: Database) -> Self {
        let adoption = Self::beside(TestOutbox::unmigrated(database, redis::url()));
        adoption.django.call("migrate", &[]);
        adoption
    }

    /// An application without tables.
    fn beside(test: TestOutbox) -> Self {
        let (database, stream) = (test.url().to_owned(), test.stream_name().to_owned());
        Self { test, django: Django { database, redis: redis::url(), stream } }
    }

    fn migrate(&self, arguments: &[&str]) -> Output {
        let settings = self.test.settings().write();
        self.test.outbox(&settings, &[&["migrate"], arguments].concat()).output().unwrap()
    }

    /// Adopts the table and returns the program's output.
    fn adopt(&self) -> String {
        let output = self.migrate(&[]);
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    }
}

/// The outbox's schema in the catalog, except the parts that only django-broadcaster has: its indexes, its checks that
/// counts are not negative, and its migration records.
pub(crate) async fn schema(sql: &Client) -> Vec<String> {
    let mut lines = Vec::new();
    for query in [
        "SELECT concat_ws(' ', c.relname, a.attname, format_type(a.atttypid, a.atttypmod), a.attnotnull,
                pg_get_expr(d.adbin, d.adrelid), a.attnum)
            FROM pg_class c JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0
                LEFT JOIN pg_attrdef d ON d.adrelid = c.oid AND d.adnum = a.attnum
            WHERE c.relname LIKE 'outbox%' AND c.relkind IN ('r', 'S')",
        "SELECT indexdef || ' ' || i.indisvalid FROM pg_indexes x JOIN pg_index i ON i.indexrelid = indexname::regclass
            WHERE tablename LIKE 'outbox%' AND indexname !~ '^outbox_even_|_[0-9a-f]{8}(_like)?$'",
        "SELECT concat_ws(' ', relname, relkind, reloptions) FROM pg_class WHERE relname LIKE 'outbox%' AND relkind IN ('r', 'S')",
        "SELECT concat_ws(' ', conrelid::regclass, pg_get_constraintdef(oid)) FROM pg_constraint
            WHERE conrelid::regclass::text LIKE 'outbox%' AND contype <> 'c'",
        "SELECT pg_get_functiondef(oid) FROM pg_proc WHERE proname LIKE 'outbox%'",
        "SELECT concat_ws(' ', sequencename, data_type, cache_size, start_value, pg_get_serial_sequence('outbox_events', 'seq'))
            FROM pg_sequences WHERE sequencename LIKE 'outbox%'",
        "SELECT 'version ' || version FROM outbox_migrations",
    ] {
        let rows = sql.query(query, &[]).await.unwrap();
        assert!(!rows.is_empty(), "{query}");
        let mut part: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
        part.sort();
        lines.extend(part);
    }
    lines
}

/// The outbox's schema in a new database.
pub(crate) async fn fresh_schema() -> Vec<String> {
    schema(&TestOutbox::new().await.sql().await).await
}
