//! The inbox's table, next to the outbox's or in a database without an outbox.

use std::time::Duration;

use super::MysqlStore;
use super::error::Failure;
use super::migrations::has_table;
use super::server::Server;
use super::session::{Session, on_session};
use super::statement::Statement;
use crate::error::StoreError;
use crate::publish::Dialect;
use crate::store::Result;
use crate::store::inbox::{MYSQL_TABLE, exists, find, missing};
use crate::store::migrate::{MigrationPlan, MigrationStep, statements};

const MIGRATE: &str = "migrate the inbox";

impl MysqlStore {
    /// The steps that [`make_inbox`](Self::make_inbox) would run.
    pub(super) async fn plan_inbox_table(&self) -> Result<MigrationPlan> {
        let mut session = self.pool.session(MIGRATE).await?;
        self.find_inbox_steps(&mut session).await
    }

    /// Creates the table if it does not exist, and nothing else.
    pub(super) async fn make_inbox(&self) -> Result<MigrationPlan> {
        let mut session = self.pool.session(MIGRATE).await?;
        let plan = self.find_inbox_steps(&mut session).await?;
        for step in &plan.steps {
            if let Err(failure) = session.run(&step.sql).await {
                return Err(session.error(failure));
            }
        }
        Ok(plan)
    }

    /// Deletes a small batch of notes that are older than this; returns how many.
    pub(super) async fn delete_notes(&self, kept: Duration) -> Result<usize> {
        const DELETE: &str = "DELETE FROM outbox_inbox WHERE handled_at < UTC_TIMESTAMP(6) - INTERVAL ? SECOND \
            ORDER BY handled_at LIMIT 1000";
        if !self.sees_inbox().await? {
            return Err(missing(&*self.pool.address.shown));
        }
        let seconds = i64::try_from(kept.as_secs()).unwrap_or(i64::MAX);
        let statement = || Statement::<()>::new(DELETE, [seconds.into()]);
        let deleted: Result<usize> =
            async { on_session!(self.pool, "delete old notes of the inbox", |session| session.execute(statement())) }
                .await;
        deleted.map_err(|error| match error {
            StoreError::NotMigrated { .. } => missing(&*self.pool.address.shown),
            error => error,
        })
    }

    /// Whether there is an inbox to which this user has some right. Without any, the server does not say whether a table exists: it
    /// refuses also a statement on one that does not.
    async fn sees_inbox(&self) -> Result<bool> {
        on_session!(self.pool, "find the inbox", |session| has_table(session, "outbox_inbox"))
    }

    async fn find_inbox_steps(&self, session: &mut Session<'_>) -> Result<MigrationPlan> {
        let (found, server) = match read(session).await {
            Ok(read) => read,
            Err(failure) => return Err(session.error(failure)),
        };
        let unsuitable = |problem| StoreError::Unsuitable { target: self.pool.address.shown.clone(), problem };
        if exists(&found).map_err(unsuitable)? {
            return Ok(MigrationPlan::default());
        }
        let steps = statements(MYSQL_TABLE).map(|statement| MigrationStep::new(server.adapt(statement))).collect();
        Ok(MigrationPlan { steps, ..MigrationPlan::default() })
    }
}

async fn read(session: &mut Session<'_>) -> Result<(Vec<String>, Server), Failure> {
    Ok((session.texts(find(Dialect::Mysql)).await?, Server::ask(session).await?))
}
