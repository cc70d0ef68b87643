//! A schema for `outbox bench`: created, filled, measured and removed. Nothing outside of it is touched.
//!
//! Its name is also the `application_name` of the connections that work in it, and while its process runs, it holds an
//! advisory lock on the name: a schema whose lock is free was left behind by a process that has ended.

mod counters;
mod leftovers;
mod raw;
mod workload;

use actix_outbox::admin::OutboxAdmin;
use actix_outbox::bench_api::connect_postgres;
use actix_outbox::{Secret, Settings};
use anyhow::{Context, Result, bail};
use tokio_postgres::Client;
use url::Url;

pub(super) use self::leftovers::remove_abandoned;
pub(super) use self::raw::RawConnection;
pub(super) use self::workload::Workload;

/// The prefix of the names of all such schemas.
const PREFIX: &str = "outbox_bench_";

const MEASURE: &str = "the database refused a statement of the measurement";

/// A schema with the outbox's tables in it.
pub(crate) struct BenchSchema {
    name: String,
    url: Secret,
    client: Client,
}

impl BenchSchema {
    /// Creates the schema `outbox_bench_<suffix>` in the database at this address.
    pub(crate) async fn create(database: &Secret, suffix: &str) -> Result<Self> {
        let name = format!("{PREFIX}{suffix}");
        let url = address_of(database, &name)?;
        let client = connect_postgres(&url).await?;
        let schema = Self { name, url, client };
        schema.require_right().await?;
        // Not supported by every server; then a statement of a killed process runs to its end and keeps the lock until then.
        let _ = schema.client.batch_execute("SET client_connection_check_interval = '1s'").await;
        schema.run(&format!("SELECT {}", lock_of(&schema.name, "pg_advisory_lock"))).await?;
        schema.run(&format!("CREATE SCHEMA {}", schema.name)).await?;
        let mut settings = Settings::default();
        settings.database.url = schema.url.clone();
        settings.database.schema = Some(schema.name.clone());
        OutboxAdmin::new(&settings)?.migrate(|_| ()).await?;
        for statements in [counters::NOTE_STARTS, counters::NOTE_DELETIONS, counters::MINIMAL_TABLE] {
            schema.run(statements).await?;
        }
        Ok(schema)
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// The address for other connections into this schema.
    pub(crate) fn url(&self) -> &Secret {
        &self.url
    }

    /// The server's version, for the report.
    pub(crate) async fn version(&self) -> Result<String> {
        let row = self.client.query_one("SELECT current_setting('server_version')", &[]).await;
        row.and_then(|row| row.try_get(0)).context(MEASURE)
    }

    async fn require_right(&self) -> Result<()> {
        let question = "SELECT has_database_privilege(current_database(), 'CREATE'), \
            quote_ident(current_user), quote_ident(current_database())";
        let row = self.client.query_one(question, &[]).await.context(MEASURE)?;
        let (may, user, database): (bool, String, String) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        if !may {
            bail!(
                "{user} may not make a schema in this database: GRANT CREATE ON DATABASE {database} TO {user}, or name \
                 another database by --database-url"
            );
        }
        Ok(())
    }

    async fn run(&self, statements: &str) -> Result<()> {
        self.client.batch_execute(statements).await.context(MEASURE)
    }
}

/// The address of the same database with names looked up in this schema only.
fn address_of(database: &Secret, schema: &str) -> Result<Secret> {
    let mut url = Url::parse(&database.read()?).context("the URL is not valid")?;
    let mut options = format!("-csearch_path={schema}");
    let mut pairs: Vec<(String, String)> = Vec::new();
    for (name, value) in url.query_pairs() {
        match &*name {
            "options" => options = format!("{value} {options}"),
            "application_name" => {}
            _ => pairs.push((name.into_owned(), value.into_owned())),
        }
    }
    url.query_pairs_mut().clear().extend_pairs(pairs).append_pair("options", &options);
    url.query_pairs_mut().append_pair("application_name", schema);
    Ok(Secret::from(String::from(url)))
}

/// Calls an advisory lock function for the lock of this schema.
fn lock_of(schema: &str, function: &str) -> String {
    format!("{function}(hashtextextended('{schema}', 0))")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_schema_joins_the_options_that_the_address_has() {
        let given = "postgres://ann:p%40w@db/app?options=-c%20geqo%3Doff&application_name=mine&sslmode=require";
        let address = address_of(&Secret::from(given), "outbox_bench_1").unwrap();
        let url = Url::parse(&address.read().unwrap()).unwrap();
        let pairs: Vec<_> = url.query_pairs().map(|(name, value)| format!("{name}={value}")).collect();
        let options = "options=-c geqo=off -csearch_path=outbox_bench_1";
        assert_eq!(pairs, ["sslmode=require", options, "application_name=outbox_bench_1"]);
        assert!(url.as_str().starts_with("postgres://ann:p%40w@db/app?"), "{url}");
    }
}
