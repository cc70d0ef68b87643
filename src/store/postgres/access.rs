//! Whether this role's rights, and the database's encoding, allow what the outbox does.

use diesel::dsl::sql;
use diesel::sql_types::{Nullable, Text};
use diesel_async::RunQueryDsl;
use futures_util::FutureExt;

use super::connect::Target;
use super::schema::Schema;
use super::schema_client::SchemaClient;
use super::{PostgresStore, Result};

const CHECK: &str = "check the role's rights";

/// The rights of a worker, by table or sequence. docs/postgres.md grants the same.
const OF_A_WORKER: [(&str, &str); 14] = [
    ("outbox_events", "SELECT, INSERT, UPDATE, DELETE"),
    ("outbox_workers", "SELECT, INSERT, UPDATE, DELETE"),
    ("outbox_leases", "SELECT, INSERT, UPDATE, DELETE"),
    ("outbox_heartbeats", "SELECT, INSERT, UPDATE, DELETE"),
    ("outbox_handlers", "SELECT, INSERT, UPDATE, DELETE"),
    ("outbox_handler_deliveries", "SELECT, INSERT, UPDATE, DELETE"),
    ("outbox_history", "SELECT, INSERT, UPDATE, DELETE"),
    ("outbox_audit", "SELECT, DELETE"),
    ("outbox_pauses", "SELECT, INSERT"),
    ("outbox_meta", "SELECT, UPDATE"),
    ("outbox_migrations", "SELECT"),
    ("outbox_running_leases", "SELECT"),
    ("outbox_events_seq", "USAGE"),
    ("outbox_handler_generations", "USAGE"),
];

/// The commands to which policies apply, as the catalog names them.
#[derive(Debug, Clone, Copy)]
enum Commands {
    Read,
    All,
}

/// Fails if row-level security may hide rows from this role.
pub(super) async fn check_visibility(store: &PostgresStore) -> Result<()> {
    let hiding = ask(store, |schema| hiding_tables(schema, Commands::Read)).await?;
    hiding.map_or(Ok(()), |tables| Err(store.target.hidden(&tables)))
}

/// Fails if this role lacks a right of a worker, or row-level security may hide rows from it.
pub(super) async fn check_worker(store: &PostgresStore) -> Result<()> {
    if let Some(missing) = ask(store, missing_rights).await? {
        let problem = format!("this role has no {missing}, which a worker needs: see docs/postgres.md");
        return Err(store.target.unsuitable(problem));
    }
    let hiding = ask(store, |schema| hiding_tables(schema, Commands::All)).await?;
    hiding.map_or(Ok(()), |tables| Err(store.target.hidden(&tables)))
}

/// Fails if the outbox cannot be in this database, or a migration would miss rows.
pub(super) async fn check_migration(target: &Target, client: &SchemaClient) -> Result<()> {
    let failed = |error| target.driver_error("migrate", &error);
    let row = client.query_one("SELECT getdatabaseencoding()::text", &[]).await.map_err(failed)?;
    target.check_encoding(row.try_get(0).map_err(failed)?)?;
    let hiding = hiding_tables(client.schema(), Commands::All);
    let row = client.query_one(&hiding, &[]).await.map_err(failed)?;
    let hiding: Option<String> = row.try_get(0).map_err(failed)?;
    hiding.map_or(Ok(()), |tables| Err(target.hidden(&tables)))
}

impl Target {
    /// Events are UTF-8, and no other encoding can hold all of them, or promises to hold nothing else.
    pub(super) fn check_encoding(&self, encoding: &str) -> Result<()> {
        if encoding == "UTF8" {
            return Ok(());
        }
        Err(self.unsuitable(format!(
            "its encoding is {encoding}, and an outbox needs UTF8: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0"
        )))
    }

    fn hidden(&self, tables: &str) -> crate::error::StoreError {
        self.unsuitable(format!(
            "row-level security may hide rows of {tables} from this role: give the role a policy that shows all of them, \
             or BYPASSRLS; see docs/postgres.md"
        ))
    }
}

async fn ask(store: &PostgresStore, question: impl FnOnce(&Schema) -> String + Send) -> Result<Option<String>> {
    store
        .run(CHECK, |conn| {
            let question = question(conn.schema());
            async move { sql::<Nullable<Text>>(&question).get_result(conn).await }.boxed()
        })
        .await
}

/// The outbox's tables that this role may see in part, without the inbox, which is the application's: it is subject to policies, and none shows and accepts everything, or one
/// restricts it.
fn hiding_tables(schema: &Schema, commands: Commands) -> String {
    let commands = match commands {
        Commands::Read => "r",
        Commands::All => "r,a,w,d",
    };
    format!(
        "SELECT string_agg(t.relname, ', ' ORDER BY t.relname) FROM pg_class t \
            JOIN pg_namespace s ON s.oid = t.relnamespace AND s.nspname = {} \
         WHERE starts_with(t.relname::text, 'outbox_') AND t.relname <> 'outbox_inbox' AND t.relkind IN ('r', 'p') AND row_security_active(t.oid) \
            AND EXISTS (SELECT FROM unnest(string_to_array('{commands}', ',')) AS c(command) CROSS JOIN LATERAL (\
                SELECT bool_or(p.polpermissive AND p.shows_all) AS shows_all, \
                    bool_or(NOT p.polpermissive AND NOT p.shows_all) AS restricts \
                FROM (SELECT p.polpermissive, coalesce(pg_get_expr(p.polqual, t.oid), 'true') = 'true' \
                        AND coalesce(pg_get_expr(p.polwithcheck, t.oid), 'true') = 'true' AS shows_all \
                    FROM pg_policy p CROSS JOIN LATERAL unnest(p.polroles) AS r(role) \
                    WHERE p.polrelid = t.oid AND p.polcmd::text IN ('*', c.command) \
                        AND CASE WHEN r.role = 0 THEN true ELSE pg_has_role(r.role, 'USAGE') END) p) a \
                WHERE a.shows_all IS NOT TRUE OR a.restricts)",
        schema.literal()
    )
}

/// A right to some columns counts: this program asks for those that it needs.
fn missing_rights(schema: &Schema) -> String {
    let rights = OF_A_WORKER.map(|(name, rights)| format!("('{name}', '{rights}')")).join(", ");
    format!(
        "SELECT string_agg(m.missing, '; ') FROM (\
            SELECT string_agg(w.needed, ', ' ORDER BY w.n) || ' on ' || t.relname AS missing \
            FROM (VALUES {rights}) AS v(name, rights) \
                CROSS JOIN LATERAL unnest(string_to_array(v.rights, ', ')) WITH ORDINALITY AS w(needed, n) \
                JOIN pg_namespace s ON s.nspname = {} JOIN pg_class t ON t.relname = v.name AND t.relnamespace = s.oid \
            WHERE NOT CASE WHEN w.needed = 'USAGE' THEN has_sequence_privilege(t.oid, 'USAGE, UPDATE') \
                WHEN w.needed = 'DELETE' THEN has_table_privilege(t.oid, 'DELETE') \
                ELSE has_any_column_privilege(t.oid, w.needed) END \
            GROUP BY t.relname ORDER BY t.relname) m",
        schema.literal()
    )
}
