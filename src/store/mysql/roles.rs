//! The roles of the store, by the modules that fulfil them.

use async_trait::async_trait;
use uuid::Uuid;

use super::leases::MysqlLeases;
use super::session::{in_transaction, on_session};
use super::{MysqlStore, migrations, writer};
use crate::error::{PublishError, StoreError};
use crate::event::OutboxEvent;
use crate::publish::{InsertResult, NewEvent, all_stored, prepare_all};
use crate::store::migrate::{MigrationPlan, ProgressFn};
use crate::store::{
    ApplicationKind, ApplicationTarget, EventWriter, LeaseStore, NotInserted, NotifyStore, Result, SchemaStore, Store,
    TakeEvents,
};

#[async_trait]
impl SchemaStore for MysqlStore {
    async fn outbox_id(&self) -> Result<Uuid> {
        let id = on_session!(self.pool, "read the outbox's id", |session| migrations::read_outbox_id(session))?;
        id.map_err(|state| self.pool.address.not_migrated(state))
    }

    /// Two more for leases.
    fn most_connections(&self) -> Option<usize> {
        Some(self.connections + 2)
    }

    async fn plan_migration(&self) -> Result<MigrationPlan> {
        let pending = on_session!(self.pool, "plan the migration", |session| migrations::Pending::find(session))?;
        self.check(&pending)?;
        Ok(pending.plan())
    }

    async fn migrate(&self, watch: &ProgressFn) -> Result<MigrationPlan> {
        const OPERATION: &str = "migrate";
        let mut session = self.pool.session(OPERATION).await?;
        let locked = migrations::lock(&mut session).await.map_err(|failure| session.error(failure))?;
        if !locked {
            return Err(StoreError::Locked { operation: OPERATION });
        }
        let migrated = async {
            let pending = migrations::Pending::find(&mut session).await.map_err(|failure| session.error(failure))?;
            self.check(&pending)?;
            pending.run(&mut session, watch).await.map_err(|failure| session.error(failure))?;
            Ok(pending.plan())
        };
        let migrated = migrated.await;
        // The end of the connection also frees the lock.
        let unlocked = migrations::unlock(&mut session).await.map_err(|failure| session.error(failure));
        let plan = migrated?;
        unlocked.map(|()| plan)
    }

    async fn plan_inbox(&self) -> Result<MigrationPlan> {
        self.plan_inbox_table().await
    }

    async fn migrate_inbox(&self) -> Result<MigrationPlan> {
        self.make_inbox().await
    }
}

impl MysqlStore {
    fn check(&self, pending: &migrations::Pending) -> Result<()> {
        let target = || self.pool.address.shown.clone();
        if let Some(problem) = pending.problem() {
            return Err(StoreError::Unsuitable { target: target(), problem: problem.to_owned() });
        }
        if pending.is_foreign {
            let objections = "it has no column `seq`".to_owned();
            return Err(StoreError::NotAdoptable { target: target(), objections });
        }
        Ok(())
    }
}

const WRITE: &str = "write events";

#[async_trait]
impl EventWriter for MysqlStore {
    async fn insert(&self, events: Vec<NewEvent>) -> Result<Vec<OutboxEvent>, PublishError> {
        let events = prepare_all(events)?;
        let outcomes = in_transaction!(self.pool, WRITE, |session| writer::write_all(session, &events));
        all_stored(outcomes?)
    }

    async fn insert_each(&self, events: TakeEvents) -> Result<Vec<InsertResult>, NotInserted> {
        let answered = |error: StoreError| NotInserted::Answered(error.into());
        // A connection first: events that arrive while it is made are written with the others.
        drop(self.pool.session(WRITE).await.map_err(answered)?);
        let events = prepare_all(events()).map_err(NotInserted::Answered)?;
        let written: Result<_> =
            async { in_transaction!(self.pool, WRITE, |session| writer::write(session, &events)) }.await;
        written.map_err(|error| match error {
            StoreError::Timeout { .. } | StoreError::Unreachable { .. } | StoreError::Query { transient: true, .. } => {
                NotInserted::InDoubt(error.into())
            }
            _ => answered(error),
        })
    }

    async fn refusal(&self, events: Vec<NewEvent>) -> Option<StoreError> {
        let events = prepare_all(events).ok()?;
        let mut session = self.pool.session(WRITE).await.ok()?;
        session.begin().await.ok()?;
        let written = writer::write(&mut session, &events).await;
        // If it fails, the connection is closed, which does the same.
        let _ = session.rollback().await;
        written.err().filter(super::error::Failure::is_refusal).map(|failure| session.error(failure))
    }
}

impl Store for MysqlStore {
    fn leases(&self) -> Box<dyn LeaseStore> {
        Box::new(MysqlLeases::new(self.pool.address.clone()))
    }

    /// Neither server can notify.
    fn notify_store(&self) -> Option<&dyn NotifyStore> {
        None
    }

    fn application_target(&self) -> ApplicationTarget {
        ApplicationTarget(ApplicationKind::Mysql(self.pool.address.clone()))
    }

    fn unverified_servers(&self) -> Option<String> {
        self.pool.address.unverified()
    }
}
