//! The roles of the store, by the modules that fulfil them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use chrono::{DateTime, Utc};
use uuid::Uuid;

use super::{
    PostgresStore, SHARDS, access, admin, audit, change, claimed, data, fetch, handlers, history, inbox, inspection,
    leases, migrate, overview, pauses, queue_position, refusal, retention, row, settle, waits,
};
use crate::error::{PublishError, StoreError};
use crate::event::{OutboxEvent, Status};
use crate::publish::{InsertResult, NewEvent};
use crate::store::migrate::{MigrationPlan, ProgressFn};
use crate::store::{
    Acceptance, Action, AdminStore, Announcement, ApplicationKind, ApplicationTarget, AuditEntry, AuditNote, AuditRow,
    BackendPause, Backlog, Blocker, Blockers, Care, CountMode, DataPart, DatabaseFacts, DeliveryRequest, DispatchStore,
    DueLanes, EventCounts, EventFilter, EventWriter, ExpiredBatch, FailureRecord, FetchRequest, FetchResult,
    FetchedDelivery, FetchedRow, HandledDelivery, HandlerStore, HistoryBucket, LaneClaim, LaneName, LeaseStore,
    MaintenanceStore, NewPause, NotInserted, NotifyStore, OutcomeCounts, OwedHandler, Page, PredecessorQuery,
    QueuePosition, RejectedDelivery, Resolution, Result, RetentionCursor, RetentionCutoff, RoutedEvent, ScanPage,
    SchemaStore, Settled, SettledEvent, Shard, Store, TakeEvents, Unreadable, UnrecordedEvents, Wait, WaitQuery,
    WorkerRow,
};

#[async_trait]
impl SchemaStore for PostgresStore {
    async fn outbox_id(&self) -> Result<Uuid> {
        migrate::outbox_id(self).await
    }

    fn schema(&self) -> Option<String> {
        self.target.schema().map(|schema| schema.name().to_owned())
    }

    fn most_connections(&self) -> Option<usize> {
        Some(PostgresStore::most_connections(self))
    }

    async fn check_visibility(&self) -> Result<()> {
        access::check_visibility(self).await
    }

    async fn check_worker(&self) -> Result<()> {
        access::check_worker(self).await
    }

    async fn plan_migration(&self) -> Result<MigrationPlan> {
        migrate::plan(&self.target).await
    }

    async fn migrate(&self, watch: &ProgressFn) -> Result<MigrationPlan> {
        migrate::migrate(&self.target, watch).await
    }

    async fn plan_inbox(&self) -> Result<MigrationPlan> {
        inbox::plan(&self.target).await
    }

    async fn migrate_inbox(&self) -> Result<MigrationPlan> {
        inbox::migrate(&self.target).await
    }
}

#[async_trait]
impl EventWriter for PostgresStore {
    async fn insert(&self, events: Vec<NewEvent>) -> Result<Vec<OutboxEvent>, PublishError> {
        admin::insert(self, events).await
    }

    async fn insert_each(&self, events: TakeEvents) -> Result<Vec<InsertResult>, NotInserted> {
        admin::insert_each(self, events).await
    }

    async fn refusal(&self, events: Vec<NewEvent>) -> Option<StoreError> {
        refusal::refusal(self, events).await
    }
}

#[async_trait]
impl DispatchStore for PostgresStore {
    fn shards(&self) -> i16 {
        SHARDS
    }

    fn max_concurrent_settles(&self) -> usize {
        self.settling.pool.max_size()
    }

    async fn fetch(&self, request: &FetchRequest) -> Result<FetchResult> {
        fetch::fetch(self, request).await
    }

    async fn blockers(&self, lane: &str, failed_blocks: bool, questions: &[PredecessorQuery]) -> Result<Blockers> {
        fetch::blockers(self, lane, failed_blocks, questions).await
    }

    async fn mark_failed_as_sent(&self, sent: &[(Uuid, i64)]) -> Result<Vec<Settled>> {
        settle::sent_but_failed(self, sent).await
    }

    async fn find_unsettled(&self, lane: &str, sent: &[(Uuid, i64)]) -> Result<Vec<FetchedRow>> {
        fetch::find_unsettled(self, lane, sent).await
    }

    async fn settle_published(&self, events: &[Acceptance], care: Care) -> Result<Vec<SettledEvent>> {
        settle::published(self, events, care).await
    }

    async fn settle_rescheduled(&self, owner: Uuid, events: &[FailureRecord]) -> Result<Vec<SettledEvent>> {
        settle::rescheduled(self, owner, events).await
    }

    async fn route(&self, owner: Uuid, events: &[RoutedEvent]) -> Result<Vec<Settled>> {
        settle::routed(self, owner, events).await
    }

    async fn raise_epoch(&self, owner: Uuid, shard: &Shard, epoch: i64, above: i64) -> Result<bool> {
        settle::raise_epoch(self, owner, shard, epoch, above).await
    }

    async fn due_lanes(&self, lanes: &[(LaneName, Vec<i16>)]) -> Result<DueLanes> {
        fetch::due_lanes(self, lanes).await
    }

    async fn has_due(
        &self,
        lanes: &[LaneName],
        failed_blocks: &[LaneName],
        unrecorded: &UnrecordedEvents,
    ) -> Result<bool> {
        fetch::has_due(self, lanes, failed_blocks, unrecorded).await
    }
}

#[async_trait]
impl HandlerStore for PostgresStore {
    async fn announce(&self, handlers: &[Announcement]) -> Result<()> {
        handlers::announce(self, handlers).await
    }

    async fn see_handlers(&self, names: &[String]) -> Result<()> {
        handlers::see(self, names).await
    }

    async fn drop_handler(&self, name: &str) -> Result<usize> {
        handlers::drop_handler(self, name).await
    }

    async fn fetch_deliveries(&self, request: &DeliveryRequest) -> Result<Vec<FetchedDelivery>> {
        handlers::fetch(self, request).await
    }

    async fn settle_handled(&self, handled: &[HandledDelivery], care: Care) -> Result<Vec<Settled>> {
        handlers::handled(self, handled, care).await
    }

    async fn settle_rejected_deliveries(&self, owner: Uuid, rejected: &[RejectedDelivery]) -> Result<Vec<Settled>> {
        handlers::rejected(self, owner, rejected).await
    }

    async fn has_due_deliveries(&self, handlers: &[String]) -> Result<bool> {
        handlers::has_due(self, handlers).await
    }

    async fn owed_before(&self, lane: &str, keys: &[String]) -> Result<HashMap<String, Vec<String>>> {
        handlers::owed_before(self, lane, keys).await
    }

    async fn owed(&self) -> Result<Vec<OwedHandler>> {
        handlers::owed(self).await
    }
}

#[async_trait]
impl MaintenanceStore for PostgresStore {
    async fn finish_settled(&self) -> Result<usize> {
        handlers::finish_settled(self).await
    }

    async fn repair_missing_seq(&self) -> Result<usize> {
        admin::repair_missing_seq(self).await
    }

    async fn delete_expired(
        &self,
        expiry: RetentionCutoff,
        failed_blocks: &[LaneName],
        after: RetentionCursor,
    ) -> Result<ExpiredBatch> {
        retention::delete_expired(self, expiry, failed_blocks, after).await
    }

    async fn delete_old_audit(&self) -> Result<usize> {
        audit::delete_old(self).await
    }

    async fn delete_handled(&self, kept: Duration) -> Result<usize> {
        inbox::delete_older(self, kept).await
    }

    async fn add_to_history(&self, outcomes: &[(String, OutcomeCounts)]) -> Result<()> {
        history::add(self, outcomes).await
    }
}

#[async_trait]
impl AdminStore for PostgresStore {
    async fn find(&self, id: Uuid) -> Result<Option<OutboxEvent>> {
        admin::find(self, id).await
    }

    fn epoch(&self) -> DateTime<Utc> {
        const YEAR_2000: i64 = 946_684_800;
        DateTime::from_timestamp_secs(YEAR_2000).unwrap_or(DateTime::UNIX_EPOCH)
    }

    async fn scan(&self, filter: &EventFilter, page: Page, most: i64) -> Result<ScanPage> {
        admin::scan(self, filter, page, most).await
    }

    async fn load(&self, ids: &[Uuid]) -> Result<Vec<Result<OutboxEvent, Unreadable>>> {
        admin::load(self, row::COLUMNS, ids).await
    }

    async fn load_without_data(&self, ids: &[Uuid]) -> Result<Vec<Result<OutboxEvent, Unreadable>>> {
        admin::load(self, row::COLUMNS_WITHOUT_DATA, ids).await
    }

    async fn load_checked(&self, ids: &[Uuid]) -> Result<Vec<Result<OutboxEvent, Unreadable>>> {
        // The column's type allows only valid data.
        self.load_without_data(ids).await
    }

    async fn data_part(&self, id: Uuid, from: i32, length: i32) -> Result<Option<DataPart>> {
        data::read(self, id, from, length).await
    }

    async fn change(&self, change: &Action, ids: &[Uuid], note: &AuditNote) -> Result<Vec<Uuid>> {
        change::change(self, change, ids, note).await
    }

    #[cfg(feature = "consumer")]
    async fn record(&self, row: AuditRow) -> Result<()> {
        audit::record(self, row).await
    }

    async fn audit(&self, before: Option<i64>, limit: i64) -> Result<Vec<AuditEntry>> {
        audit::read(self, before, limit).await
    }

    async fn lanes_of(&self, ids: &[Uuid]) -> Result<Vec<(Uuid, String)>> {
        claimed::lanes_of(self, ids).await
    }

    async fn delete(
        &self,
        claim: &LaneClaim,
        statuses: &[Status],
        ids: &[Uuid],
        note: &AuditNote,
    ) -> Result<Option<Vec<Uuid>>> {
        claimed::delete(self, claim, statuses, ids, note).await
    }

    async fn transfer(
        &self,
        claim: &LaneClaim,
        to: &str,
        statuses: &[Status],
        ids: &[Uuid],
        note: &AuditNote,
    ) -> Result<Option<Vec<Uuid>>> {
        claimed::transfer(self, claim, to, statuses, ids, note).await
    }

    async fn pauses(&self) -> Result<Vec<BackendPause>> {
        pauses::read(self).await
    }

    async fn pause(&self, pause: &NewPause, row: Option<AuditRow>) -> Result<bool> {
        pauses::pause(self, pause, row).await
    }

    async fn resume(&self, backend: &str, host: Option<&str>, row: AuditRow) -> Result<bool> {
        pauses::resume(self, backend, host, row).await
    }

    async fn overview(&self, counting: CountMode) -> Result<EventCounts> {
        overview::overview(self, counting).await
    }

    async fn due(&self) -> Result<Vec<Backlog>> {
        overview::due(self).await
    }

    async fn workers(&self) -> Result<Vec<WorkerRow>> {
        overview::workers(self).await
    }

    async fn queue_position(&self, id: Uuid) -> Result<Option<QueuePosition>> {
        queue_position::queue_position(self, id).await
    }

    async fn blocker(&self, lane: &str, failed_blocks: bool, query: PredecessorQuery) -> Result<Option<Blocker>> {
        let blockers = fetch::blockers(self, lane, failed_blocks, std::slice::from_ref(&query)).await?;
        Ok(blockers.get(&query.key).cloned())
    }

    async fn inspect(&self) -> Result<DatabaseFacts> {
        inspection::inspect(self).await
    }

    async fn history(&self, span: Resolution, since: Duration) -> Result<Vec<HistoryBucket>> {
        history::read(self, span, since).await
    }

    async fn sample_waits(&self, query: WaitQuery) -> Result<Vec<Wait>> {
        waits::sample(self, query).await
    }
}

impl Store for PostgresStore {
    fn leases(&self) -> Box<dyn LeaseStore> {
        Box::new(leases::PostgresLeases::new(Arc::clone(&self.target)))
    }

    fn notify_store(&self) -> Option<&dyn NotifyStore> {
        Some(self)
    }

    fn application_target(&self) -> ApplicationTarget {
        ApplicationTarget(ApplicationKind::Postgres(Arc::clone(&self.target)))
    }

    fn unverified_servers(&self) -> Option<String> {
        self.target.unverified()
    }
}
