//! The store's role in operations.

use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::session::{in_transaction, on_session};
use super::{
    MysqlStore, admin, audit, change, claimed, data, fetch, history, inspection, overview, pauses, queue_position,
};
use super::{row, scan, waits};
use crate::event::{OutboxEvent, Status};
use crate::store::{
    Action, AdminStore, AuditEntry, AuditNote, AuditRow, BackendPause, Backlog, Blocker, CountMode, DataPart,
    DatabaseFacts, EventCounts, EventFilter, HistoryBucket, LaneClaim, NewPause, Page, PredecessorQuery, QueuePosition,
    Resolution, Result, ScanPage, Unreadable, Wait, WaitQuery, WorkerRow,
};

#[async_trait]
impl AdminStore for MysqlStore {
    async fn find(&self, id: Uuid) -> Result<Option<OutboxEvent>> {
        admin::find(&self.pool, id).await
    }

    fn epoch(&self) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH
    }

    async fn scan(&self, filter: &EventFilter, page: Page, most: i64) -> Result<ScanPage> {
        on_session!(self.pool, "scan events", |session| scan::scan(session, filter, page, most))
    }

    async fn load(&self, ids: &[Uuid]) -> Result<Vec<Result<OutboxEvent, Unreadable>>> {
        admin::load(&self.pool, row::COLUMNS, ids).await
    }

    async fn load_without_data(&self, ids: &[Uuid]) -> Result<Vec<Result<OutboxEvent, Unreadable>>> {
        admin::load(&self.pool, row::COLUMNS_WITHOUT_DATA, ids).await
    }

    async fn load_checked(&self, ids: &[Uuid]) -> Result<Vec<Result<OutboxEvent, Unreadable>>> {
        admin::load(&self.pool, row::COLUMNS_WITH_DATA_CHECKED, ids).await
    }

    async fn data_part(&self, id: Uuid, from: i32, length: i32) -> Result<Option<DataPart>> {
        on_session!(self.pool, "read an event's data", |session| data::read(session, id, from, length))
    }

    async fn change(&self, action: &Action, ids: &[Uuid], note: &AuditNote) -> Result<Vec<Uuid>> {
        in_transaction!(self.pool, "change events", |session| change::change(session, action, ids, note))
    }

    #[cfg(feature = "consumer")]
    async fn record(&self, row: AuditRow) -> Result<()> {
        in_transaction!(self.pool, "record an operator's change", |session| audit::write(session, &row))
    }

    async fn audit(&self, before: Option<i64>, limit: i64) -> Result<Vec<AuditEntry>> {
        on_session!(self.pool, "read operators' changes", |session| audit::read(session, before, limit))
    }

    async fn lanes_of(&self, ids: &[Uuid]) -> Result<Vec<(Uuid, String)>> {
        on_session!(self.pool, "read events' backends", |session| claimed::lanes_of(session, ids))
    }

    async fn delete(
        &self,
        claim: &LaneClaim,
        statuses: &[Status],
        ids: &[Uuid],
        note: &AuditNote,
    ) -> Result<Option<Vec<Uuid>>> {
        in_transaction!(self.pool, "delete events", |session| claimed::change(
            session,
            claim,
            (statuses, ids),
            &Action::Delete,
            note
        ))
    }

    async fn transfer(
        &self,
        claim: &LaneClaim,
        to: &str,
        statuses: &[Status],
        ids: &[Uuid],
        note: &AuditNote,
    ) -> Result<Option<Vec<Uuid>>> {
        let action = Action::Move { to: to.to_owned() };
        in_transaction!(self.pool, "move events", |session| claimed::change(
            session,
            claim,
            (statuses, ids),
            &action,
            note
        ))
    }

    async fn pauses(&self) -> Result<Vec<BackendPause>> {
        on_session!(self.pool, "read pauses", |session| pauses::read(session))
    }

    async fn pause(&self, pause: &NewPause, row: Option<AuditRow>) -> Result<bool> {
        in_transaction!(self.pool, "pause a backend", |session| pauses::pause(session, pause, row.as_ref()))
    }

    async fn resume(&self, backend: &str, host: Option<&str>, row: AuditRow) -> Result<bool> {
        in_transaction!(self.pool, "resume a backend", |session| pauses::resume(session, backend, host, &row))
    }

    async fn overview(&self, counting: CountMode) -> Result<EventCounts> {
        on_session!(self.pool, "count events", |session| overview::overview(session, counting))
    }

    async fn due(&self) -> Result<Vec<Backlog>> {
        on_session!(self.pool, "count due events", |session| overview::due(session))
    }

    async fn workers(&self) -> Result<Vec<WorkerRow>> {
        on_session!(self.pool, "read workers", |session| overview::workers(session))
    }

    async fn queue_position(&self, id: Uuid) -> Result<Option<QueuePosition>> {
        on_session!(self.pool, "read a queue position", |session| queue_position::queue_position(session, id))
    }

    async fn blocker(&self, lane: &str, failed_blocks: bool, query: PredecessorQuery) -> Result<Option<Blocker>> {
        on_session!(self.pool, "find a blocker", |session| fetch::find_blocker(session, lane, failed_blocks, &query))
    }

    async fn inspect(&self) -> Result<DatabaseFacts> {
        on_session!(self.pool, "inspect the database", |session| inspection::inspect(session))
    }

    async fn history(&self, span: Resolution, since: Duration) -> Result<Vec<HistoryBucket>> {
        on_session!(self.pool, "read the history", |session| history::read(session, span, since))
    }

    async fn sample_waits(&self, query: WaitQuery) -> Result<Vec<Wait>> {
        on_session!(self.pool, "sample waits", |session| waits::sample(session, &query))
    }
}
