//! The inbox's table, next to the outbox's or in a database without an outbox.

use super::MysqlStore;
use super::error::Failure;
use super::server::Server;
use super::session::Session;
use crate::error::StoreError;
use crate::publish::Dialect;
use crate::store::Result;
use crate::store::inbox::{MYSQL_TABLE, exists, find};
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
