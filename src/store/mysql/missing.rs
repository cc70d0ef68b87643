//! The roles that are not written yet: each answers with an error that says so.

use std::collections::HashMap;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{MysqlStore, admin, row};
use crate::error::StoreError;
use crate::event::{OutboxEvent, Status};
use crate::store::{
    Action, AdminStore, Announcement, AuditEntry, AuditNote, AuditRow, BackendPause, Backlog, Care, CountMode,
    DataPart, DatabaseFacts, DeliveryRequest, EventCounts, EventFilter, FetchedDelivery, HandledDelivery, HandlerStore,
    HistoryBucket, LaneClaim, LaneName, MaintenanceStore, NewPause, OutcomeCounts, OwedHandler, Page, QueuePosition,
    RejectedDelivery, Resolution, Result, RetentionCutoff, ScanPage, Settled, Unreadable, WorkerRow,
};

fn missing(operation: &'static str) -> StoreError {
    let reason = "it is not supported on MariaDB and MySQL yet".to_owned();
    StoreError::Query { operation, reason, transient: false }
}

#[async_trait]
impl HandlerStore for MysqlStore {
    async fn announce(&self, _: &[Announcement]) -> Result<()> {
        Err(missing("announce"))
    }

    async fn see_handlers(&self, _: &[String]) -> Result<()> {
        Err(missing("see_handlers"))
    }

    async fn drop_handler(&self, _: &str) -> Result<usize> {
        Err(missing("drop_handler"))
    }

    async fn fetch_deliveries(&self, _: &DeliveryRequest) -> Result<Vec<FetchedDelivery>> {
        Err(missing("fetch_deliveries"))
    }

    async fn settle_handled(&self, _: &[HandledDelivery], _: Care) -> Result<Vec<Settled>> {
        Err(missing("settle_handled"))
    }

    async fn settle_rejected_deliveries(&self, _: Uuid, _: &[RejectedDelivery]) -> Result<Vec<Settled>> {
        Err(missing("settle_rejected_deliveries"))
    }

    async fn has_due_deliveries(&self, _: &[String]) -> Result<bool> {
        Err(missing("has_due_deliveries"))
    }

    async fn owed_before(&self, _: &str, _: &[String]) -> Result<HashMap<String, Vec<String>>> {
        Err(missing("owed_before"))
    }

    async fn owed(&self) -> Result<Vec<OwedHandler>> {
        Err(missing("owed"))
    }
}

#[async_trait]
impl MaintenanceStore for MysqlStore {
    async fn finish_settled(&self) -> Result<usize> {
        Err(missing("finish_settled"))
    }

    async fn repair_missing_seq(&self) -> Result<usize> {
        Err(missing("repair_missing_seq"))
    }

    async fn delete_expired(&self, _: RetentionCutoff, _: &[LaneName]) -> Result<usize> {
        Err(missing("delete_expired"))
    }

    async fn delete_old_audit(&self) -> Result<usize> {
        Err(missing("delete_old_audit"))
    }

    async fn delete_handled(&self, kept: Duration) -> Result<usize> {
        self.delete_notes(kept).await
    }

    async fn add_to_history(&self, _: &[(String, OutcomeCounts)]) -> Result<()> {
        Err(missing("add_to_history"))
    }
}

#[async_trait]
impl AdminStore for MysqlStore {
    async fn find(&self, id: Uuid) -> Result<Option<OutboxEvent>> {
        admin::find(&self.pool, id).await
    }

    fn epoch(&self) -> DateTime<Utc> {
        DateTime::UNIX_EPOCH
    }

    async fn inspect(&self) -> Result<DatabaseFacts> {
        Ok(DatabaseFacts::default())
    }

    async fn scan(&self, _: &EventFilter, _: Page, _: i64) -> Result<ScanPage> {
        Err(missing("scan"))
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

    async fn data_part(&self, _: Uuid, _: i32, _: i32) -> Result<Option<DataPart>> {
        Err(missing("data_part"))
    }

    async fn change(&self, _: &Action, _: &[Uuid], _: &AuditNote) -> Result<Vec<Uuid>> {
        Err(missing("change"))
    }

    #[cfg(feature = "consumer")]
    async fn record(&self, _: AuditRow) -> Result<()> {
        Err(missing("record"))
    }

    async fn audit(&self, _: Option<i64>, _: i64) -> Result<Vec<AuditEntry>> {
        Err(missing("audit"))
    }

    async fn lanes_of(&self, _: &[Uuid]) -> Result<Vec<(Uuid, String)>> {
        Err(missing("lanes_of"))
    }

    async fn delete(&self, _: &LaneClaim, _: &[Status], _: &[Uuid], _: &AuditNote) -> Result<Option<Vec<Uuid>>> {
        Err(missing("delete"))
    }

    async fn transfer(
        &self,
        _: &LaneClaim,
        _: &str,
        _: &[Status],
        _: &[Uuid],
        _: &AuditNote,
    ) -> Result<Option<Vec<Uuid>>> {
        Err(missing("transfer"))
    }

    async fn pauses(&self) -> Result<Vec<BackendPause>> {
        Err(missing("pauses"))
    }

    async fn pause(&self, _: &NewPause, _: Option<AuditRow>) -> Result<bool> {
        Err(missing("pause"))
    }

    async fn resume(&self, _: &str, _: Option<&str>, _: AuditRow) -> Result<bool> {
        Err(missing("resume"))
    }

    async fn overview(&self, _: CountMode) -> Result<EventCounts> {
        Err(missing("overview"))
    }

    async fn due(&self) -> Result<Vec<Backlog>> {
        Err(missing("due"))
    }

    async fn workers(&self) -> Result<Vec<WorkerRow>> {
        Err(missing("workers"))
    }

    async fn queue_position(&self, _: Uuid) -> Result<Option<QueuePosition>> {
        Err(missing("queue_position"))
    }

    async fn history(&self, _: Resolution, _: Duration) -> Result<Vec<HistoryBucket>> {
        Err(missing("history"))
    }
}
