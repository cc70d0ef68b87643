//! The roles of the store, by the modules that fulfil them.

use async_trait::async_trait;
use uuid::Uuid;

use super::leases::MysqlLeases;
use super::session::{in_transaction, on_session};
use super::{MysqlStore, SHARDS, fetch, leases, migrations, route, settle, writer};
use crate::error::{PublishError, StoreError};
use crate::event::OutboxEvent;
use crate::publish::{InsertResult, NewEvent, all_stored, prepare_all};
use crate::store::migrate::{MigrationPlan, ProgressFn};
use crate::store::{
    Acceptance, ApplicationKind, ApplicationTarget, Blockers, Care, DispatchStore, DueLanes, EventWriter,
    FailureRecord, FetchRequest, FetchResult, FetchedRow, LaneName, LeaseStore, NotInserted, NotifyStore,
    PredecessorQuery, Result, RoutedEvent, SchemaStore, Settled, SettledEvent, Shard, Store, TakeEvents,
    UnrecordedEvents,
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
            pending.run(&mut session, watch).await.map_err(|failure| session.error(failure))
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
        if let Some(objections) = pending.objections() {
            return Err(StoreError::NotAdoptable { target: target(), objections: objections.to_owned() });
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

#[async_trait]
impl DispatchStore for MysqlStore {
    fn shards(&self) -> i16 {
        SHARDS
    }

    /// The other connections fetch and write.
    fn max_concurrent_settles(&self) -> usize {
        (self.connections / 3).max(1)
    }

    async fn fetch(&self, request: &FetchRequest) -> Result<FetchResult> {
        on_session!(self.pool, "fetch due events", |session| fetch::fetch(session, request))
    }

    async fn blockers(&self, lane: &str, failed_blocks: bool, questions: &[PredecessorQuery]) -> Result<Blockers> {
        on_session!(self.pool, "find blockers", |session| fetch::find_blockers(session, lane, failed_blocks, questions))
    }

    async fn mark_failed_as_sent(&self, sent: &[(Uuid, i64)]) -> Result<Vec<Settled>> {
        settle::mark_failed_as_sent(&self.pool, sent).await
    }

    async fn find_unsettled(&self, lane: &str, sent: &[(Uuid, i64)]) -> Result<Vec<FetchedRow>> {
        in_transaction!(self.pool, "find unsettled events", |session| settle::find_unsettled(session, lane, sent))
    }

    async fn settle_published(&self, events: &[Acceptance], care: Care) -> Result<Vec<SettledEvent>> {
        self.settling.record_published(&self.pool, events, care).await
    }

    async fn settle_rescheduled(&self, owner: Uuid, events: &[FailureRecord]) -> Result<Vec<SettledEvent>> {
        settle::record_rescheduled(&self.pool, owner, events).await
    }

    async fn route(&self, owner: Uuid, events: &[RoutedEvent]) -> Result<Vec<Settled>> {
        in_transaction!(self.pool, "route events", |session| route::route(session, owner, events))
    }

    async fn raise_epoch(&self, owner: Uuid, shard: &Shard, epoch: i64, above: i64) -> Result<bool> {
        in_transaction!(self.pool, "raise a lease's epoch", |session| leases::raise_epoch(
            session, owner, shard, epoch, above
        ))
    }

    async fn due_lanes(&self, lanes: &[(LaneName, Vec<i16>)]) -> Result<DueLanes> {
        on_session!(self.pool, "find lanes with due events", |session| fetch::due_lanes(session, lanes))
    }

    async fn has_due(
        &self,
        lanes: &[LaneName],
        failed_blocks: &[LaneName],
        unrecorded: &UnrecordedEvents,
    ) -> Result<bool> {
        on_session!(self.pool, "check for due events", |session| fetch::has_due(
            session,
            lanes,
            failed_blocks,
            unrecorded
        ))
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
